"""Skips a step or ends a run early: numbers that are not finite, scores that do not improve."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn

from segacc.contracts import MetricState
from segacc.data.batches import Batch
from segacc.errors import NonFiniteError, OptionError
from segacc.evaluation.scores import Scores
from segacc.evaluation.scoring import ScoreKey, Scoring
from segacc.hookspecs import Chosen
from segacc.training import checkpoint
from segacc.training.checkpoint import Progress
from segacc.training.events import Skipped
from segacc.training.plan import EarlyStopOptions, Plan


class Guard:
    """Looks at each step's loss and gradient before the optimizer does.

    A step that is not taken counts as done all the same: the order of the images and the learning
    rate are functions of the step alone, so a resumed run comes by the same way.
    """

    def __init__(
        self,
        allowed: int,
        accelerator: Accelerator,
        network: nn.Module,
        losses: Iterable[str],
        checkpoints: Path,
    ) -> None:
        """Allow so many skipped steps in a run.

        Args:
            allowed: number of steps.
            accelerator: of the run.
            network: the bare network, whose buffers a skipped step leaves alone.
            losses: the names of the loss terms.
            checkpoints: folder of the run's checkpoints.
        """
        self.allowed, self.accelerator, self.network = allowed, accelerator, network
        self.losses, self.checkpoints = tuple(losses), checkpoints
        self.buffers: list[Tensor] = []
        self.overflow = False
        """Whether fp16's gradient scaler passes over the newest step."""

    def keep(self) -> None:
        """Remember the buffers before a step: forward calls change batch norm's statistics."""
        if self.allowed:
            self.buffers = [buffer.clone() for buffer in self.network.buffers()]

    def check(
        self,
        progress: checkpoint.Progress,
        losses: Tensor,
        grad_norm: Tensor | None,
        window: list[Batch],
    ) -> Skipped | None:
        """Tell whether the step must be skipped; all processes get the same answer.

        Under fp16 a gradient that is not finite is the gradient scaler's business, which skips such
        a step by itself and tries a smaller scale; there the losses alone are looked at.

        Args:
            progress: of the run, at the step before; a skipped step is counted there.
            losses: (L,) float, this process's share of each loss term.
            grad_norm: scalar, the same on all processes, before clipping.
            window: this process's micro-batches.

        Returns:
            None for a step that can be taken.

        Raises:
            NonFiniteError: more steps were skipped than are allowed.
        """
        accelerator = self.accelerator
        norm = losses.new_zeros(()) if grad_norm is None else _whole(grad_norm)
        found = torch.stack([losses.isfinite().all(), norm.isfinite()]).logical_not().int()
        loss, gradient = accelerator.reduce(found, "sum").tolist()  # the one wait for the device
        self.overflow = bool(gradient) and accelerator.scaler is not None
        if not loss and (not gradient or self.overflow):
            return None
        progress.skipped += 1
        terms = accelerator.reduce(losses, "sum").tolist()
        ids = gather_object([id for batch in window for id, _, _ in batch.items])
        skipped = Skipped(
            step=progress.step + 1,
            losses=dict(zip(self.losses, terms, strict=True)),
            grad_norm=float(norm),
            images=tuple(dict.fromkeys(ids)),
            skipped=progress.skipped,
            allowed=self.allowed,
        )
        if progress.skipped > self.allowed:
            raise NonFiniteError(self._complaint(skipped))
        self._undo()
        return skipped

    def _undo(self) -> None:
        with torch.no_grad():
            for buffer, before in zip(self.network.buffers(), self.buffers, strict=True):
                buffer.copy_(before)
        scaler: Any = self.accelerator.scaler
        if scaler is not None:
            scaler.update()  # as after a step: it will be asked to unscale again

    def _complaint(self, skipped: Skipped) -> str:
        saved = checkpoint.complete(self.checkpoints)
        before = f"the newest checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
        allowed = f" ({self.allowed} are allowed)" if self.allowed else ""
        return (
            f"step {skipped.step}: {skipped.found()}. Images of that batch: "
            f"{', '.join(skipped.images)}. Look at them, lower --lr, or pass over up to N such "
            f"steps with --tolerate-nonfinite N{allowed}; {before}."
        )


def build_guard(
    plan: Plan, accelerator: Accelerator, network: nn.Module, losses: Iterable[str]
) -> Guard:
    """Build the guard of a run.

    Raises:
        OptionError: DeepSpeed takes the step itself, so none can be skipped.
    """
    allowed = plan.settings.config.tolerate_nonfinite
    if allowed and accelerator.distributed_type == DistributedType.DEEPSPEED:
        where = plan.settings.where("tolerate_nonfinite")
        raise OptionError(f"{where}: not with DeepSpeed, which takes its steps by itself.")
    return Guard(allowed, accelerator, network, losses, plan.folder / "checkpoints")


def _whole(norm: Tensor) -> Tensor:
    """Return the norm as a plain tensor; over shards it is a DTensor."""
    full = getattr(norm, "full_tensor", None)
    return full() if full else norm


class EarlyStop(ScoreKey):
    """Counts the evaluations without a better score; the count is in each checkpoint."""

    def __init__(
        self,
        by: str,
        options: EarlyStopOptions,
        chosen: Sequence[Chosen],
        empty: Mapping[str, MetricState],
        where: str = "--early-stop",
    ) -> None:
        """Check that the metrics give such a score.

        Raises:
            OptionError: they do not.
        """
        super().__init__(by, chosen, empty, where)
        self.options = options

    def note(self, scores: Scores, progress: Progress) -> None:
        """Take over the scores of the present step; a nan is never better."""
        value, was = self.value(scores), self._state(progress)
        if self.better(value, was["best"], self.options.min_delta):
            was = {"by": self.by, "best": value, "step": progress.step, "since": 0}
        else:
            was["since"] += 1
        progress.early_stop = was

    def reason(self, progress: Progress) -> str:
        """Say why the run ends; nothing while it does not."""
        was = self._state(progress)
        if was["since"] < self.options.patience:
            return ""
        best = f" than {was['best']:.4f} of step {was['step']}" if was["step"] else ""
        return (
            f"early stop: {self.by} has not been {'lower' if self.lower else 'higher'}{best} for "
            f"{was['since']} evaluations"
        )

    def _state(self, progress: Progress) -> dict[str, Any]:
        """Return the count; it starts anew for another score."""
        was = progress.early_stop
        fresh = {"by": self.by, "best": None, "step": 0, "since": 0}
        return dict(was) if was.get("by") == self.by else fresh


def build_early_stop(plan: Plan, scoring: Scoring) -> EarlyStop | None:
    """Build what ends the run when a score does not become better, where that was asked for."""
    if plan.early_stop is None:
        return None
    where = plan.settings.where("early_stop")
    return EarlyStop(*plan.early_stop, plan.metric, scoring.metrics(), where)
