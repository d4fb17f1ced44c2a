"""What `train` yields; progress, metrics.jsonl, trackers, pictures and tests consume it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.data.pictures import Example
from segacc.evaluation.scores import Scores, Terms

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Started:
    """Before the first step: what is about to be done."""

    folder: Path
    """The run folder."""
    step: int
    """Optimizer steps already done (more than 0 after `resume`)."""
    max_steps: int
    notes: tuple[str, ...]
    """Lines worth reading once: device, data, weights."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """After an optimizer step. The numbers are means over the steps since the last logged one."""

    step: int
    epoch: float
    lr: float
    """Learning rate of the first parameter group."""
    seconds: float
    """Wall time of this step."""
    logged: bool
    """True each `log_every` steps: then the numbers below are filled, summed over all processes."""
    loss: float = float("nan")
    losses: dict[str, float] = field(default_factory=dict)
    """Each term by name."""
    grad_norm: float = float("nan")
    """Of the last step, before clipping; not finite where that was skipped for it."""
    images_per_second: float = float("nan")
    data_wait: float = float("nan")
    """Share of the time spent waiting for the data loader, 0..1."""
    valid_pixels: int = 0
    """Pixels of the last step's effective batch that are not ignored."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Before the StepDone of a step that was not taken: loss or gradient were not finite."""

    step: int
    losses: dict[str, float]
    """Each term by name, over all processes."""
    grad_norm: float
    images: tuple[str, ...]
    """Ids of the images in the batch, of all processes."""
    skipped: int
    """Steps of this run that were skipped so far, this one too."""
    allowed: int
    """How many may be."""

    def found(self) -> str:
        """Tell the numbers that are not finite."""
        terms = ", ".join(f"{name} {value:g}" for name, value in self.losses.items())
        return f"the loss ({terms}) or the gradient (norm {self.grad_norm:g}) is not finite"

    def text(self) -> str:
        """Tell it in one line."""
        return (
            f"step {self.step} skipped, {self.skipped} of {self.allowed} allowed: {self.found()}; "
            f"images: {', '.join(self.images)}"
        )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The number of steps was fitted to `--max-time`, and the schedule with it."""

    step: int
    max_steps: int
    """Of the whole run, from now on."""
    limit: str
    """The time that was given, as it was typed."""
    used: float
    """Seconds of it so far."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """After an evaluation of the validation split."""

    step: int
    scores: Scores
    terms: Terms
    """What they were taken by, and on."""
    seconds: float
    best: bool
    """True when this is the best so far by `best_by`; of two kinds of weights EMA's are judged."""
    examples: tuple[Example, ...] = ()
    """The fixed set; on the main process only."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """After a folder was written."""

    step: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The end: all steps done, an early stop, or a signal asked for it."""

    step: int
    reason: str
    """`finished`, `early stop: ...` or the signal's name."""
    resume: str | None = None
    """The command that goes on, when steps are left."""


Event = Started | StepDone | Skipped | Fitted | Evaluated | Saved | Stopped


def finite(value: Any) -> Any:
    """Replace nan and infinities, which JSON does not know, by None, in nested scores too."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
