"""If the memory is full in a step, repeat the step with micro-batches of half the size.

A step's losses are sums over all its images, so its gradient does not depend on how they are cut,
except through batch norm and random draws. All processes repeat the step, so they must agree on it:
one number per step is summed over the processes, after the backward passes.

Wherever a process fails, the others wait for its part of the gradient: their last backward pass
ends once DistributedDataParallel has reduced all of it. So a process that failed gives it zeros in
place of what is missing. To agree before that backward pass would not help one that fails in it,
and to reduce the gradient only after it would cost the overlap of computing and communication. FSDP
and DeepSpeed communicate within the forward pass, as does synchronized batch norm; a process that
failed could not keep up with the others, so their runs end.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from accelerate.utils.memory import clear_device_cache
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from segacc.data.items import Batch
from segacc.errors import FullMemoryError, count_of, is_memory_full
from segacc.evaluation.memory import memory_returned
from segacc.training.events import Halved
from segacc.training.feed import on_any
from segacc.training.run import Run

LESS = (
    "Training needs less memory with --mixed-precision bf16 or --gradient-checkpointing, which a "
    "resumed run can use too, with a smaller --crop-size, or with a smaller network."
)

ONEDNN = (
    "Once oneDNN, torch's library for CPUs, has found no memory, its new kernels fail in that "
    "process at any size. Start again, or --resume, with a smaller --batch-size and more "
    "--gradient-accumulation-steps."
)


class Attempt:
    """One attempt at the passes of a step: a context manager that takes note of full memory.

    Iterating over it yields the micro-batches.

    Attributes:
        parts: the micro-batches.
        images: images per micro-batch, at most.
        first: the same in the first attempt at this step.
        reason: the error if the memory was full; otherwise empty.
    """

    def __init__(self, run: Run, parts: list[Batch], first: int = 0) -> None:
        """Prepare an attempt."""
        self.run, self.parts, self.reason = run, parts, ""
        self.images = max(len(one.labels) for one in parts)
        self.first = first or self.images
        self.reducing = reducing(run.model)
        self._before: list[int | None] = []

    @property
    def share(self) -> int:
        """Factor that undoes accelerate's averaging over processes and micro-batches."""
        processes: int = self.run.accelerator.num_processes
        return processes * len(self.parts)

    @property
    def halved(self) -> Halved | None:
        """The event of a step that was repeated; None for the first attempt."""
        step, count = self.run.progress.step + 1, len(self.parts)
        event = Halved(step=step, before=self.first, images=self.images, accumulation=count)
        return event if self.images < self.first else None

    def __iter__(self) -> Iterator[Batch]:
        """Yield the micro-batches."""
        for number, batch in enumerate(self.parts, 1):
            if number == len(self.parts):  # its backward pass reduces the gradient
                self._before = self._given()
            yield batch

    def __enter__(self) -> "Attempt":
        """Begin: accelerate counts the micro-batches from 0."""
        accelerator = self.run.accelerator
        accelerator.step, accelerator.gradient_accumulation_steps = 0, len(self.parts)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Return whether the memory was full and the step can be repeated.

        Raises:
            FullMemoryError: the memory was full and the step cannot be repeated.
        """
        if error is None or not (is_memory_full(error) or isinstance(error.__cause__, MemoryError)):
            return False
        self.reason = f"{' '.join(str(error).split()).rstrip('.')}."
        if others := self._in_passes():
            raise FullMemoryError(
                f"step {self.run.progress.step + 1}: {self.reason} A step with {others} cannot be "
                "repeated with smaller micro-batches, since its forward pass needs all processes. "
                f"Use a smaller --batch-size with more --gradient-accumulation-steps. {LESS}"
            ) from error
        return True

    def _in_passes(self) -> str:
        """Return what makes processes communicate within the passes, other than the reduction."""
        run = self.run
        if run.config.sync_batchnorm and run.accelerator.num_processes > 1:
            return "--sync-batchnorm"
        alone = run.accelerator.distributed_type == DistributedType.NO
        return "" if alone or self.reducing else str(run.accelerator.distributed_type.value)

    def _given(self) -> list[int | None]:
        """Return how often each gradient has changed, which tells whether a pass has reached it."""
        grads = [one.grad for one in self._trained()] if self.reducing else []
        return [None if grad is None else grad._version for grad in grads]

    def _trained(self) -> list[Tensor]:
        """Return the parameters with a gradient; to ask the modules for them would take longer."""
        return [one for group in self.run.optimizer.param_groups for one in group["params"]]

    def settle(self) -> list[str]:
        """End the attempt; all processes must call it.

        Returns:
            The error of each process, empty for one whose memory sufficed; an empty list if it
            sufficed on all of them.
        """
        if self.reason:
            clear_device_cache(garbage_collection=True)
            with memory_returned():  # the kernels' compiled code is outside of the heap
                if self.reducing:
                    self._join(self.reducing)
        if not any(on_any(self.run.accelerator, bool(self.reason))):
            return []
        found: list[str] = gather_object([self.reason])
        return found

    def _join(self, model: DistributedDataParallel) -> None:
        """Take part in the reduction of the gradient, with zeros for what was not computed."""
        parameters, given = self._trained(), self._given()
        before = self._before or given
        left = [one for one, was, now in zip(parameters, before, given, strict=True) if was == now]
        if len(left) == len(parameters):  # the last forward pass may not have come to its end
            model.reducer.prepare_for_backward([])
        model.require_forward_param_sync = True  # as after a complete pass
        if left:
            torch.autograd.backward(left, [torch.zeros_like(one) for one in left])


def reducing(model: Any) -> DistributedDataParallel | None:
    """Return the part of a wrapped network that reduces the gradient; None for other wrappers."""
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    return inner if isinstance(inner, DistributedDataParallel) else None


def attempts(run: Run, micro_batches: list[Batch]) -> Iterator[Attempt]:
    """Yield attempts at a step's passes until the memory suffices on all processes.

    After each failure weights, buffers and random states are as before the step.

    Raises:
        FullMemoryError: on all processes, if the micro-batches cannot be halved any more.
    """
    kept, first = run.progress.micro_batch, 0
    while True:
        parts = [part for batch in micro_batches for part in batch.split(run.parts)]
        attempt = Attempt(run, parts, first)
        first = attempt.first
        yield attempt
        reasons = attempt.settle()
        if not reasons:
            return
        run.network.zero_grad()
        run.guard.undo()
        before = run.parts
        run.progress.micro_batch = -(-attempt.images // 2)
        if run.parts == before:
            run.progress.micro_batch = kept
            raise FullMemoryError(too_large(attempt, reasons))


def too_large(attempt: Attempt, reasons: list[str]) -> str:
    """Return the error if the memory is full with the smallest micro-batches."""
    run = attempt.run
    rank, reason = next((rank, reason) for rank, reason in enumerate(reasons) if reason)
    where = f"process {rank}: " if len(reasons) > 1 else ""
    height, width = attempt.parts[0].labels.shape[-2:]
    precision = run.accelerator.mixed_precision
    number_format = "float32" if precision == "no" else precision
    least = ", the least for its batch norm" if attempt.images > 1 else ""
    return (
        f"step {run.progress.step + 1}: out of memory, also with micro-batches of "
        f"{count_of(attempt.images, 'image')}{least} (--batch-size {run.config.batch_size}, "
        f"{height}x{width} pixels, {number_format}): {where}{reason} "
        f"{ONEDNN if 'primitive' in reason else LESS}"
    )
