"""The micro-batches of each optimizer step, moved to the device, and the step's measurements."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor

from segacc.data.batches import MOST_LOST, EvalData
from segacc.data.items import Batch, Item, nothing
from segacc.data.streams import EvalStream
from segacc.errors import DataError, PluginError, SegaccError, WorkerError, WriteError
from segacc.evaluation.memory import peak_memory
from segacc.settings.secrets import shown
from segacc.training.events import Halved, Skipped, StepDone
from segacc.training.limits import ending
from segacc.training.limits.signals import StopSignal
from segacc.training.run import Run


@dataclass(frozen=True, kw_only=True)
class StepNumbers:
    """The numbers of an optimizer step, still on the device."""

    losses: Tensor
    """(L,) float: this process's share of each loss term."""
    grad_norm: Tensor | None
    """Scalar: the norm of the gradient before clipping."""
    valid: Tensor
    """Scalar: pixels of the effective batch that are not ignored, over all processes."""
    skipped: Skipped | None = None
    """Why the step was not taken, if it was skipped."""
    halved: Halved | None = None
    """Set if the step was repeated with smaller micro-batches."""


class Meter:
    """Collects losses and times between logged steps; only these read values from the device."""

    def __init__(self, run: Run) -> None:
        """Start the clock."""
        self.run = run
        self._reset()
        self.last = time.perf_counter()

    def _reset(self) -> None:
        self.losses: list[Tensor] = []
        self.steps = 0
        self.seconds = self.waited = 0.0

    def restart(self) -> None:
        """Exclude the time since the last step (evaluation, saving)."""
        self.last = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def step_done(self, numbers: StepNumbers) -> StepDone:
        """Return the event of a step; a logged one with the means."""
        run, step = self.run, self.run.progress.step
        self.steps += 1
        if not numbers.skipped:
            self.losses.append(numbers.losses)
        logged = step % run.config.log_every == 0 or step in (1, run.max_steps)
        mean = self._mean(numbers.losses) if logged else []
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.seconds += seconds
        lr = run.optimizer.param_groups[0]["lr"]
        event = StepDone(step=step, epoch=run.epoch(), lr=lr, seconds=seconds, logged=logged)
        if not logged:
            return event
        norm, elapsed = numbers.grad_norm, max(self.seconds, 1e-9)
        event = replace(
            event,
            loss=sum(mean),
            losses=dict(zip(run.losses, mean, strict=True)),
            grad_norm=None if norm is None else float(norm),
            images_per_second=self.steps * run.total_batch_size / elapsed,
            data_wait=self.waited / elapsed,
            valid_pixels=int(numbers.valid),
            peak_memory=self._peak_memory(),
        )
        event = replace(event, mfu=run.mfu(event.images_per_second or 0.0))
        self._reset()
        return event

    def _peak_memory(self) -> int:
        """Return the peak memory of the process that needs most; all processes call it."""
        accelerator = self.run.accelerator
        mine = torch.tensor([peak_memory(accelerator.device)], device=accelerator.device)
        return int(accelerator.gather(mine).max())

    def _mean(self, losses: Tensor) -> list[float]:
        """Return the mean of each loss over the steps that were not skipped; nan if all were."""
        mean = torch.stack(self.losses or [losses * torch.nan]).mean(0)
        return cast("list[float]", self.run.accelerator.reduce(mean, "sum").tolist())


def on_any(accelerator: Any, *flags: bool) -> list[bool]:
    """Return for each flag whether it is set on any process; all processes must call it."""
    if accelerator.num_processes == 1:
        return list(flags)
    mine = torch.tensor(flags, dtype=torch.int64, device=accelerator.device)
    return [bool(count) for count in accelerator.reduce(mine, "sum").tolist()]


class Trouble:
    """Collects the bad data that this process met, for all processes to raise together."""

    def __init__(self, accelerator: Any, *, allowed: int, seen: set[str]) -> None:
        """Allow `allowed` unreadable files; `seen` holds those of the earlier steps."""
        self.accelerator, self.allowed, self.seen = accelerator, allowed, seen
        self.error: SegaccError | None = None
        self.unreadable: set[str] = set()

    def add(self, error: SegaccError) -> None:
        """Record an error; the first one is kept."""
        self.error = self.error or error

    def settle(self, *wishes: bool) -> list[bool]:
        """Raise on every process if any has an error; return for each wish whether any has it.

        Raises:
            SegaccError: the error of the first process that has one, or too many unreadable files.
        """
        failed, skipped, *wished = on_any(
            self.accelerator, self.error is not None, bool(self.unreadable), *wishes
        )
        if failed:
            raise next(error for error in gather_object([self.error]) if error is not None)
        if skipped:
            self._count(gather_object([self.unreadable]))
        return wished

    def _count(self, found: list[set[str]]) -> None:
        for reason in sorted(set().union(*found) - self.seen):
            if len(self.seen) >= self.allowed:  # not added, as a resumed run meets it again
                allowed = (
                    f" ({self.allowed} are allowed by --skip-unreadable)" if self.allowed else ""
                )
                more = f" To skip up to N such files, add --skip-unreadable N{allowed}."
                raise DataError(f"{reason}{more}")
            self.seen.add(reason)
            if self.accelerator.is_main_process:
                told = f"skipped, {len(self.seen)} of {self.allowed} allowed: {reason}\n"
                sys.stderr.write(shown(told))
        self.unreadable = set()


def step_batches(run: Run, meter: Meter, signal: StopSignal) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step, on the device, until the run ends or is stopped.

    All processes yield equally often. Bad data on one of them raises on all, before the step.

    Raises:
        SegaccError: a sample is invalid, see `Trouble`.
    """
    trouble = Trouble(run.accelerator, allowed=run.config.skip_unreadable, seen=run.unreadable)
    batches = Batches(run)
    while not ending.reason(run):
        with meter.waiting():
            read, lost = batches.of_step(), batches.lost
        ready = []
        for batch in read:
            if isinstance(batch, SegaccError):
                trouble.add(batch)
                continue
            trouble.unreadable.update(filter(None, batch.unreadable))
            try:
                ready.append(to_device(batch, run))
            except PluginError as error:  # an augmentation failed on the device
                trouble.add(error)
        stop, save = trouble.settle(bool(signal.name), lost)
        if stop:
            return
        run.save_soon |= save
        yield ready


class Batches:
    """The micro-batches of a run from its current step on.

    Attributes:
        lost: whether data loader workers were killed since the step before.
    """

    def __init__(self, run: Run) -> None:
        """Start the data loader."""
        self.run, self.lost, self.restarts = run, False, 0
        self._start()

    def _start(self) -> None:
        self.loader, self.replaced = self.run.loader(), 0
        self.batches = iter(self.loader)

    def of_step(self) -> list[Any]:
        """Return the micro-batches of the current step: Batch or SegaccError.

        The readers of a stream whose workers were killed start again where this step begins.
        """
        number = self.run.config.gradient_accumulation_steps
        try:
            read = [next(self.batches) for _ in range(number)]
        except WorkerError as error:
            self.restarts += 1
            if self.restarts > MOST_LOST:
                return [error] * number
            sys.stderr.write(f"warning: {error} New workers go on from the step that was lost.\n")
            self._start()
            read = self.of_step()
            self.lost = True
            return read
        except WriteError as error:  # the shared memory is full, maybe on this machine alone
            return [error] * number
        self.lost, self.replaced = self.loader.lost > self.replaced, self.loader.lost
        return read


def to_device(batch: Batch, run: Run) -> Batch:
    """Move a batch to the device, run what is left to the device, and make its labels int64."""
    batch = run.pipeline.on_device(batch.to(run.accelerator.device))
    return replace(batch, labels=batch.labels.long())


def scored(
    batches: Any, trouble: Trouble, data: EvalData | EvalStream, stand_in: tuple[int, int]
) -> Iterator[list[Item]]:
    """Yield the batches of an evaluation: images of one size, equally many batches per process.

    An unreadable image is replaced by an empty one of the batch's size, or of size `stand_in`
    (height, width) if the whole batch is unreadable. Bad data becomes padding, so that all
    processes make the same number of calls. If one process cannot read a shard of a stream, all
    processes stop, as the number of samples left is not known.
    """
    streamed, num_channels = isinstance(data, EvalStream), data.num_channels
    for batch in batches:
        bad = [item for item in batch if isinstance(item, SegaccError)]
        if streamed and any(on_any(trouble.accelerator, bool(bad))):
            for error in bad:
                trouble.add(error)
            return
        read = [one for one in batch if isinstance(one, Item) and _is_read(one)]
        first = read[0] if read else Item(*nothing(num_channels, *stand_in))
        items = [_ready(item, first, trouble) for item in batch]
        del batch[:]  # frees the originals of images that were copied to be contiguous
        yield items


def stacked(images: list[Tensor]) -> Tensor:
    """Stack images (C, H, W) of one size to (N, C, H, W); a single image is not copied."""
    return images[0][None] if len(images) == 1 else torch.stack(images)


def _is_read(item: Item) -> bool:
    """Return whether an item is a real image, not a stand-in for an unreadable one or padding."""
    return not item.unreadable and bool(item.id)


def _ready(item: Item | SegaccError, first: Item, trouble: Trouble) -> Item:
    """Return an item of the size of the batch's first one, and record its error if it has one."""
    if isinstance(item, Item) and _is_read(item) and item.size != first.size:
        mine, other = ("x".join(map(str, one.label.shape)) for one in (first, item))
        item = DataError(
            f"{first.id} is {mine} pixels (height x width) and {item.id} is {other}, though their "
            "file headers give the same size. Save the file with the wrong header again, or score "
            "images one by one with --eval-batch-size 1."
        )
    if isinstance(item, SegaccError):
        trouble.add(item)
        return Item(first.image, first.label, padding=True).blank(first.size)
    if not _is_read(item):
        trouble.unreadable.update({item.unreadable} - {""})
        return item.blank(first.size)
    return replace(item, image=item.image.contiguous())
