"""A resumed run must mean the same as its checkpoint; what changes its numbers is told."""

import gc
import json
import os
from pathlib import Path

import pytest

from cli_tools import write_data
from run_tools import build
from segacc.errors import OptionError
from segacc.loop import save_checkpoint, train
from segacc.training.checkpoint import seal
from segacc.training.run import Run
from segacc.training.tracking.identity import NUMBERS, SPLIT, numbers_changed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Train two steps; return the run folder, beside its data set."""
    data = write_data(tmp_path / "data")
    started = build(tmp_path, dataset=f"folder:root={data}", max_steps=2)
    list(train(started))
    started.lock.release()
    return tmp_path / "run"


def resumed(run: Path, **settings: object) -> Run:
    """Resume the run for one more step; nothing is trained."""
    gc.collect()  # a run that was refused keeps its lock until then
    again = build(run.parent, resume=str(run), **{"max_steps": 3, **settings})
    again.lock.release()
    return again


def edited(run: Path, old: str, new: str) -> None:
    path = run / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refusal(run: Path, **settings: object) -> str:
    with pytest.raises(OptionError) as error:
        resumed(run, **settings)
    return str(error.value)


def test_nothing_is_told_if_nothing_changed(run: Path) -> None:
    names = {
        *NUMBERS,
        *SPLIT,
        "threads",
        "segacc",
        "torch",
        "file_times",
        "file_sizes",
        "architecture",
    }
    notes = [note for note in resumed(run).notes if " was " in note]
    assert not [note for note in notes if note.split()[0] in names]


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_other_content_of_a_file_is_refused_unless_wanted(run: Path, kind: str) -> None:
    path = run.parent / "data" / kind / "train" / "train1.png"
    path.write_bytes(path.read_bytes() + b"\0")
    told = refusal(run)
    assert told.startswith(
        f"--resume {run}: the settings differ from those of the checkpoint: file_sizes was "
    )
    assert told.endswith(
        "If they were changed on purpose, add --resume-anyway; the run then goes on with weights "
        "that were trained with the former ones."
    )
    notes = resumed(run, resume_anyway=True).notes
    assert any(note.startswith("--resume-anyway: file_sizes was ") for note in notes)
    assert "resume_anyway" not in (run / "config.yaml").read_text()


def test_another_network_is_refused_as_such(run: Path) -> None:
    edited(run, "dropout=0", "dropout=0.5")
    assert "architecture was {'name': 'segformer', " in refusal(run)


def test_the_seed_is_refused_whatever_is_wanted(run: Path) -> None:
    edited(run, "seed: 0 ", "seed: 1 ")
    told = refusal(run, resume_anyway=True)
    assert "seed was 0, now 1" in told and "--resume-anyway" not in told


def test_what_changes_the_numbers_is_told_in_a_line_each(run: Path) -> None:
    path = run.parent / "data" / "images" / "train" / "train1.png"
    os.utime(path, (1, 1))
    checkpoint = run / "checkpoints" / "step-00000002"
    stored = json.loads((checkpoint / "progress.json").read_text())
    stored["numbers"] |= {"torch": "2.0", "plugin segacc-old": "1.0", "compile": True}
    (checkpoint / "progress.json").write_text(json.dumps(stored))
    seal(checkpoint)
    notes = resumed(run, loss="lovasz", lr=0.5, aug="flip").notes
    told = {note.split()[0]: note for note in notes}
    assert told["loss"] == "loss was ['cross_entropy'], now ['lovasz']"
    assert told["lr"].endswith(", now 0.5")
    assert told["aug"].endswith(", now ['flip']")
    assert told["torch"].startswith("torch was 2.0, now ")
    assert told["compile"] == "compile was True, now False"
    assert told["plugin"] == "plugin segacc-old was 1.0, now None"
    assert told["file_times"].startswith("file_times was ")


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"schedule": "plateau:gamma=0.5"}, "5.0e-03 in step 2 to 5.0e-03 in step 3"),
        ({"freeze": "encoder", "unfreeze_after": 3}, "0.0e+00 in step 2 to 0.0e+00 in step 3"),
    ],
)
def test_a_longer_run_tells_the_rate_with_which_it_goes_on(
    tmp_path: Path, settings: dict[str, object], rates: str
) -> None:
    """Also once `plateau` has lowered it, and while the first group is still frozen."""
    begun = build(tmp_path, max_steps=4, warmup_steps=0, lr=0.01, **settings)
    begun.progress.step, begun.progress.reductions = 1, 1
    begun.begin_step()
    begun.progress.step = 2
    save_checkpoint(begun)
    begun.lock.release()
    again = resumed(tmp_path / "run", max_steps=9)
    (told,) = (note for note in again.notes if note.startswith("the run had 4 steps"))
    assert told.endswith(f"the learning rate goes from {rates}")
    again.begin_step()
    assert f"to {again.optimizer.param_groups[0]['lr']:.1e} in step 3" in told


def test_the_precision_of_a_launcher_and_another_split_of_a_step_are_told(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    notes = resumed(run, batch_size=1, gradient_accumulation_steps=2).notes
    assert "mixed_precision was no, now bf16" in notes
    why = (
        "the micro-batches are others, which changes what batch norm and dropout do in a step; "
        "without them, sums are rounded otherwise"
    )
    assert f"batch_size was 2, now 1; gradient_accumulation_steps was 1, now 2: {why}" in notes
    (told,) = numbers_changed({"processes": 2}, {"compile": False, "processes": 1})
    assert told == f"processes was 2, now 1: {why}"
    now = {"mixed_precision": "no", "threads": 1, "compile": False, **dict.fromkeys(SPLIT, 1)}
    assert numbers_changed({"mixed_precision": None, "threads": None}, now) == [], "older versions"
