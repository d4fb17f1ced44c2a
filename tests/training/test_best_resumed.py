"""best/ and later checkpoints of a run that is resumed from an earlier state."""

import json
from pathlib import Path
from typing import Any

import pytest

from launches import rows
from run_tools import build
from segacc.loop import train
from segacc.training.checkpoint import complete, read
from segacc.training.events import Saved
from segacc.training.run import Run
from segacc.training.tracking.record import Recorder, record

STEPS: dict[str, Any] = {"max_steps": 6, "eval_every": 1, "lr": 0.05, "warmup_steps": 0, "keep": 9}
BEST = [1, 3, 4, 5, 6]
"""The steps that are the best so far; by `val_loss`, since the mean IoU is the same for all."""


def go(folder: Path, *, killed: int = 0, **settings: Any) -> Run:
    """Train in `folder`/run, or resume it; as if killed after best/ of a step was written."""
    run = build(folder, **settings)
    recorder = Recorder(folder=run.folder, names=(), palette=(), best_by="val_loss")
    for event in record(recorder, train(run)):
        if isinstance(event, Saved) and (event.folder.name, event.step) == ("best", killed):
            break
    run.lock.release()
    return run


def begin(folder: Path, **more: Any) -> Run:
    return go(folder, best_by="val_loss", **STEPS, **more)


def scores(run: Path) -> list[tuple[int, float, bool]]:
    return [(row["step"], row["val_loss"], row["best"]) for row in rows(run, "eval")]


def step_of(folder: Path) -> int:
    step: int = json.loads((folder / "segacc.json").read_text())["step"]
    return step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train without a break."""
    run = begin(tmp_path_factory.mktemp("whole"), save_every=6).folder
    assert [step for step, _, best in scores(run) if best] == BEST, "not what this is about"
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("save_every", "killed"), [(2, 3), (4, 5)])
def test_a_killed_run_goes_on_to_the_same_best(
    whole: Path, tmp_path: Path, save_every: int, killed: int
) -> None:
    """Its best before the checkpoint is lost (step 1), or is that of the checkpoint (step 4)."""
    folder = begin(tmp_path, save_every=save_every, killed=killed).folder
    run = build(tmp_path, resume="auto", output_dir=folder)
    assert f"best/ is from the later step {killed} and was renamed to best-step-0" in "".join(
        run.notes
    )
    assert (folder / "best").is_dir() == (save_every == 4)
    if save_every == 4:
        assert step_of(folder / "best") == run.progress.best_step == 4
    run.lock.release()
    done = go(tmp_path, resume=str(folder))  # killed before its first step
    assert scores(folder) == scores(whole)
    kept = [(one / "best" / "model.safetensors").read_bytes() for one in (folder, whole)]
    assert kept[0] == kept[1] and done.progress.best_step == step_of(folder / "best") == 6
    assert not list(folder.glob("best-step-*")), "best/ was made again, bit for bit"


@pytest.mark.slow
def test_with_other_settings_best_is_one_of_the_run_that_goes_on(tmp_path: Path) -> None:
    folder = begin(tmp_path, save_every=2, killed=3).folder
    given_up = (folder / "best" / "model.safetensors").read_bytes()
    run = go(tmp_path, resume=str(folder), lr=1e-12)
    best = [step for step, _, best in scores(folder) if best]
    assert best[:2] == [1, 3] and run.progress.best_step == step_of(folder / "best") == best[-1]
    assert min(score for _, score, _ in scores(folder)[1:]) > scores(folder)[0][1]
    (aside,) = folder.glob("best-step-*")
    assert (
        (aside / "model.safetensors").read_bytes()
        == given_up
        != (folder / "best" / "model.safetensors").read_bytes()
    )


@pytest.mark.slow
def test_later_checkpoints_are_kept_until_there_is_a_new_one(whole: Path, tmp_path: Path) -> None:
    folder = begin(tmp_path, save_every=2).folder
    place = folder / "checkpoints"
    run = build(tmp_path, resume=str(place / "step-00000002"), output_dir=folder, save_every=3)
    told = (
        "the later checkpoints step-00000004, step-00000006 are renamed to "
        f"{place}/later-step-N, which can be resumed too, and are deleted once this run has saved "
        "a checkpoint"
    )
    assert told in run.notes
    run.lock.release()
    later = [f"later-step-0000000{step}" for step in (4, 6)]
    assert sorted(one.name for one in place.iterdir()) == [*later, "step-00000002"]
    again = build(tmp_path, resume="auto", output_dir=folder)
    assert again.progress.step == 2 and told not in again.notes
    again.lock.release()
    back = build(tmp_path, resume=str(place / later[1]), output_dir=folder, max_steps=7)
    assert (back.progress.step, back.progress.best_step) == (6, 6)
    assert step_of(folder / "best") == 6, "that of this checkpoint has its name again"
    back.lock.release()
    done = go(tmp_path, resume=str(place / "step-00000002"), output_dir=folder, max_steps=6)
    assert [one.name[-1] for one in complete(place)] == ["2", "3", "6"]
    assert not list(place.glob("later-*")) and read(complete(place)[-1]).best_step == 6
    assert scores(folder) == scores(whole) and done.progress.step == 6
