"""--eval-every epoch and --save-every epoch: once per pass over the training split."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from run_tools import build
from segacc.errors import OptionError
from segacc.loop import train
from segacc.settings.sources import Layer, merge
from segacc.training.defaults import choose_settings
from segacc.training.events import Evaluated, Saved
from segacc.training.run import Run


def due(run: Run, steps: int) -> list[int]:
    """The steps after which an evaluation is due, if each is made."""
    found = []
    for step in range(steps + 1):
        run.progress.step = step
        if run.evaluation_due():
            found.append(step)
            run.progress.evaluated = step
    return found


def test_it_is_after_each_pass_even_if_that_is_no_whole_number_of_steps(tmp_path: Path) -> None:
    given: dict[str, Any] = {"train_split": "train[:7]", "eval_every": "epoch"}
    run = build(tmp_path, **given, epochs=10)  # 3.5 steps of 2 images
    assert run.max_steps == 35
    assert due(run, 35) == [4, 7, 11, 14, 18, 21, 25, 28, 32, 35]
    assert (run.config.eval_every, run.config.save_every) == ("epoch", "epoch")
    few = build(tmp_path / "few", **{**given, "train_split": "train[:1]"}, max_steps=3)
    assert due(few, 3) == [1, 2, 3]  # two passes in each step
    timed = build(tmp_path / "timed", **given, max_time="9m")
    assert due(timed, 35) == [4, 7, 11, 14, 18, 21, 25, 28, 32, 35]


def test_a_run_is_scored_and_saved_once_per_epoch(tmp_path: Path) -> None:
    given = {"train_split": "train[:5]", "max_steps": 8, "keep": 9}
    run = build(tmp_path, **given, eval_every="epoch", save_every="epoch")
    events = list(train(run))
    assert [one.step for one in events if isinstance(one, Evaluated)] == [3, 5, 8]
    saved = [one for one in events if isinstance(one, Saved) and one.folder.name[:5] == "step-"]
    assert [one.step for one in saved] == [3, 5, 8]
    text = (run.folder / "config.yaml").read_text()
    assert yaml.safe_load(text)["eval_every"] == "epoch"
    run.lock.release()
    more = build(tmp_path, resume=str(run.folder), max_steps=10)
    assert [one.step for one in train(more) if isinstance(one, Evaluated)] == [10]


@pytest.mark.parametrize("length", [{"max_steps": 5}, {"max_time": "5m"}])
@pytest.mark.parametrize("key", ["eval_every", "save_every"])
def test_a_stream_of_unknown_length_has_no_epochs(key: str, length: dict[str, Any]) -> None:
    settings = merge([Layer({key: "epoch", **length}, "command line")])
    with pytest.raises(OptionError) as error:
        choose_settings(settings, False, ((64, 64), ""), None, 1)
    assert str(error.value) == (
        f"--{key.replace('_', '-')}: epoch: the number of samples in this stream is not known. "
        "Give a number of steps, a fraction of the run such as 0.2, or num_samples=N as an option "
        "of the data set."
    )
    assert choose_settings(settings, False, ((64, 64), ""), 9, 1).config.eval_every
