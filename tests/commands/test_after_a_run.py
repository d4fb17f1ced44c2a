"""`evaluate`, `compare` and `predict` with a run folder or a checkpoint, and what the run knows."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli_tools import SHORT, Warm, assert_refused, assert_succeeded, metrics, write_data

pytest_plugins = ["cli_fixtures"]


@pytest.fixture(scope="module")
def held_out(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that held out two of six images; its data set has no validation split."""
    folder = tmp_path_factory.mktemp("held-out")
    write_data(folder / "data", counts={"train": 6})
    given = ("--dataset", "folder:root=data", "--val-fraction", "0.34", "--seed", "5")
    steps = ("--max-steps", "4", "--eval-every", "2", "--output-dir", "run")
    assert_succeeded(warm(*SHORT[:-6], *given, *steps, cwd=folder))
    return folder


def told(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return content


def test_evaluate_takes_the_data_of_the_run(warm: Warm, held_out: Path) -> None:
    best = metrics(held_out / "run", "eval")
    step = json.loads((held_out / "run/best/segacc.json").read_text())["step"]
    done = assert_succeeded(warm("evaluate", "run", "--num-workers", "0", cwd=held_out))
    lines = done.stdout.splitlines()
    assert lines[0] == (
        f"model run/best, the best one of this run, step {step}; --dataset folder:root=data "
        "--split validation --val-fraction 0.34 --train-split train --seed 5 from run/config.yaml"
    )
    assert lines[-1] == "written to run/best/evaluation"
    scored = told(held_out / "run/best/evaluation")
    assert scored["carved"] == {"val_fraction": 0.34, "train_split": "train", "seed": 5}
    [row] = [row for row in best if row["step"] == step]
    assert scored["scores"]["mean_iou"] == row["mean_iou"]
    for row in best:
        checkpoint = f"run/checkpoints/step-{row['step']:08d}"
        done = assert_succeeded(warm("evaluate", checkpoint, "--num-workers", "0", cwd=held_out))
        assert done.stdout.startswith(f"model {checkpoint}: weights of this checkpoint; --dataset ")
        scored = told(held_out / checkpoint / "evaluation")
        assert scored["scores"]["mean_iou"] == row["mean_iou"]
    done = assert_succeeded(warm("compare", "run", checkpoint, cwd=held_out))
    assert done.stdout.splitlines()[:2] == [
        "A run/best/evaluation",
        f"B {checkpoint}/evaluation",
    ]


@pytest.mark.slow
def test_flags_override_what_the_run_knows(warm: Warm, held_out: Path) -> None:
    out = ("--num-workers", "0", "--output-dir", "out")
    data = "--dataset folder:root=data"
    for flags, line in {
        ("--split", "train[:3]"): f"model run/last; {data} from run/config.yaml",
        ("--split", "val"): f"model run/last; {data} --val-fraction 0.34 --train-split train "
        "--seed 5 from run/config.yaml",
        ("--seed", "7"): f"model run/last; {data} --split validation --val-fraction 0.34 "
        "--train-split train from run/config.yaml",
        ("--dataset", "folder:root=data", "--split", "train"): "protocol whole, stored in run/last",
    }.items():
        done = assert_succeeded(warm("evaluate", "run/last", *flags, *out, cwd=held_out))
        assert done.stdout.splitlines()[0] == line
        if "val" in flags:
            assert told(held_out / "out")["split"] == "validation"


def test_a_missing_split_names_the_fraction_of_the_run(warm: Warm, held_out: Path) -> None:
    given = ("--dataset", "folder:root=data", "--num-workers", "0")
    assert_refused(
        warm("evaluate", "run/last", *given, cwd=held_out),
        '--split: the data set has no split "validation"; it has train. The run of this model held '
        "out its validation split: add --val-fraction 0.34 --seed 5.",
    )


def test_a_model_without_a_run_needs_a_data_set(warm: Warm, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(trained / "last")
    assert_refused(
        warm("evaluate", "model", cwd=tmp_path),
        "--dataset must be given, as in `--dataset folder:root=data/camvid`.",
    )
