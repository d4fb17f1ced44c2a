"""train.py, evaluate.py, soak.py and compare.py, with their smallest settings."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark_tools import load, run_benchmark
from launches import ROOT

PICTURES = ROOT.parent / "shared" / "data" / "ade20k_sample"
has_pictures = pytest.mark.skipif(not PICTURES.is_dir(), reason=f"{PICTURES} is not here")


def run(name: str, folder: Path, *args: object, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a benchmark; return what it wrote."""
    output = folder / "result.json"
    done = run_benchmark(name, *args, "--output", output)
    assert done.returncode in codes, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.mark.slow
@has_pictures
def test_training_is_timed_beside_the_tutorial(tmp_path: Path) -> None:
    few = ("--rounds", 1, "--steps", 1, "--side", 64, "--evaluated", 1)
    found = run("train", tmp_path, *few)
    seconds, memory = found["seconds"], found["memory_mb"]
    assert found["ratio"] == seconds["tutorial"] / seconds["segacc"]
    assert found["overhead"] == seconds["segacc"] / seconds["bare"]
    assert found["memory"] == memory["segacc"] / memory["tutorial"]
    assert all(200 < one < 4000 for one in memory.values())  # libraries, and hardly any images


@pytest.mark.slow
@has_pictures
def test_compiled_networks_are_timed_beside_eager_ones() -> None:
    few = ("--rounds", 1, "--steps", 1, "--side", 64, "--backend", "eager")
    done = run_benchmark("train", "--compile", "segformer:variant=tiny", *few)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert [line.split(":variant=tiny, ")[1].split(": ")[0] for line in lines] == [
        *("forward, whole", "forward, blocks", "step, whole", "step, blocks")
    ]
    assert all(re.search(r", eager \d.* s, compiled \d.* s, gain \d", line) for line in lines)


@pytest.mark.slow
@has_pictures
def test_evaluation_is_timed_beside_the_tutorial(tmp_path: Path) -> None:
    small = ("--side", 64, "--steps", 1)
    found = run("evaluate", tmp_path, "--rounds", 1, "--images", 2, "--many", 4, *small)
    speeds, memory = found["images_per_second"], found["memory_mb"]
    assert found["ratio"] == pytest.approx(speeds["segacc"] / speeds["tutorial"])
    assert found["memory"] == found["memory_many_mb"]["segacc"] / memory["segacc"]
    assert all(200 < one < 4000 for one in memory.values())  # libraries, and hardly any images


@pytest.mark.hosts
def test_a_short_soak_is_flat_but_for_memory(tmp_path: Path) -> None:
    """Memory still grows in the first steps, so the exit code may tell so.

    Few looks see some workers begin or end; a file that each process left open at each save would
    be six more.
    """
    short = ("--steps", 60, "--every", 10, "--settled", 20)
    found = run("soak", tmp_path, *short, codes=(0, 1))
    assert [look["step"] for look in found["looks"]][-1] >= 50
    files, threads = (found["compared"][key] for key in ("files", "threads"))
    assert files["after"] < files["before"] + 6 and threads["flat"]


@has_pictures
def test_the_tutorials_scores_are_those_of_the_confusion_matrix() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 150, 8, 8)).astype(np.float32)
    labels = draw.integers(0, 150, (3, 32, 32))
    labels[:, :5] = 255
    given = {"predictions": logits, "label_ids": labels}
    found = load("tutorial").scores(type("Predicted", (), given))
    full = torch.nn.functional.interpolate(torch.from_numpy(logits), size=(32, 32), mode="bilinear")
    valid = labels != 255
    pairs = labels[valid] * 150 + full.argmax(1).numpy()[valid]
    matrix = np.bincount(pairs, minlength=150**2).reshape(150, 150).astype(float)
    both, of_label, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = of_label + said - both
    assert found["mean_iou"] == pytest.approx((both[union > 0] / union[union > 0]).mean())
    seen = of_label > 0
    assert found["mean_accuracy"] == pytest.approx((both[seen] / of_label[seen]).mean())


def test_memory_that_grows_with_the_images_is_told() -> None:
    flat = load("evaluate").flat
    grown = {"memory": 1.2, "memory_mb": {"segacc": 900.0}, "memory_many_mb": {"segacc": 940.0}}
    assert not flat(grown) and flat({})
    assert flat({**grown, "memory_many_mb": {"segacc": 930.0}})


def test_ratios_that_fell_are_told(tmp_path: Path) -> None:
    old = {"ratio": 2.0, "memory": 0.5, "ratios": {"worker": 8.0}, "seconds": {"segacc": 1.0}}
    new = {"ratio": 1.7, "memory": 0.0, "ratios": {"worker": 7.5}, "seconds": {"segacc": 9.0}}
    old["overhead"], new["overhead"] = 0.5, 0.52
    for name, content in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    old_json, new_json = (tmp_path / f"{name}.json" for name in ("old", "new"))
    done = run_benchmark("compare", old_json, new_json)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and len(lines) == 4
    assert [line.split()[-1] for line in lines if line.startswith("WORSE")] == ["ratio"]
    assert run_benchmark("compare", old_json, old_json).returncode == 0
    lines = run_benchmark("compare", new_json, old_json).stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("WORSE")] == ["memory"]
