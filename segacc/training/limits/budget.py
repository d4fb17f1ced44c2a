"""`--max-time`: the number of steps is fitted to the measured speed, and the schedule with it."""

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

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
