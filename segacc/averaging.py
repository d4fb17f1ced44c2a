"""Which weights are scored and saved: those that are trained, or their moving average."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from segacc.errors import OptionError
from segacc.evaluation.scores import Weights
from segacc.evaluation.scoring import SHARDED
from segacc.optim.ema import Ema
from segacc.plan import Plan

if TYPE_CHECKING:
    from segacc.run import Run


def kinds(run: "Run") -> tuple[Weights, ...]:
    """List the kinds of weights that are scored; the last is judged, and saved as best and last."""
    return ("raw", "ema") if run.ema else ("raw",)


def build_ema(plan: Plan, model: Any, accelerator: Accelerator) -> Ema | None:
    """Start the moving average of the weights, where that was asked for.

    Raises:
        OptionError: the weights are kept in a way that it cannot follow.
    """
    decay, kind = plan.settings.config.ema, accelerator.distributed_type
    if decay is None:
        return None
    if kind in SHARDED and not accelerator.is_fsdp2:
        where = plan.settings.where("ema")
        raise OptionError(f"{where}: not with {kind.value}; of sharded networks with FSDP2's only.")
    return Ema(model, decay)


@contextmanager
def using(run: "Run", weights: Weights) -> Iterator[None]:
    """Let the network have these weights inside the block, the same on all processes."""
    run.scoring.weights = weights
    with run.ema.in_place_of(run.model) if run.ema and weights == "ema" else nullcontext():
        if run.accelerator.num_processes > 1:
            for buffer in run.network.buffers():  # batch norm's statistics: the main process's
                torch.distributed.broadcast(buffer, 0)
        yield


def average(run: "Run") -> None:
    """Take over the weights of an optimizer step into the average, if there is one.

    A step that fp16's gradient scaler skipped is none; a fused optimizer does not tell accelerate
    of those, which `guard.overflow` knows.
    """
    skipped = run.accelerator.optimizer_step_was_skipped or run.guard.overflow
    if run.ema and not skipped:
        run.ema.update(run.model)
