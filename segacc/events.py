"""What `train` yields; progress, metrics.jsonl, trackers, pictures and tests consume it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.terms import Terms

if TYPE_CHECKING:
    from torch import Tensor

Scores = dict[str, float | dict[str, float]]


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
    images_per_second: float = float("nan")
    data_wait: float = float("nan")
    """Share of the time spent waiting for the data loader, 0..1."""
    valid_pixels: int = 0
    """Pixels of the last step's effective batch that are not ignored."""


@dataclass(frozen=True)
class Example:
    """One validation picture of the fixed set, for pictures/step-N.png."""

    id: str
    image: "Tensor"
    """(C, H, W) uint8."""
    label: "Tensor"
    """(H, W) uint8, 255 ignored."""
    prediction: "Tensor"
    """(H, W) uint8."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """After an evaluation of the validation split."""

    step: int
    scores: Scores
    terms: Terms
    """What they were taken by, and on."""
    seconds: float
    best: bool
    """True when this is the best so far by `best_by`."""
    examples: tuple[Example, ...] = ()
    """The fixed set; on the main process only."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """After a folder was written."""

    step: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The end: all steps done, or a signal asked for it."""

    step: int
    reason: str
    """`finished` or the signal's name."""
    resume: str | None = None
    """The command that goes on, when steps are left."""


Event = Started | StepDone | Evaluated | Saved | Stopped


def finite(value: Any) -> Any:
    """Replace nan and infinities, which JSON does not know, by None, in nested scores too."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
