"""A second run in one process is what it would be in a process of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli_tools import Warm, assert_succeeded, metrics
from segacc import TrainConfig, evaluate, train

pytest_plugins = ["cli_fixtures"]

SMALL: dict[str, Any] = {
    **{"arch": "segformer:variant=tiny,drop_path=0.2", "weights": "none", "aug": ["flip"]},
    **{"crop_size": "48x64", "batch_size": 2, "num_workers": 0, "num_pictures": 0},
    **{"max_steps": 4, "log_every": 1},
}
SCRIPT = """
import json, sys
from segacc import TrainConfig, evaluate, train
from segacc.__main__ import end_with
from segacc.errors import SegaccError

def main():
    last, *runs = json.loads(sys.argv[1])
    try:
        for one in runs:
            for event in train(TrainConfig(**one)):
                if getattr(event, "step", 0) == last:
                    break
    except SegaccError as error:
        print(error)
    return 0

end_with(main)
"""


def losses(run: Path) -> list[tuple[float, float]]:
    return [(row["loss"], row["grad_norm"]) for row in metrics(run, "train")]


def flags(given: dict[str, Any]) -> list[str]:
    words = {key: value[0] if key == "aug" else value for key, value in given.items()}
    return [word for key, one in words.items() for word in (f"--{key.replace('_', '-')}", str(one))]


@pytest.mark.slow
@pytest.mark.parametrize("ended", [True, False])
def test_its_precision_and_all_else_are_its_own(
    data: Path, warm: Warm, tmp_path: Path, ended: bool
) -> None:
    small = {**SMALL, "dataset": f"folder:root={data}"}
    assert_succeeded(warm(*flags(small), "--output-dir", tmp_path / "fresh", cwd=tmp_path))
    first = {"mixed_precision": "bf16", "gradient_accumulation_steps": 2, "seed": 7}
    given = TrainConfig(**small, **first, output_dir=tmp_path / "first")
    for event in train(given):
        if not ended and getattr(event, "step", 0) == 2:
            break
    started, *_ = train(TrainConfig(**small, output_dir=tmp_path / "second"))
    assert any("precision float32, total batch size 2 " in note for note in started.notes)
    assert "JPEG and PNG files are decoded by torchcodec" in started.notes
    assert losses(tmp_path / "second") == losses(tmp_path / "fresh") != losses(tmp_path / "first")
    for asked, told in (("bf16", "bf16"), (None, "no")):
        found = evaluate(tmp_path / "second", mixed_precision=asked, num_workers=0)
        assert found.report["precision"] == told


def on_two(warm: Warm, folder: Path, last: int, *runs: dict[str, Any]) -> str:
    """Train runs one after the other in the same two processes, each until its step `last`."""
    given = json.dumps([last, *runs])
    return assert_succeeded(warm.code(SCRIPT, given, cwd=folder, processes=2)).stdout


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_that_are_still_together(data: Path, warm: Warm, tmp_path: Path) -> None:
    small = {**SMALL, "dataset": f"folder:root={data}"}
    second, fresh = ({**small, "output_dir": str(tmp_path / name)} for name in ("second", "fresh"))
    first = {**small, "output_dir": str(tmp_path / "first"), "mixed_precision": "bf16"}
    on_two(warm, tmp_path, 2, first, second)
    on_two(warm, tmp_path, 2, fresh)
    assert losses(tmp_path / "second") == losses(tmp_path / "fresh") != losses(tmp_path / "first")


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_that_have_parted_are_refused(data: Path, warm: Warm, tmp_path: Path) -> None:
    small = {**SMALL, "dataset": f"folder:root={data}", "max_steps": 1}
    runs = [{**small, "output_dir": str(tmp_path / name)} for name in ("first", "second")]
    assert on_two(warm, tmp_path, -1, *runs).splitlines() == 2 * [
        "accelerate launch: the process group of these processes has ended with an earlier run. "
        "Launch each run on several processes separately; a single process can train several runs "
        "in a row."
    ]
    assert not (tmp_path / "second").exists()
