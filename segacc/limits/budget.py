"""`--max-time`: the number of steps is fitted to the measured speed, and the schedule with it."""

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from accelerate.utils import broadcast_object_list

from segacc.amounts import seconds
from segacc.defaults import check_warmup
from segacc.events import Fitted
from segacc.optim.optimizers import check_length
from segacc.settings import Settings

if TYPE_CHECKING:
    from segacc.run import Run

FIRST_GUESS = 1000
"""Steps of a run of which nothing was measured yet."""
FIRST_FIT = 4
"""Steps after which the speed is believed; the first one, which warms up, is left out of it."""
KEPT = 100
"""Steps whose mean is the speed."""
SLACK = 1.2
"""Factor on the longest evaluation and checkpoint so far: the next may take longer."""
RESERVE = (3.0, 0.25, 0.02)
"""Left for curves.png and the end of the process: seconds, or a share of what the run took up to
its first step if that is more (a slow machine), and a share of the budget."""

Kind = Literal["step", "evaluation", "checkpoint"]


class Clock:
    """Measures what a run takes; always on, and what `--max-time` is held by.

    Attributes:
        before: seconds that earlier parts of a resumed run took, up to the checkpoint.
        laps: the newest seconds of each kind, of this process.
        steps: taken in this part of the run.
        startup: seconds of this part up to the end of its first step.
        next_fit: the step from which the number of steps is fitted again.
    """

    def __init__(self, started: float) -> None:
        """Count from `started`, in time.monotonic's seconds."""
        self.started, self.before = started, 0.0
        self.last = time.monotonic()
        self.laps: dict[Kind, deque[float]] = {
            "step": deque(maxlen=KEPT),
            "evaluation": deque(maxlen=KEPT),
            "checkpoint": deque(maxlen=KEPT),
        }
        self.steps = self.next_fit = 0
        self.startup = 0.0

    def used(self) -> float:
        """Return the seconds of all parts of the run so far."""
        return self.before + time.monotonic() - self.started

    def lap(self, kind: Kind) -> None:
        """Put the time since the last call down to a kind of work."""
        now = time.monotonic()
        lap, self.last = now - self.last, now
        if kind == "step":
            self.steps += 1
            self.startup = self.startup or now - self.started
            if self.steps == 2:
                self.laps[kind].clear()
        else:
            self.next_fit = 0
        self.laps[kind].append(lap)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that each part of a run takes."""

    step: float
    evaluation: float
    checkpoint: float
    end: float
    """After the last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How often something is done."""

    last: int
    """The step of the newest."""
    every: float
    """Steps, or a share of the run below 1."""

    def times(self, step: int, total: int) -> int:
        """Count how often it is due from `step` to the last of `total` steps, at the most."""
        period = self.every if self.every >= 1 else self.every * total
        return min(total - step, math.ceil((total - self.last) / period))


def needed(total: int, step: int, pace: Pace, evaluation: Rhythm, checkpoint: Rhythm) -> float:
    """Estimate the seconds from `step` to the end of a run of `total` steps."""
    scored, saved = evaluation.times(step, total), checkpoint.times(step, total)
    work = (total - step) * pace.step + scored * pace.evaluation + saved * pace.checkpoint
    return work + pace.end


def fitted(left: float, step: int, pace: Pace, evaluation: Rhythm, checkpoint: Rhythm) -> int:
    """Return the most steps of a whole run that end within `left` seconds from `step`.

    Returns:
        `step` itself where not even one more fits.
    """

    def fits(total: int) -> bool:
        return needed(total, step, pace, evaluation, checkpoint) <= left

    if not fits(step + 1):
        return step
    low, high = step + 1, step + 2
    while fits(high):  # what is needed never falls as steps are added
        low, high = high, step + 2 * (high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def refit(run: "Run") -> Iterator[Fitted]:
    """Fit the number of steps, where that is due: the main process decides for all.

    After some first steps, again after twice as many, after each evaluation and checkpoint, and
    ever more often as the end comes near. Until the speed is known the first guess stays, unless no
    further step fits at all.
    """
    clock, progress = run.clock, run.progress
    limit, step = run.config.max_time, progress.step
    if limit is None or step < clock.next_fit or step >= run.max_steps:
        return
    (total,) = broadcast_object_list([fit(run, seconds(limit))])
    if clock.steps < FIRST_FIT and total > step:
        return
    if clock.steps == FIRST_FIT:
        check_fitted(run, total, limit)
    clock.next_fit = step + max(1, min(clock.steps, (total - step) // 2))
    if total != progress.max_steps:
        progress.max_steps = total
        yield Fitted(step=step, max_steps=total, limit=limit, used=clock.used())


def check_fitted(run: "Run", total: int, limit: str) -> None:
    """Refuse what asks for more steps than the run will have; all processes call it.

    Raises:
        OptionError: so.
    """
    settings = Settings(run.config, run.plan.settings.origins)
    fitted_to = settings.chosen({"max_steps": (total, f"fitted to {limit}")})
    check_length(fitted_to)
    check_warmup(fitted_to, total, f"{total}")


def fit(run: "Run", limit: float) -> int:
    """Fit by what this process has measured."""
    config, progress = run.config, run.progress
    assert config.eval_every and config.save_every
    least, of_startup, of_limit = RESERVE
    reserve = max(least, of_startup * run.clock.startup) + of_limit * limit
    left = limit - reserve - run.clock.used()
    if run.clock.steps == 1:  # what the first step took, which warms up, tells nothing
        return progress.step + (left > 0)
    evaluation = Rhythm(last=progress.evaluated, every=config.eval_every)
    checkpoint = Rhythm(last=progress.saved, every=config.save_every)
    return fitted(left, progress.step, measured(run, limit), evaluation, checkpoint)


def measured(run: "Run", limit: float) -> Pace:
    """Return the pace so far; what was not met yet is guessed from the size of its work.

    An evaluation is taken for training on as many images, a checkpoint for a hundredth of the time.
    """
    laps, config = run.clock.laps, run.config
    step = sum(laps["step"]) / len(laps["step"])
    image = step / (config.batch_size * config.gradient_accumulation_steps)
    share = run.scoring.share()
    guess = 0.1 * limit if share is None else share * image * (2 if run.ema else 1)
    evaluation = SLACK * max(laps["evaluation"], default=guess)
    checkpoint = SLACK * max(laps["checkpoint"], default=0.01 * limit)
    return Pace(step=step, evaluation=evaluation, checkpoint=checkpoint, end=checkpoint)
