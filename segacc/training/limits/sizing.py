"""The memory that a run's steps need, and the micro-batch of `--batch-size auto`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from accelerate.utils import DistributedType

from segacc.data.items import Batch
from segacc.data.order import seeded
from segacc.errors import OptionError
from segacc.evaluation.compiled import eagerly
from segacc.evaluation.memory import free_memory, peak_memory
from segacc.kernels.bands import as_on_a_gpu
from segacc.model.live_tensors import LiveTensors, bytes_in
from segacc.settings.sources import Settings
from segacc.settings.units import OF_CUDA, bytes_text
from segacc.training.feed import Meter, StepNumbers, step_batches
from segacc.training.limits.memory import reducing
from segacc.training.processes import processes_here
from segacc.training.run import Run

Step = Callable[[Run, list[Batch]], StepNumbers]
"""The loop's `train_step`."""

USABLE, USABLE_HOST = 0.95, 0.8
"""Of a GPU's memory beside CUDA's: the share that is not lost between tensors. Of a CPU's free
memory: the share beside data loader workers and the like."""
MORE = 2
"""Images by which the two measured micro-batches differ."""
ENDLESS = 10**6
"""Number of steps of the run while it is measured."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a process needs."""

    weights: int
    gradients: int
    optimizer: int
    """State of the optimizer, and the average of `--ema`."""
    image: int
    """What each image of a micro-batch adds."""
    fixed: int
    """What is needed without an image; on this machine's CPU also by the process itself."""
    limit: int
    """What there is."""
    most: int | None = None
    """The most images that fit if more were tried in vain."""
    evaluation: int = 0
    """The peak of an evaluation, as far as it is known."""

    def of(self, images: int) -> int:
        """Return the peak for a micro-batch of so many images."""
        return self.fixed + images * self.image

    @property
    def largest(self) -> int:
        """The most images of a micro-batch."""
        found = max(0, (self.limit - self.fixed) // self.image)
        return found if self.most is None else min(found, self.most)

    def lines(self, batch_size: int) -> list[str]:
        """Return the lines to print."""
        training, what = bytes_text(self.of(batch_size)), f"micro-batches of {batch_size}"
        most = bytes_text(max(self.of(batch_size), self.evaluation))
        if most != training:
            what = f"evaluation ({what}: {training})"
        return [
            f"memory       {most} of {bytes_text(self.limit)}, for {what}",
            f"             weights {bytes_text(self.weights)}, gradients "
            f"{bytes_text(self.gradients)}, optimizer {bytes_text(self.optimizer)}, activations "
            f"{bytes_text(self.image)} an image",
            f"micro-batch  {self.largest} images at most (--batch-size)",
        ]


def fit_batch(
    run: Run, settings: Settings, *, step: Step, device_memory: int | None = None
) -> Settings:
    """Choose the micro-batch of `--batch-size auto` for a run built with all images in one.

    It is measured by real steps, which are undone. All processes choose the same.

    Args:
        run: the run; its config gets what was chosen.
        settings: its settings.
        step: the loop's `train_step`.
        device_memory: bytes of the GPU that the run is planned for; None for this machine.

    Raises:
        OptionError: the network is sharded.
    """
    refuse_sharded(run, settings)
    share, least = run.config.micro_batch_size, run.network.min_batch_size
    with undone(run):
        memory = memory_of(run, first_batch(run, least + MORE), device_memory, step)
    most = torch.tensor([memory.largest], device=run.accelerator.device)
    largest = int(run.accelerator.gather(most).min())
    images = part_of(share, largest, least)
    reason = (
        f"auto, at most {largest} fit in {bytes_text(memory.limit)} "
        f"({bytes_text(memory.image)} an image)"
    )
    steps = (share // images, f"{run.total_batch_size} images per step")
    chosen = {"batch_size": (images, reason), "gradient_accumulation_steps": steps}
    settings = settings.chosen({**chosen, "total_batch_size": (None, "")})
    run.config = settings.config
    return settings


def part_of(share: int, most: int, least: int) -> int:
    """Return the largest divisor of `share` up to `most`, but at least `least`."""
    parts = [one for one in range(least, share + 1) if share % one == 0]
    return max((one for one in parts if one <= most), default=parts[0])


def refuse_sharded(run: Run, settings: Settings) -> None:
    """Refuse networks of which each process has a part: steps of them cannot be undone here.

    Raises:
        OptionError: the network is sharded.
    """
    kind = run.accelerator.distributed_type
    if kind != DistributedType.NO and not reducing(run.model):
        raise OptionError(
            f"{settings.where('batch_size')}: auto: not supported with {kind.value}, which shares "
            "the network among the processes; give a number of images."
        )


@contextmanager
def undone(run: Run) -> Iterator[None]:
    """Restore a run that has not begun, after steps inside the block: weights, optimizer, draws."""
    accelerator, ema, config = run.accelerator, run.ema, run.config
    averages = list(ema.averages.values()) if ema else []
    tensors = [*run.network.parameters(), *run.network.buffers(), *averages]
    kept = [one.detach().to("cpu", copy=True) for one in tensors]
    optimizer, progress = deepcopy(run.optimizer.state_dict()), deepcopy(run.progress)
    scaler: Any = accelerator.scaler
    scale = scaler.state_dict() if scaler else {}
    with seeded(config.seed, accelerator.device), eagerly():  # each size would compile anew
        yield
    with torch.no_grad():
        for one, before in zip(tensors, kept, strict=True):
            one.copy_(before)
    run.optimizer.load_state_dict(optimizer)
    run.config, run.progress = config, progress
    if ema:
        ema.updates = 0
    if scaler:
        scaler.load_state_dict(scale)
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(accelerator.device)


def first_batch(run: Run, images: int) -> list[Batch]:
    """Return a micro-batch of so many images, on the device."""
    run.config = replace(run.config, batch_size=images, max_steps=ENDLESS, num_workers=0)
    return next(step_batches(run, Meter(run), run.signal))


def memory_of(
    run: Run, micro_batches: list[Batch], device_memory: int | None, step: Step
) -> Memory:
    """Take steps of two sizes of micro-batches, whose peaks tell that of any size."""
    few = run.network.min_batch_size
    with planned_for(device_memory):
        peak_of_step(run, micro_batches, few, step)  # makes the optimizer's state
        peaks = [peak_of_step(run, micro_batches, images, step) for images in (few, few + MORE)]
    image = max(1, (peaks[1] - peaks[0]) // MORE)
    parameters = list(run.network.parameters())
    averages = run.ema.averages if run.ema else {}
    memory = Memory(
        weights=bytes_in([parameters, list(run.network.buffers())]),
        gradients=bytes_in([one for one in parameters if one.requires_grad]),
        optimizer=bytes_in([list(state_of(run).values()), averages]),
        image=image,
        fixed=peaks[0] - few * image,
        limit=0,
        most=run.progress.micro_batch,  # None, unless a step was repeated with fewer images
    )
    memory = replace(memory, fixed=memory.fixed + held_before(run, memory))
    if device_memory is not None:
        return replace(memory, limit=usable(device_memory))
    return with_limit(run, memory, micro_batches, step)


def planned_for(device_memory: int | None) -> AbstractContextManager[None]:
    """Compute as a GPU does inside the block, if the run is planned for one, see `fit_batch`."""
    return nullcontext() if device_memory is None else as_on_a_gpu()


def state_of(run: Run) -> dict[Any, Any]:
    """Return the state of the optimizer inside accelerate's wrapper."""
    return dict(getattr(run.optimizer, "optimizer", run.optimizer).state)


def held_before(run: Run, memory: Memory) -> int:
    """Return the bytes that `peak_within` does not see: on a CPU, what was there before."""
    return memory.weights + memory.optimizer if run.accelerator.device.type == "cpu" else 0


def with_evaluation(
    run: Run, memory: Memory, device_memory: int | None, evaluate: Callable[[], float]
) -> tuple[Memory, float]:
    """Evaluate some images, and add the peak; without CUDA that of the process, if it rises.

    Args:
        run: the run.
        memory: that of its steps.
        device_memory: see `fit_batch`.
        evaluate: evaluates the images.

    Returns:
        The memory, and what `evaluate` has returned.
    """
    device, found = run.accelerator.device, list[float]()
    if device.type != "cuda" and device_memory is None:
        before = peak_memory(device)
        found.append(evaluate())
        peak = peak_memory(device)
        return replace(memory, evaluation=peak if peak > before else 0), found[0]
    with planned_for(device_memory):
        peak = peak_within(device, lambda: found.append(evaluate())) + held_before(run, memory)
    return replace(memory, evaluation=peak), found[0]


def usable(device_memory: int) -> int:
    """Return the bytes of a GPU's memory that tensors can fill."""
    return int(USABLE * (device_memory - OF_CUDA))


def with_limit(run: Run, memory: Memory, micro_batches: list[Batch], step: Step) -> Memory:
    """Add how much memory there is here; on a CPU, also what the process itself needs."""
    device = run.accelerator.device
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device) + OF_CUDA
        return replace(memory, limit=usable(min(whole, free + own)))
    step(run, micro_batches)
    images = run.config.micro_batch_size
    fixed = max(0, peak_memory(device) - images * memory.image)
    free = int(USABLE_HOST * free_memory()) // processes_here(run.accelerator)
    return replace(memory, fixed=fixed, limit=psutil.Process().memory_info().rss + free)


def peak_of_step(run: Run, micro_batches: list[Batch], images: int, step: Step) -> int:
    """Take a step of micro-batches of so many images; return the most bytes of tensors at once."""
    parts = [part(one, images) for one in micro_batches]
    return peak_within(run.accelerator.device, lambda: step(run, parts))


def peak_within(device: torch.device, work: Callable[[], object]) -> int:
    """Do some work; return the most bytes of tensors at once, on a CPU of those made meanwhile."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device))
    with LiveTensors() as live:
        work()
    peak: int = live.peak
    return peak


def part(batch: Batch, images: int) -> Batch:
    """Return a micro-batch of so many of the images; they repeat if there are fewer."""
    picked = [number % len(batch.labels) for number in range(images)]
    return replace(
        batch,
        images=batch.images[picked],
        labels=batch.labels[picked],
        ids=tuple(batch.ids[one] for one in picked),
        seeds=tuple(batch.seeds[one] for one in picked),
    )
