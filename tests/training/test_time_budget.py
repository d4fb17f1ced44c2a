"""--max-time: the number of steps that fits, by definition and in real runs."""

import math
import random
import time
from pathlib import Path

import pytest

from cli_tools import Warm, assert_succeeded
from launches import rows
from run_tools import build
from segacc.loop import train
from segacc.settings.units import period_of
from segacc.training.events import Evaluated, StepDone
from segacc.training.limits.budget import Clock, Pace, Rhythm, fitted, needed
from segacc.training.optim.schedule import lr_factor, parse_schedule

pytest_plugins = ["cli_fixtures"]


def walked(total: int, step: int, pace: Pace, evaluation: Rhythm, checkpoint: Rhythm) -> float:
    """Add up the seconds step by step, as a run of `total` steps does its work."""
    seconds, newest = pace.end, [evaluation.last, checkpoint.last]
    while step < total:
        step += 1
        seconds += pace.step
        for place, (rhythm, cost) in enumerate(
            ((evaluation, pace.evaluation), (checkpoint, pace.checkpoint))
        ):
            if step >= newest[place] + period_of(rhythm.every, total) or step == total:
                newest[place] = step
                seconds += cost
    return seconds


def drawn(number: int) -> tuple[float, int, Pace, Rhythm, Rhythm]:
    draw = random.Random(number)
    step = draw.randrange(60)
    pace = Pace(
        step=draw.choice((0.1, 0.5, 1.0)),
        evaluation=draw.choice((0.0, 1.0, 7.0)),
        checkpoint=draw.choice((0.0, 0.5)),
        end=draw.choice((0.0, 2.0)),
    )
    rhythms = [
        Rhythm(
            last=draw.randint(max(0, step - 5), step), every=draw.choice((0.05, 0.2, 0.5, 6, 40))
        )
        for _ in range(2)
    ]
    return draw.uniform(-1, 90), step, pace, rhythms[0], rhythms[1]


@pytest.mark.parametrize("number", range(0, 400, 4))
def test_what_is_fitted_ends_in_time_and_one_more_step_would_not(number: int) -> None:
    for one in range(number, number + 4):
        left, step, *rest = drawn(one)
        total = fitted(left, step, *rest)
        if total == step:
            assert needed(step + 1, step, *rest) > left
            continue
        assert walked(total, step, *rest) <= left + 1e-9
        assert needed(total + 1, step, *rest) > left
        if all(rhythm.every >= 1 for rhythm in rest[1:]):  # then the estimate is the walk itself
            assert needed(total, step, *rest) == pytest.approx(walked(total, step, *rest))
            assert walked(total + 1, step, *rest) > left


def test_an_estimate_is_never_below_the_walk() -> None:
    for number in range(300):
        _, step, *rest = drawn(number)
        for total in range(step + 1, step + 70, 9):
            assert walked(total, step, *rest) <= needed(total, step, *rest) + 1e-9


def test_laps_leave_out_the_first_step_and_ask_for_a_new_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(90.0)
    clock.before = 7.0
    for spent in (5.0, 1.0, 2.0):
        now[0] += spent
        clock.lap("step")
    assert list(clock.laps["step"]) == [1.0, 2.0] and clock.steps == 3
    assert clock.startup == 10 + 5
    assert clock.used() == 7 + 10 + 8
    clock.next_fit = 50
    now[0] += 3
    clock.lap("evaluation")
    assert clock.next_fit == 0 and list(clock.laps["evaluation"]) == [3.0]
    now[0] += 4
    clock.lap("step")
    assert list(clock.laps["step"]) == [1.0, 2.0, 4.0]


def test_an_evaluation_before_the_first_step_is_no_part_of_it(tmp_path: Path) -> None:
    """A run that was stopped within an evaluation begins with it."""
    run = build(tmp_path, max_steps=5, eval_every=2, batch_size=1)
    run.progress.step, spent = 2, 1.0  # as its checkpoint says
    events = train(run)
    while not isinstance(next(events), Evaluated):
        pass
    time.sleep(spent)
    step = next(one for one in events if isinstance(one, StepDone))
    assert step.step == 3 and step.seconds < spent
    assert run.clock.startup < run.clock.used() - spent
    assert run.clock.laps["evaluation"][0] > spent and not run.clock.laps["step"]


BUDGET = 20
FLAGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--aug", "flip", "--lr", "1e-3"),
    *("--crop-size", "48x64", "--batch-size", "2", "--num-workers", "0", "--log-every", "1"),
    *("--num-pictures", "0", "--max-time", f"{BUDGET}s"),
)


@pytest.mark.slow
def test_a_run_uses_its_time_and_ends_in_it(warm: Warm, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_succeeded(warm("--version", cwd=tmp_path))  # from now on it has imported torch
    began = time.monotonic()
    done = warm(*FLAGS, "--dataset", f"folder:root={data}", "--output-dir", run, cwd=tmp_path)
    took, output = time.monotonic() - began, assert_succeeded(done).stdout
    assert 0.6 * BUDGET < took <= BUDGET, output[-3000:]

    fits, steps = rows(run, "fitted"), rows(run, "train")
    total = fits[-1]["max_steps"]
    assert f"finished at step {total}/{total}" in output
    assert f"--max-time {BUDGET}s: assuming 1000 steps until the speed is known" in output
    assert f"steps fit in {BUDGET}s (0:" in output
    assert [row["step"] for row in steps] == list(range(1, total + 1))
    # the schedule follows: each step's learning rate is that of the total that stood then
    decay, stands = parse_schedule("poly", ""), 1000
    for row in steps:
        step = row["step"] - 1
        stands = next((f["max_steps"] for f in fits[::-1] if f["step"] <= step), 1000)
        factor = lr_factor(decay, step, stands, warmup=math.floor(0.05 * stands), head=True)
        assert row["lr"] == pytest.approx(1e-3 * factor)
    assert steps[-1]["lr"] < 2e-4
    evaluated = [row["step"] for row in rows(run, "eval")]
    assert 3 <= len(evaluated) <= 8 and evaluated[-1] == total
    written = (run / "config.yaml").read_text()
    line = next(line for line in written.splitlines() if line.startswith("max_time"))
    assert line.split() == [
        *("max_time:", f"{BUDGET}s", "#", "--max-time;", "fitted:", str(total), "steps")
    ]

    again = assert_succeeded(warm("--resume", run, cwd=tmp_path))
    assert again.stdout == (
        f"{run.resolve()}: this run is finished at step {total}; nothing is done. To continue it, "
        "give --max-time TIME, the time of the whole run.\n"
    )
    assert rows(run, "train") == steps
    refused = warm("--resume", run, "--max-time", "3s", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("segacc: --max-time: 3s: the run has already used 0:")
    more = assert_succeeded(warm("--resume", run, "--max-steps", total + 2, cwd=tmp_path))
    assert f"finished at step {total + 2}/{total + 2}" in more.stdout


def test_epochs_steps_and_time_exclude_each_other(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = ("--max-time", "9m", "--dataset", f"folder:root={data}")
    refused = warm(*given, "--max-steps", "2", cwd=tmp_path)
    text = "segacc: --max-steps and --max-time exclude each other; give one.\n"
    assert refused.stderr == text
