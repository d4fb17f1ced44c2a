"""`--max-time`: fit the number of steps, and with it the schedule, to the measured speed."""

import math
import time
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Literal

FIRST_GUESS = 1000
"""Number of steps assumed for `--max-time` until the speed is known."""
FIRST_FIT = 4
"""Number of steps after which the speed is known; the first, slower one is not measured."""
KEPT = 100
"""Number of newest steps over which the speed is averaged."""
SLACK = 1.2
"""Factor on the longest evaluation and checkpoint so far, as the next may take longer."""
RESERVE = (3.0, 0.25, 0.02)
"""Time reserved for curves.png and the end of the process: the larger of some seconds and a share
of the start-up time (for slow machines), plus a share of the time limit."""

Kind = Literal["start", "step", "evaluation", "checkpoint"]


class Clock:
    """Measures the time of a run, for `--max-time`.

    Attributes:
        before: seconds used before this resumed run's checkpoint.
        laps: the newest durations of each kind of work on this process, in seconds; the first
            step, which is slower, belongs to the start.
        steps: number of steps since the start or the last resume.
        next_fit: the step at which the number of steps is fitted next.
    """

    def __init__(self, started: float) -> None:
        """Start at `started`, a value of time.monotonic, in seconds."""
        self.started, self.before = started, 0.0
        self.last = time.monotonic()
        self.laps: dict[Kind, deque[float]] = {
            "start": deque([self.last - started]),
            "step": deque(maxlen=KEPT),
            "evaluation": deque(maxlen=KEPT),
            "checkpoint": deque(maxlen=KEPT),
        }
        self.steps = self.next_fit = 0

    @property
    def startup(self) -> float:
        """Seconds from the start or the last resume to the end of the first step.

        Without an evaluation in between, with which a resumed run may begin.
        """
        return sum(self.laps["start"])

    def used(self) -> float:
        """Return the seconds used so far, including those before the run was resumed."""
        return self.before + time.monotonic() - self.started

    def lap(self, kind: Kind) -> None:
        """Record the time since the last call as the duration of a kind of work."""
        now = time.monotonic()
        lap, self.last = now - self.last, now
        if kind == "step":
            self.steps += 1
            kind = "start" if self.steps == 1 else kind
        elif kind != "start":
            self.next_fit = 0
        self.laps[kind].append(lap)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Measured or estimated seconds of each kind of work."""

    step: float
    evaluation: float
    checkpoint: float
    end: float
    """Time after the last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How often evaluations or checkpoints are made."""

    last: int
    """The step of the newest one."""
    every: float
    """The period in steps; below 1, as a share of the run."""

    def times(self, step: int, total: int) -> int:
        """Return how often it is due, at most, from `step` to the last of `total` steps."""
        period = self.every if self.every >= 1 else self.every * total
        return min(total - step, math.ceil((total - self.last) / period))


def needed(total: int, step: int, pace: Pace, evaluation: Rhythm, checkpoint: Rhythm) -> float:
    """Estimate the seconds from `step` to the end of a run of `total` steps."""
    scored, saved = evaluation.times(step, total), checkpoint.times(step, total)
    work = (total - step) * pace.step + scored * pace.evaluation + saved * pace.checkpoint
    return work + pace.end


def fitted(left: float, step: int, pace: Pace, evaluation: Rhythm, checkpoint: Rhythm) -> int:
    """Return the largest total number of steps that fits in the `left` seconds after `step`.

    Returns:
        The number of steps; `step` itself if not even one more fits.
    """

    def seconds(total: int) -> float:
        return needed(total, step, pace, evaluation, checkpoint)

    most = step + math.ceil(max(0.0, left) / pace.step)  # with no evaluation or checkpoint
    totals = range(step + 1, most + 2)  # the time needed never decreases with the number of steps
    return step + bisect_right(totals, left, key=seconds)
