"""The events that `train` yields, for progress, metrics.jsonl, trackers, pictures and tests."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segacc.data.pictures import Example
from segacc.evaluation.scores import Scores, Terms


@dataclass(frozen=True, kw_only=True)
class Started:
    """Yielded before the first step."""

    folder: Path
    """The run folder."""
    step: int
    """Optimizer steps already done (above 0 with `--resume`)."""
    max_steps: int
    notes: tuple[str, ...]
    """Lines printed at start-up: device, data, weights."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """Yielded after an optimizer step; the numbers are means since the last logged step."""

    step: int
    epoch: float
    lr: float
    """Learning rate of the first parameter group."""
    seconds: float
    """Wall time of this step."""
    logged: bool
    """True in the first and the last step and every `log_every` steps; only then the numbers below
    are set, over all processes."""
    loss: float = float("nan")
    losses: dict[str, float] = field(default_factory=dict)
    """Each loss term by name."""
    grad_norm: float = float("nan")
    """Gradient norm of the last step, before clipping; may be not finite if it was skipped."""
    images_per_second: float = float("nan")
    data_wait: float = float("nan")
    """Share of the time spent waiting for the data loader, 0..1."""
    valid_pixels: int = 0
    """Number of pixels in the last step's effective batch that are not ignored."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Yielded before the StepDone of a skipped step: its loss or gradient was not finite."""

    step: int
    losses: dict[str, float]
    """Each loss term by name, over all processes."""
    grad_norm: float
    images: tuple[str, ...]
    """Ids of the images in the batch, over all processes."""
    skipped: int
    """Number of steps skipped in this run so far, including this one."""
    allowed: int
    """Number of steps that may be skipped, `tolerate_nonfinite`."""

    def found(self) -> str:
        """Return the loss terms and the gradient norm as text."""
        terms = ", ".join(f"{name} {value:g}" for name, value in self.losses.items())
        return f"the loss ({terms}) or the gradient (norm {self.grad_norm:g}) is not finite"

    def text(self) -> str:
        """Return the event as one line."""
        return (
            f"step {self.step} skipped, {self.skipped} of {self.allowed} allowed: {self.found()}; "
            f"images: {', '.join(self.images)}"
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Yielded when the number of steps was fitted to `--max-time`, and the schedule with it."""

    step: int
    max_steps: int
    """The new number of steps of the whole run."""
    limit: str
    """The value of `--max-time`."""
    used: float
    """Seconds of it used so far."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Yielded after an evaluation of the validation split."""

    step: int
    scores: Scores
    terms: Terms
    """The rules, the images and the weights of the evaluation."""
    seconds: float
    best: bool
    """Whether this is the best so far by `best_by`; with `--ema` only EMA weights can be."""
    examples: tuple[Example, ...] = ()
    """The samples drawn in pictures/, the same at each evaluation; on the main process only."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Yielded after a checkpoint or model folder was written."""

    step: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """Yielded at the end: all steps are done, early stopping, or a signal."""

    step: int
    reason: str
    """`finished`, `early stop: ...` or the signal's name."""
    resume: str | None = None
    """The command that continues the run, if steps are left."""


Event = Started | StepDone | Skipped | Fitted | Evaluated | Saved | Stopped


def finite(value: Any) -> Any:
    """Replace nan and infinities, which JSON does not have, with None, also in nested scores."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
