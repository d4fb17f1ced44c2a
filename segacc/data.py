"""From samples to batches: seeds, augmentation, and an order that the step decides."""

import random
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from segacc.decode import read_sample
from segacc.errors import DataError, SegaccError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import IGNORE, LabelMap

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Item:
    """One decoded, mapped, perhaps augmented sample, as it leaves a worker."""

    image: Tensor
    """(C, H, W) uint8 RGB."""
    label: Tensor
    """(H, W) uint8, 255 ignored."""
    id: str
    seed: int
    """Of its device augmentations."""
    padding: bool = False
    """True for a sample that only keeps the processes in step: it weighs nothing."""
    unreadable: str = ""
    """Why its files could not be read; then the label is 255 everywhere."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one size. N images."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N, H, W) uint8."""
    items: tuple[tuple[str, int, str], ...]
    """(id, seed, why unreadable) of each."""

    def pin_memory(self) -> "Batch":
        """Copy to pinned memory (called by the DataLoader)."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.items)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch, numpy and random seeded; their global states stay as they were.

    The generator of a CUDA `device` is seeded too when one is given.
    """
    python, legacy = random.getstate(), np.random.get_state()
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of one sample in one epoch: 63 bits from (seed, epoch, index)."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the order of one epoch: a permutation of 0..count-1, from (seed, epoch) only."""
    return np.random.default_rng((seed, epoch)).permutation(count)


class TrainData(Dataset[Any]):
    """The training split under keys (epoch, index)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: LabelMap,
        augment: Sequence[Augment],
        seed: int,
        num_channels: int = 3,
    ) -> None:
        """Hold what a worker needs."""
        self.samples, self.labels, self.augment, self.seed = samples, labels, augment, seed
        self.num_channels = num_channels

    def __getitem__(self, key: tuple[int, int]) -> Item | SegaccError:
        """Read and augment one sample; an error is returned, for all processes to stop together."""
        sample, seed = self.samples[key[1]], sample_seed(self.seed, *key)
        try:
            image, label = read_sample(sample, self.labels, self.num_channels)
            why = ""
        except UnreadableError as error:
            (image, label), why = nothing(self.num_channels), str(error)
        except SegaccError as error:
            return error
        image, label = tv_tensors.Image(image), tv_tensors.Mask(label)
        with seeded(seed):
            for change in self.augment:
                image, label = change(image, label)
        return Item(
            image.as_subclass(Tensor), label.as_subclass(Tensor), sample.id, seed, unreadable=why
        )


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Micro-batches of this process, from an endless row of epochs; a function of the step alone.

    Step s takes the samples from s * total_batch_size on in that row, however many processes and
    micro-batches
    share them, so no window is ever partial and the order never depends on how the work is cut.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int,
        first: int,
        last: int,
        batch_size: int,
        accumulation: int,
        process: int,
        processes: int,
    ) -> None:
        """Cover the steps first..last-1 of a split of `count` samples."""
        self.count, self.seed, self.steps = count, seed, range(first, last)
        self.batch_size, self.accumulation = batch_size, accumulation
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        """Count micro-batches."""
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the keys (epoch, index) of each micro-batch."""
        for step in self.steps:
            for micro in range(self.accumulation):
                turn = (step * self.accumulation + micro) * self.processes + self.process
                yield [self._key(turn * self.batch_size + slot) for slot in range(self.batch_size)]

    def _key(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.count)
        return epoch, int(epoch_order(self.seed, epoch, self.count)[place])


def collate(items: list[Item | SegaccError]) -> Batch | SegaccError:
    """Stack items of one size; hand an error on. An unreadable item takes the others' size."""
    ready = []
    for item in items:
        if isinstance(item, SegaccError):
            return item
        ready.append(item)
    sizes = sorted({tuple(item.image.shape[-2:]) for item in ready if not item.unreadable})
    if len(sizes) == 1:
        image, label = nothing(ready[0].image.shape[0], *sizes[0])
        ready = [replace(i, image=image, label=label) if i.unreadable else i for i in ready]
    if len(sizes) > 1:
        return DataError(
            "--aug: the images of a batch have different sizes after augmentation: "
            f"{', '.join(map(str, sizes))}. "
            "Add `--aug random_scale_crop` last, or use batch_size 1."
        )
    images, labels = (
        torch.stack([item.image for item in ready]),
        torch.stack([item.label for item in ready]),
    )
    return Batch(images, labels, tuple((item.id, item.seed, item.unreadable) for item in ready))


class EvalData(Dataset[Any]):
    """A split that is scored, one sample at a time."""

    def __init__(self, samples: Sequence[Sample], labels: LabelMap, num_channels: int = 3) -> None:
        """Hold what a worker needs."""
        self.samples, self.labels, self.num_channels = samples, labels, num_channels

    def __getitem__(self, key: tuple[int, bool]) -> Item | SegaccError:
        """Read one sample at its original size; the key is (index, whether it is padding)."""
        sample, padding = self.samples[key[0]], key[1]
        try:
            image, label = read_sample(sample, self.labels, self.num_channels)
        except UnreadableError as error:
            image, label = nothing(self.num_channels)
            return Item(image, label, sample.id, 0, padding, str(error))
        except SegaccError as error:
            return error
        return Item(image, label, sample.id, 0, padding)


def nothing(num_channels: int, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """Return an image that weighs nothing: (C, H, W) uint8 and its label, all ignored."""
    label = torch.full((height, width), IGNORE, dtype=torch.uint8)
    return torch.zeros(num_channels, height, width, dtype=torch.uint8), label


def share(count: int, *, process: int, processes: int) -> list[tuple[int, bool]]:
    """List one process's keys of a split: every `processes`-th sample, as many on each process.

    Past the end comes sample 0 as padding.
    """
    turns = range(process, -(-count // processes) * processes, processes)
    return [(index, False) if index < count else (0, True) for index in turns]


def _quiet(worker: int) -> None:
    """Use one thread, and leave signals to the main process, which ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")


def train_loader(
    data: TrainData, sampler: StepSampler, *, num_workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """Load micro-batches; the iterator never draws from the global random state."""
    return DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_quiet,
        generator=torch.Generator(),
        prefetch_factor=4 if num_workers else None,
    )


def eval_loader(
    data: EvalData, *, process: int, processes: int, num_workers: int
) -> DataLoader[Any]:
    """Load one process's share, sample by sample, in order."""
    return DataLoader(
        data,
        batch_size=None,
        sampler=share(len(data.samples), process=process, processes=processes),
        num_workers=num_workers,
        worker_init_fn=_quiet,
        generator=torch.Generator(),
    )
