"""Skip steps that are not finite (`--tolerate-nonfinite`), and `--early-stop`."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn

from segacc.contracts import MetricState
from segacc.data.items import Batch
from segacc.errors import NonFiniteError, OptionError
from segacc.evaluation.scores import Scores
from segacc.evaluation.scoring import ScoreKey, Scoring
from segacc.hookspecs import Chosen
from segacc.training import checkpoint
from segacc.training.checkpoint import Progress
from segacc.training.events import Skipped
from segacc.training.optim.schedule import Plateau
from segacc.training.plan import EarlyStopOptions, Plan
from segacc.training.processes import whole


@dataclass
class Guard:
    """Checks the loss and the gradient of each step before the optimizer uses them.

    A skipped step still counts as a step: the order of the images and the learning rate depend on
    the step alone, so a resumed run repeats them.
    """

    allowed: int
    """Number of steps that may be skipped in a run."""
    accelerator: Accelerator
    network: nn.Module
    """The unwrapped network, whose buffers are restored when a step is skipped."""
    losses: tuple[str, ...]
    """Names of the loss terms."""
    buffers: dict[str, Tensor] = field(default_factory=dict)
    """The network's buffers before the step, by name."""
    random: list[Any] = field(default_factory=list)
    """The random states before the step: Python's, numpy's, torch's, and that of a CUDA device."""
    overflow: bool = False
    """Whether fp16's gradient scaler skips the newest step."""

    def keep(self) -> None:
        """Copy what a forward pass changes: batch norm statistics and random states."""
        own, device = dict(self.network.named_buffers()), self.accelerator.device
        fit = own.keys() == self.buffers.keys()
        if not fit or any(own[name].shape != one.shape for name, one in self.buffers.items()):
            self.buffers = {name: one.clone() for name, one in own.items()}
        elif own:
            torch._foreach_copy_(
                [*self.buffers.values()], [*own.values()]
            )  # faster than one by one
        self.random = [random.getstate(), np.random.get_state(), torch.get_rng_state()]
        self.random += [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []

    def undo(self) -> None:
        """Restore the state before a step that failed, so that it can be saved or repeated."""
        self._restore()
        python, legacy, cpu, *cuda = self.random
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        for state in cuda:
            torch.cuda.set_rng_state(state, self.accelerator.device)

    def check(
        self,
        progress: checkpoint.Progress,
        losses: Tensor,
        grad_norm: Tensor | None,
        micro_batches: list[Batch],
    ) -> Skipped | None:
        """Return why the step must be skipped, or None; all processes get the same answer.

        With fp16 only the losses are checked: the gradient scaler skips steps whose gradient is not
        finite and lowers its scale.

        Args:
            progress: the progress of the run before this step; counts the skipped steps.
            losses: (L,) float, this process's share of each loss term.
            grad_norm: scalar, the same on all processes, before clipping.
            micro_batches: this process's micro-batches.

        Returns:
            The event of a skipped step; None for a step that can be taken.

        Raises:
            NonFiniteError: more steps were skipped than `tolerate_nonfinite` allows.
        """
        accelerator = self.accelerator
        norm = losses.new_zeros(()) if grad_norm is None else whole(grad_norm)
        found = torch.stack([losses.isfinite().all(), norm.isfinite()]).logical_not().int()
        loss, gradient = accelerator.reduce(found, "sum").tolist()  # waits for the device
        self.overflow = bool(gradient) and accelerator.scaler is not None
        if not loss and (not gradient or self.overflow):
            return None
        progress.skipped += 1
        terms = accelerator.reduce(losses, "sum").tolist()
        ids = gather_object([id for batch in micro_batches for id in batch.ids])
        skipped = Skipped(
            step=progress.step + 1,
            losses=dict(zip(self.losses, terms, strict=True)),
            grad_norm=float(norm),
            images=tuple(dict.fromkeys(ids)),
            skipped=progress.skipped,
            allowed=self.allowed,
        )
        if progress.skipped > self.allowed:
            progress.skipped -= 1  # the step is not done: a resumed run repeats it
            self.undo()
            raise NonFiniteError(self._complaint(skipped))
        self._restore()
        scaler: Any = self.accelerator.scaler
        if scaler is not None:
            scaler.update()  # as after a step, since the next step unscales again
        return skipped

    def _restore(self) -> None:
        with torch.no_grad():
            for name, one in self.network.named_buffers():
                if name in self.buffers and self.buffers[name].shape == one.shape:  # else a cache
                    one.copy_(self.buffers[name])

    def _complaint(self, skipped: Skipped) -> str:
        allowed = f" ({self.allowed} are allowed)" if self.allowed else ""
        return (
            f"step {skipped.step}: {skipped.found()}. Images of that batch: "
            f"{', '.join(skipped.images)}. Check these images, lower --lr, or skip up to N such "
            f"steps with --tolerate-nonfinite N{allowed}."
        )


def build_guard(
    plan: Plan, accelerator: Accelerator, network: nn.Module, losses: Iterable[str]
) -> Guard:
    """Build the guard of a run.

    Raises:
        OptionError: `--tolerate-nonfinite` with DeepSpeed, which takes the step itself.
    """
    allowed = plan.settings.config.tolerate_nonfinite
    if allowed and accelerator.distributed_type == DistributedType.DEEPSPEED:
        where = plan.settings.where("tolerate_nonfinite")
        raise OptionError(
            f"{where}: not supported with DeepSpeed, which takes optimizer steps itself; leave it "
            "out."
        )
    return Guard(allowed, accelerator, network, tuple(losses))


class EarlyStop(ScoreKey):
    """Counts the evaluations without a better score; the count is saved in checkpoints."""

    slot = "early_stop"
    """Where Progress keeps the state."""

    def __init__(
        self,
        by: str,
        options: EarlyStopOptions | Plateau,
        chosen: Sequence[Chosen],
        empty: Mapping[str, MetricState],
        where: str = "--early-stop",
    ) -> None:
        """Check that the metrics give the score `by`.

        Raises:
            OptionError: they do not.
        """
        super().__init__(by, chosen, empty, where)
        self.options = options

    def note(self, scores: Scores, progress: Progress) -> None:
        """Record the scores of the current step; nan is never better."""
        value, was = self.value(scores), self._state(progress)
        if self.better(value, was["best"], self.options.min_delta):
            was = {"by": self.by, "best": value, "step": progress.step, "since": 0}
        else:
            was["since"] += 1
        setattr(progress, self.slot, was)

    def reason(self, progress: Progress) -> str:
        """Return why the run ends; an empty string while it does not."""
        was = self._state(progress)
        if was["since"] < self.options.patience:
            return ""
        best = f" than {was['best']:.4f} at step {was['step']}" if was["step"] else ""
        return (
            f"early stop: {self.by} has not been {'lower' if self.lower else 'higher'}{best} for "
            f"{was['since']} evaluations"
        )

    def _state(self, progress: Progress) -> dict[str, Any]:
        """Return the count; it restarts if the score is another one."""
        was = getattr(progress, self.slot)
        fresh = {"by": self.by, "best": None, "step": 0, "since": 0}
        return dict(was) if was.get("by") == self.by else fresh


class PlateauWatch(EarlyStop):
    """Counts the evaluations without a better score, and how often they were too many."""

    slot = "plateau"

    def note(self, scores: Scores, progress: Progress) -> None:
        """Record the scores of the current step; count a reduction once patience is over."""
        super().note(scores, progress)
        if progress.plateau["since"] >= self.options.patience:
            progress.plateau["since"] = 0
            progress.reductions += 1


def build_plateau(plan: Plan, scoring: Scoring, by: str) -> PlateauWatch | None:
    """Build what counts for the schedule `plateau`, if it is the run's.

    Args:
        plan: the run.
        scoring: its evaluation.
        by: the score that chooses the best weights.
    """
    if not isinstance(plan.schedule, Plateau):
        return None
    where = plan.settings.where("best_by")
    return PlateauWatch(by, plan.schedule, plan.metric, scoring.metrics(), where)


def build_early_stop(plan: Plan, scoring: Scoring) -> EarlyStop | None:
    """Build the early stopping of a run, if `--early-stop` is given."""
    if plan.early_stop is None:
        return None
    where = plan.settings.where("early_stop")
    return EarlyStop(*plan.early_stop, plan.metric, scoring.metrics(), where)
