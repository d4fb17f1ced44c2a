"""The benchmarks run: each with its smallest settings, in a process of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark_tools import load, run_benchmark
from launches import ROOT
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.plan import make_plan


@pytest.mark.hosts
def test_the_demo_is_held_to_its_figures() -> None:
    """A minute of imports; `make demo` itself is run in tests/pages."""
    small = ["--max-steps", "1", "--crop-size", "32", "--batch-size", "2", "--num-workers", "0"]
    small += ["--eval-split", "validation[:4]", "--num-pictures", "0"]
    done = run_benchmark("demo", *small, "--weights", "none")
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[-2:])
    assert 0 < float(told["mean_iou"].split()[0]) < 0.8, done.stderr[-4000:]
    assert done.returncode == 1  # one step does not reach it


def test_the_camvid_page_is_written_from_its_results(tmp_path: Path) -> None:
    camvid = load("camvid")
    camvid.RESULTS, camvid.PAGE = tmp_path, tmp_path / "results.md"
    camvid.PAGE.write_text(f"before\n{camvid.MARK}\nold\n{camvid.MARK}\nafter\n")
    result = {
        **{"minutes": 15.0, "seconds": 870, "threads": 2, "steps": 9, "command": "segacc ..."},
        "scores": {"mean_iou": 0.25, "per_category_iou": {"Sky": 0.5, "Pole": 0.0}},
        "versions": {"torch": "1.2"},
    }
    for start in ("random", "imagenet"):
        path = tmp_path / f"camvid-{start}-15.json"
        path.write_text(json.dumps({**result, "start": start}))
    assert camvid.report() == 0 == camvid.report()
    assert camvid.PAGE.read_text().splitlines() == [
        *("before", camvid.MARK, ""),
        "| start | N | minutes | steps | mean_iou | Sky | Pole | torch |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        "| imagenet | 15 | 14.5 | 9 | 0.250 | 0.500 | 0.000 | 1.2 |",
        "| random | 15 | 14.5 | 9 | 0.250 | 0.500 | 0.000 | 1.2 |",
        "",
        "2 threads. The command of each row is in `benchmarks/results`; that of the highest score:",
        *("", "    OMP_NUM_THREADS=2 segacc ..."),
        *("", camvid.MARK, "after"),
    ]


def test_the_camvid_recipe_is_one_that_segacc_plans(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    camvid = load("camvid")
    for start in camvid.STARTS:
        given = camvid.flags(start)
        pairs = [(given[k], given[k + 1]) for k in range(len(given) - 1) if given[k][:2] == "--"]
        values: dict[str, Any] = {"channels_last": True, "output_dir": tmp_path / "run"}
        for flag, value in pairs:
            key = flag[2:].replace("-", "_")
            many = key in ("aug", "loss")
            values[key] = [*values.get(key, []), value] if many else value
        plan = make_plan([Layer(values, "command line")], load_registry())
        if start in camvid.OWN:  # the network's own losses take the place of the default
            assert "loss" not in plan.settings.origins
            assert len(json.loads((ROOT / plan.settings.config.class_weights).read_text())) == 11
        else:
            assert [one.name for one in plan.loss] == ["cross_entropy", "dice"]
            assert len(plan.loss[0].options.class_weights) == 11


@pytest.mark.slow
def test_kernels_are_compared_with_plain_torch(tmp_path: Path) -> None:
    result = tmp_path / "arithmetic.json"
    small = ("--size", 64, "--classes", 19, "--rounds", 1, "--threads", 1)
    done = run_benchmark("arithmetic", *small, "--output", result)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(result.read_text())["kernels"]
    assert len(found) == len(done.stdout.splitlines()) == 9
    assert all(one["ratio"] > 0 for one in found.values())
    assert all(found[f"{name}, 19 classes"]["plain_mb"] > 0 for name in ("loss", "dice", "ohem"))


@pytest.mark.hosts
def test_a_killed_run_is_resumed_to_the_same_end(tmp_path: Path) -> None:
    result = tmp_path / "kill.json"
    short = ("--moments", 1, "--steps", 24, "--seed", 4)
    done = run_benchmark("kill", *short, "--output", result)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = json.loads(result.read_text())
    (moment,) = found["moments"]
    assert found["equal"] == 1
    assert 8 <= moment["step"] < 24 and moment["killed"] >= 3


@pytest.mark.slow
def test_mutated_files_and_random_settings_are_read_or_named(tmp_path: Path) -> None:
    result = tmp_path / "fuzz.json"
    few = ("--files", 100, "--settings", 50, "--seed", 1)
    done = run_benchmark("fuzz", *few, "--output", result)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads(result.read_text())
    assert found["failures"] == []
    assert sum(found["files"].values()) == 100 and found["files"]["read"] > 5
    assert sum(found["settings"].values()) == 50 and found["settings"]["named"] > 10
