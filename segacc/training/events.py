"""The events that `train` yields, for progress, metrics.jsonl, trackers, pictures and tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from segacc.data.pictures import Example
from segacc.errors import count_of
from segacc.evaluation.scores import Scores, Terms


@dataclass(frozen=True, kw_only=True, repr=False)
class Brief:
    """Base of the events: a dataclass whose text is short, as an event is printed in a loop."""

    def __repr__(self) -> str:
        """Return the fields that have a value, with rounded numbers and without pictures."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.repr}
        told = (f"{name}={brief(value)}" for name, value in values.items() if _known(value))
        return f"{type(self).__name__}({', '.join(told)})"


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, Mapping | tuple) and not value)


def brief(value: Any) -> str:
    """Return a field's value as text; scores of each class are only counted."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        many = {key: isinstance(one, Mapping) for key, one in value.items()}
        told = (
            f"{key!r}: " + (f"<{len(one)} classes>" if many[key] else brief(one))
            for key, one in value.items()
        )
        return f"{{{', '.join(told)}}}"
    if isinstance(value, Terms):
        return repr(value.short())
    return repr(str(value) if isinstance(value, Path) else value)


@dataclass(frozen=True, kw_only=True, repr=False)
class Started(Brief):
    """Yielded before the first step."""

    folder: Path
    """The run folder."""
    step: int
    """Optimizer steps already done (above 0 with `--resume`)."""
    evaluated: int | None = None
    """The step of the newest evaluation that the checkpoint has, with `--resume`."""
    max_steps: int
    notes: tuple[str, ...] = field(repr=False)
    """Lines printed at start-up: device, data, weights."""


@dataclass(frozen=True, kw_only=True, repr=False)
class StepDone(Brief):
    """Yielded after an optimizer step; the numbers are means since the last logged step."""

    step: int
    epoch: float
    lr: float
    """Learning rate of the first parameter group."""
    seconds: float
    """Wall time of this step."""
    logged: bool
    """True in the first and the last step and every `log_every` steps; only then the numbers below
    are set, over all processes, and None otherwise."""
    loss: float | None = None
    """nan if all steps since the last logged one were skipped."""
    losses: dict[str, float] = field(default_factory=dict)
    """Each loss term by name."""
    grad_norm: float | None = None
    """Gradient norm of the last step, before clipping; may be not finite if it was skipped."""
    images_per_second: float | None = None
    data_wait: float | None = None
    """Share of the time spent waiting for the data loader, 0..1."""
    valid_pixels: int | None = None
    """Number of pixels in the last step's effective batch that are not ignored."""
    peak_memory: int | None = None
    """Most memory so far, in bytes, of the process that needs most: on a GPU that of all tensors at
    once, else that of the process."""
    mfu: float | None = None
    """Share of the GPU's peak arithmetic that the network's products and convolutions use, 0..1;
    None on a CPU, and if the peak or the number of operations is not known."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Skipped(Brief):
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Halved(Brief):
    """Yielded before the StepDone of a step that was repeated in smaller micro-batches.

    The memory was full on a process. All processes have repeated the step, and go on like this.
    """

    step: int
    before: int
    """Images per process and micro-batch at which the memory was full, at most."""
    images: int
    """Images per process and micro-batch from now on, at most."""
    accumulation: int
    """Micro-batches per step from now on."""

    def text(self) -> str:
        """Return the event as one line."""
        return (
            f"step {self.step}: out of memory with micro-batches of "
            f"{count_of(self.before, 'image')}; repeated with {self.images}, in "
            f"{self.accumulation} accumulation steps, as are all further steps. The total batch "
            "size stays; beyond rounding, numbers differ from those of the uncut step only by "
            "batch norm, dropout and other random draws"
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Fitted(Brief):
    """Yielded when the number of steps was fitted to `--max-time`, and the schedule with it."""

    step: int
    max_steps: int
    """The new number of steps of the whole run."""
    limit: str
    """The value of `--max-time`."""
    used: float
    """Seconds of it used so far."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluated(Brief):
    """Yielded after an evaluation of the validation split."""

    step: int
    scores: Scores
    terms: Terms
    """The rules, the images and the weights of the evaluation."""
    seconds: float
    best: bool
    """Whether this is the best so far by `best_by`; with `--ema` only EMA weights can be."""
    examples: tuple[Example, ...] = field(default=(), repr=False)
    """The samples drawn in pictures/, the same at each evaluation; on the main process only."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Saved(Brief):
    """Yielded after a checkpoint or model folder was written."""

    step: int
    folder: Path


@dataclass(frozen=True, kw_only=True, repr=False)
class Stopped(Brief):
    """Yielded at the end: all steps are done, early stopping, or a signal."""

    step: int
    reason: str
    """`finished`, `early stop: ...` or the signal's name."""
    resume: str | None = None
    """The command that continues the run, if steps are left."""


Event = Started | StepDone | Skipped | Halved | Fitted | Evaluated | Saved | Stopped
