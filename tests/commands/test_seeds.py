"""`train --seeds`: runs that differ in their seed, their spread, and comparisons of such groups."""

import json
import re
import shutil
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_tools import Warm, assert_refused, assert_succeeded, metrics
from segacc.commands.evaluate.seeds import is_own, without_own
from segacc.settings.sources import merge, read_yaml

pytest_plugins = ["cli_fixtures"]

RUN = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--lr", "0.03", "--aug", "flip"),
    *("--crop-size", "48x64", "--batch-size", "4", "--num-workers", "0", "--log-every", "1"),
    *("--max-steps", "40", "--eval-every", "20", "--num-pictures", "0"),
)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics(run, "train")]


@pytest.fixture(scope="module")
def group(warm: Warm, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train seeds 5 and 6; return the folder and what was printed."""
    folder = tmp_path_factory.mktemp("seeds")
    given = ("--dataset", f"folder:root={data}", "--seeds", 2, "--seed", 5)
    done = warm("train", *RUN, *given, "--output-dir", "group", cwd=folder)
    return folder, assert_succeeded(done).stdout


def test_each_run_is_that_of_its_seed_alone(
    warm: Warm, data: Path, group: tuple[Path, str]
) -> None:
    folder, _ = group
    given = ("--dataset", f"folder:root={data}", "--seed", 6, "--output-dir", "alone")
    assert_succeeded(warm("train", *RUN, *given, cwd=folder))
    assert losses(folder / "alone") == losses(folder / "group/seed-6")
    assert losses(folder / "group/seed-5") != losses(folder / "group/seed-6")


def test_the_spread_is_that_of_the_evaluations(group: tuple[Path, str]) -> None:
    folder, printed = group
    found = json.loads((folder / "group/seeds.json").read_text())
    sides = [
        json.loads((folder / f"group/seed-{seed}/best/evaluation/evaluation.json").read_text())
        for seed in (5, 6)
    ]
    assert [run["seed"] for run in found["runs"]] == [5, 6]
    assert [run["intervals"] for run in found["runs"]] == [side["intervals"] for side in sides]
    scores = [side["scores"]["mean_iou"] for side in sides]
    mean, deviation = statistics.mean(scores), statistics.stdev(scores)
    assert deviation > 0
    wanted = {"mean": mean, "std": deviation, "min": min(scores), "max": max(scores)}
    assert found["mean_iou"] == pytest.approx(wanted, abs=1e-12)
    for name, spread in found["per_category_iou"].items():
        each = [side["scores"]["per_category_iou"][name] for side in sides]
        assert spread["mean"] == pytest.approx(statistics.mean(each), abs=1e-12)
    trained = [metrics(folder / f"group/seed-{seed}", "eval") for seed in (5, 6)]
    best = [max(rows, key=lambda row: row["mean_iou"]) for rows in trained]
    assert [row["mean_iou"] for row in best] == pytest.approx(scores, abs=1e-9)
    assert [run["best_step"] for run in found["runs"]] == [row["step"] for row in best]

    low, high = found["intervals"]["mean_iou"]
    assert found["intervals"]["num_runs"] == [2] and low < mean < high
    lines = printed.splitlines()[-7:]
    for line, side, seed in zip(lines[1:3], sides, (5, 6), strict=True):
        ends = " to ".join(f"{end:.4f}" for end in side["intervals"]["mean_iou"])
        start = f"seed {seed} {side['scores']['mean_iou']:.4f} {ends} "
        assert " ".join(line.split()).startswith(start)
    assert lines[3] == (
        f"mean_iou of 2 runs: mean {mean:.4f}, standard deviation {deviation:.4f}, range "
        f"{min(scores):.4f} to {max(scores):.4f}"
    )
    assert lines[4] == f"95 % interval of the mean of mean_iou: {low:.4f} to {high:.4f}"
    assert lines[6] == "written to group/seeds.json"


@pytest.mark.slow
def test_an_evaluation_of_another_split_is_kept_and_is_not_the_score_of_a_seed(
    warm: Warm, group: tuple[Path, str]
) -> None:
    other = shutil.copytree(group[0] / "group", group[0] / "evaluated")
    first, second = (other / f"seed-{seed}/best/evaluation" for seed in (5, 6))
    assert_succeeded(warm("evaluate", other / "seed-5", "--split", "train[:3]", cwd=group[0]))
    shutil.rmtree(second)
    shutil.copytree(first, second)
    before = {path: path.read_bytes() for path in first.iterdir() if path.is_file()}
    (other / "seeds.json").unlink()
    assert_succeeded(warm("train", "--seeds", 2, "--output-dir", "evaluated", cwd=group[0]))
    found, wanted = ((at / "seeds.json").read_text() for at in (other, group[0] / "group"))
    assert json.loads(found) == json.loads(wanted)
    assert {path: path.read_bytes() for path in first.iterdir() if path.is_file()} == before
    assert json.loads((first / "seeds/evaluation.json").read_text())["split"] == "validation"


def test_only_an_evaluation_by_the_rules_of_the_run_is_its_score(
    group: tuple[Path, str], tmp_path: Path
) -> None:
    run = group[0] / "group/seed-5"
    stored = merge([read_yaml(run / "config.yaml")]).config
    best = tmp_path / "best"
    shutil.copytree(run / "best/evaluation", best / "evaluation")
    shutil.copy(run / "best/segacc.json", best)
    told = json.loads((best / "evaluation/evaluation.json").read_text())
    for changes, own in (
        ({}, True),
        ({"split": "test"}, False),
        ({"dataset": "folder:root=elsewhere"}, False),
        ({"carved": {"val_fraction": 0.2, "train_split": "train", "seed": 0}}, False),
        ({"protocol": "slide:crop=32,stride=16"}, False),
        ({"num_images": 2}, False),
        ({"precision": "bf16"}, False),
        ({"scores": {"boundary_iou": 0.5}}, False),
    ):
        (best / "evaluation/evaluation.json").write_text(json.dumps({**told, **changes}))
        assert is_own(best / "evaluation", stored) is own, changes
    assert not is_own(best, stored)  # which has none
    (best / "evaluation/evaluation.json").write_text(json.dumps({**told, "split": "validation"}))
    assert is_own(best / "evaluation", replace(stored, eval_split="val"))


@pytest.mark.slow
def test_started_again_it_goes_on_with_what_is_missing(warm: Warm, group: tuple[Path, str]) -> None:
    folder, _ = group
    other = shutil.copytree(folder / "group", folder / "again")
    newest = other / "seed-6/checkpoints/step-00000040"
    shutil.rmtree(newest)  # as if it had been stopped at step 20
    shutil.rmtree(other / "seed-6/last")
    (other / "seeds.json").unlink()
    before = (other / "seed-5/metrics.jsonl").stat().st_mtime_ns
    done = assert_succeeded(warm("train", "--seeds", 3, "--output-dir", "again", cwd=folder))
    assert "again/seed-5: this run is finished at step 40; nothing is done." in done.stdout
    assert (other / "seed-5/metrics.jsonl").stat().st_mtime_ns == before
    assert losses(other / "seed-6") == losses(folder / "group/seed-6")
    assert len(json.loads((other / "seeds.json").read_text())["runs"]) == 3

    config = (other / "seed-7/config.yaml").read_text()
    was = (other / "seed-6/config.yaml").read_text()
    plain = [re.sub(" *#.*", "", text).splitlines() for text in (config, was)]
    assert {one for one in plain[0] if one not in plain[1]} == {"seed: 7"}

    done = assert_succeeded(warm("compare", "group", "again", cwd=folder))
    assert "runs 2 and 3" in done.stdout.splitlines()[-2]
    found = json.loads((folder / "comparison/compare.json").read_text())
    for side, runs in (("a", 2), ("b", 3)):
        each = list(found["runs"][side].values())
        assert len(each) == runs
        assert found["mean_iou"][side] == pytest.approx(np.mean(each), abs=1e-11)

    done = assert_succeeded(warm("report", "group", cwd=folder))
    assert "2 runs written to report.html" in done.stdout


def test_the_runs_of_a_group_differ_in_their_seed_only(warm: Warm, group: tuple[Path, str]) -> None:
    folder, _ = group
    for typed, text in {
        ("--seeds", "3", "--lr", "0.1"): "--lr: 0.1: the runs in group were started with 0.03, and "
        "differ in their seed only. Leave it out, or choose another --output-dir.",
        ("--seeds", "1"): "--seeds: group has runs of other seeds, too (6). Give --seed 5 --seeds "
        "2, or choose another --output-dir.",
        ("--seeds", "2", "--seed", "6"): "--seeds: group has runs of other seeds, too (5). Give "
        "--seed 5 --seeds 3, or choose another --output-dir.",
    }.items():
        assert_refused(warm("train", *typed, "--output-dir", "group", cwd=folder), text)


def test_a_signal_stops_all_and_tells_how_to_go_on(warm: Warm, data: Path, tmp_path: Path) -> None:
    endless = [*RUN]
    endless[endless.index("--max-steps") + 1] = "100000"
    given = ("--dataset", f"folder:root={data}", "--seeds", "2", "--overwrite")
    started = warm.start("train", *endless, *given, "--output-dir", "a b", cwd=tmp_path)
    while not (tmp_path / "a b/seed-0/checkpoints/step-00000020").is_dir():
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "a b/seed-1").exists()
    words = f"--dataset folder:root={data} --seeds 2 --seed 0 --output-dir 'a b'"
    last = output.splitlines()[-1]
    assert last.startswith("`segacc train --arch segformer:variant=tiny --weights none ")
    assert last.endswith(f"{words}` goes on with all seeds") and "--overwrite" not in last


REFUSED = {
    ("--seeds", "0"): "--seeds: expected an integer > 0; found '0'.",
    ("--dry-run",): "--seeds: --dry-run builds a single run; leave one of them out.",
    ("--push-to-hub", "a/b"): "--push-to-hub: the runs of --seeds would overwrite each other; "
    "leave it out and upload one of them with `segacc push`.",
    ("--resume", "runs/a"): "--resume: runs/a: with --seeds, the runs in --output-dir are "
    "continued without it; leave it out.",
    ("--val-fraction", "0.25"): "--val-fraction: 0.25 of train is drawn with the seed, so each of "
    "the --seeds would be scored on other images. Give a fixed part: --train-split 'train[:75%]' "
    "--eval-split 'train[75%:]'.",
    ("--output-dir", "mine"): "--output-dir: mine is a run folder; --seeds needs the folder of a "
    "group, in which it makes one for each seed. Choose another one.",
}


@pytest.mark.parametrize("typed", REFUSED, ids=" ".join)
def test_what_does_not_go_with_several_seeds(
    warm: Warm, tmp_path: Path, typed: tuple[str, ...]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").touch()
    given = ("--dataset", "nuclei", *(() if "--seeds" in typed else ("--seeds", "3")))
    assert_refused(warm("train", *RUN, *given, *typed, cwd=tmp_path), REFUSED[typed])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_launcher_of_several_processes_is_told_what_to_do(warm: Warm, tmp_path: Path) -> None:
    rank: Any = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    done = warm("train", *RUN, "--dataset", "nuclei", "--seeds", 3, cwd=tmp_path, **rank)
    assert_refused(
        done,
        "--seeds: a launcher has started 2 processes, which train a single run. Use `segacc train "
        "--processes 2 --seeds 3 ...`, or launch each run by itself with --seed 0 --output-dir "
        "DIR/seed-0 and so on; `segacc compare` and `segacc report` then take DIR.",
    )


def test_flags_of_a_single_run_are_left_out() -> None:
    given = "--lr 1 --seeds=3 --resume --seed 4 --no-overwrite --ema --output-dir a/b --resume auto"
    assert without_own(given.split()) == ["--lr", "1", "--ema"]


@pytest.mark.slow
def test_each_seed_on_several_processes(
    warm: Warm, data: Path, group: tuple[Path, str], tmp_path: Path
) -> None:
    given = ("--dataset", f"folder:root={data}", "--seeds", "2", "--seed", "5")
    half = [*RUN]
    half[half.index("--batch-size") + 1] = "2"
    many = ("--processes", "2", "--output-dir", "group")
    done = warm("train", *half, *given, *many, cwd=tmp_path, ACCELERATE_USE_CPU="true")
    assert_succeeded(done)
    for seed in (5, 6):
        one, other = (losses(at / f"group/seed-{seed}") for at in (tmp_path, group[0]))
        assert len(one) == len(other)
        assert one[0] == pytest.approx(other[0], rel=2e-3)  # batch norm is of each process
        told = (tmp_path / f"group/seed-{seed}/environment.json").read_text()
        [start] = json.loads(told)
        assert start["devices"] == ["cpu", "cpu"]
    assert json.loads((tmp_path / "group/seeds.json").read_text())["mean_iou"]["std"] > 0
