"""Samples as tensors: what training and evaluation read, in batches."""

import atexit
import gc
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segacc.contracts import IGNORE
from segacc.data.augment import Pair, Pipeline
from segacc.data.codecs import picture_size
from segacc.data.decode import MODES, read_sample
from segacc.data.order import Cut, Key, Order, StepSampler, of_one_size, sample_seed, seeded, share
from segacc.data.placement import Placement, packed, scatter
from segacc.data.samples import evenly_spaced
from segacc.errors import DataError, SegaccError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

MOST_PIXELS = 2**22
"""Of a batch, unless it is one image: 16 pictures of 512x512, 2 of 1024x2048."""


@dataclass(frozen=True)
class Item:
    """One decoded, mapped, perhaps augmented sample, as it leaves a worker."""

    image: Tensor
    """(C, H, W) uint8 RGB, in any order in memory; or a window, see `placement`."""
    label: Tensor
    """(H, W) uint8, 255 ignored."""
    id: str
    seed: int
    """Of its device augmentations."""
    padding: bool = False
    """True for a sample that only keeps the processes in step: it weighs nothing."""
    unreadable: str = ""
    """Why its files could not be read; then the label is 255 everywhere."""
    drawn: tuple[Tensor, ...] = ()
    """Parameters of the augmentations that the device applies to whole batches, float32."""
    placement: Placement | None = None
    """What the device does with image and label where they are a window."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of what training sees."""
        height, width = self.placement.sample if self.placement else self.label.shape
        return height, width


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one size. N images."""

    images: Tensor
    """(N, C, H, W) uint8, in any order in memory; float32 in 0..255 after augmentations on the
    device. With `placements` (n, C): the windows in a row."""
    labels: Tensor
    """(N, H, W) uint8; int64 on the device. With `placements` (n,)."""
    items: tuple[tuple[str, int, str], ...]
    """(id, seed, why unreadable) of each."""
    drawn: tuple[Tensor, ...] = ()
    """(N, ...) float32 for each augmentation that the device applies to whole batches."""
    position: Any = None
    """Of a stream: where its reader stands after this batch, plain JSON."""
    placements: tuple[Placement, ...] = ()
    """Of N windows that are still to be scaled."""

    def pin_memory(self) -> "Batch":
        """Copy to pinned memory (called by the DataLoader)."""
        return self.each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """Move to a device; from pinned memory without waiting."""
        return self.each(lambda one: one.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Change all tensors."""
        drawn = tuple(map(change, self.drawn))
        return replace(self, images=change(self.images), labels=change(self.labels), drawn=drawn)

    def laid_out(self) -> "Batch":
        """Scale the windows, where they are; a batch without any stays as it is."""
        if not self.placements:
            return self
        images, labels = scatter(self.images, self.labels, self.placements)
        return replace(self, images=images, labels=labels, placements=())


@dataclass(frozen=True)
class Source:
    """A split as it is read: decoded, its labels mapped to classes."""

    samples: Sequence[Sample]
    labels: LabelMap
    num_channels: int = 3

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.samples)

    def read(self, index: int) -> Pair:
        """Return image (C, H, W) uint8 and label (H, W) uint8, 255 ignored.

        Raises:
            SegaccError: see `read_sample`.
        """
        return read_sample(self.samples[index], self.labels, self.num_channels)

    def size(self, index: int) -> tuple[int, int] | None:
        """Return an image's (height, width) from its header; None where that does not tell."""
        known = self.num_channels in MODES  # others are not read by Pillow
        sample = self.samples[index]
        stored = sample.reading.exif == "stored"
        return picture_size(sample.image, stored=stored) if known else None


class TrainData(Dataset[Any]):
    """The training split under the keys of an Order."""

    def __init__(self, source: Source, pipeline: Pipeline, order: Order) -> None:
        """Hold what a worker needs."""
        self.source, self.pipeline, self.order = source, pipeline, order

    @property
    def num_samples(self) -> int:
        """Count the samples."""
        return len(self.source)

    def loader(
        self, cut: Cut, steps: range, *, positions: Any, num_workers: int, pin_memory: bool
    ) -> DataLoader[Any]:
        """Load this process's micro-batches of some steps; never draws from the global state.

        Args:
            cut: how a step is shared.
            steps: the first and the last but one.
            positions: not needed here; a stream's.
            num_workers: 0 loads in this process.
            pin_memory: for copies to a GPU that do not wait.
        """
        return load(
            self,
            num_workers,
            ahead=4,
            batch_sampler=StepSampler(self.order, steps, cut),
            collate_fn=collate,
            pin_memory=pin_memory,
        )

    def __getitem__(self, key: Key) -> Item | SegaccError:
        """Read and augment one sample; an error is returned, for all processes to stop together."""
        return augmented(
            self.source.samples[key[1]].id,
            lambda: self.source.read(key[1]),
            self.pipeline,
            sample_seed(self.order.seed, *key),
            fetch=lambda: self.source.read(self.order.another()),
            num_channels=self.source.num_channels,
        )


def load(
    data: Dataset[Any], num_workers: int, *, ahead: int = 2, **settings: Any
) -> DataLoader[Any]:
    """Build a data loader that never draws from the global state.

    Args:
        data: in this process; a copy of it in each worker.
        num_workers: 0 loads in this process.
        ahead: batches, or samples where none are made, that each worker prepares.
        settings: more of the data loader's own.
    """
    return DataLoader(
        data,
        num_workers=num_workers,
        worker_init_fn=quiet,
        generator=torch.Generator(),
        prefetch_factor=ahead if num_workers else None,
        **settings,
    )


def augmented(
    name: str,
    read: Callable[[], Pair],
    pipeline: Pipeline,
    seed: int,
    *,
    fetch: Callable[[], Pair],
    num_channels: int,
) -> Item | SegaccError:
    """Read a sample and put it through the worker's augmentations, under its own seed.

    Args:
        name: the sample's id.
        read: image and label, or raises SegaccError.
        pipeline: of the run.
        seed: decides all that is drawn.
        fetch: reads some other sample, for those that mix several.
        num_channels: of the image that stands for an unreadable one.
    """
    try:
        with seeded(seed):
            changed = pipeline.in_worker(*read(), fetch)
        return Item(id=name, seed=seed, **vars(changed))
    except UnreadableError as error:
        with seeded(seed):
            changed = pipeline.in_worker(*nothing(num_channels), lambda: nothing(num_channels))
        return Item(id=name, seed=seed, unreadable=str(error), **vars(changed))
    except SegaccError as error:
        return error


def collate(items: list[Item | SegaccError]) -> Batch | SegaccError:
    """Stack items of one size; hand an error on. An unreadable item takes the others' size."""
    ready = []
    for item in items:
        if isinstance(item, SegaccError):
            return item
        ready.append(item)
    late = ready[0].placement is not None
    sizes = sorted({item.size for item in ready if not item.unreadable})
    if len(sizes) == 1:
        ready = [blank(item, sizes[0]) if item.unreadable else item for item in ready]
    if len(sizes) > 1:
        return DataError(
            "--aug: the images of a batch have different sizes after augmentation: "
            f"{', '.join(map(str, sizes))}. "
            "Add `--aug random_scale_crop` last, or use batch_size 1."
        )
    images, labels = [item.image for item in ready], [item.label for item in ready]
    return Batch(
        *(packed(images, labels) if late else (as_they_lie(images), torch.stack(labels))),
        tuple((one.id, one.seed, one.unreadable) for one in ready),
        tuple(torch.stack(parts) for parts in zip(*(one.drawn for one in ready), strict=True)),
        placements=tuple(one.placement for one in ready if one.placement),
    )


def blank(item: Item, size: tuple[int, int]) -> Item:
    """Make an unreadable item of a size."""
    image, label = nothing(item.image.shape[0], *size)
    whole = Placement(size, size, size) if item.placement else None
    return replace(item, image=image, label=label, placement=whole)


def as_they_lie(images: Sequence[Tensor]) -> Tensor:
    """Make a batch (N, C, H, W) of images (C, H, W); it lies in memory as they do."""
    side_by_side = images[0].stride(0) == 1  # the channels
    order = torch.channels_last if side_by_side else torch.contiguous_format
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, memory_format=order)
    for place, image in enumerate(images):
        batch[place] = image
    return batch


def nothing(num_channels: int, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """Return an image that weighs nothing: (C, H, W) uint8 and its label, all ignored."""
    label = torch.full((height, width), IGNORE, dtype=torch.uint8)
    return torch.zeros(num_channels, height, width, dtype=torch.uint8), label


def quiet(worker: int) -> None:
    """Use one thread, and leave signals to the main process, which ends its workers itself.

    What the libraries have set up is left out of the search for garbage, which takes a tenth of a
    worker's time where it looks through all of it, and copies its pages.
    """
    gc.freeze()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")


@atexit.register
def end_workers() -> None:
    """End what still loads data when the process exits, as after an error.

    torch leaves that to Python, which asks by a signal that `quiet` workers pass over, and waits.
    """
    left = [one for one in multiprocessing.active_children() if one.daemon]
    if left and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would tell of a crash
    for worker in left:
        worker.terminate()
    for worker in left:
        worker.join(0.5)
        if worker.is_alive():
            worker.kill()


class EvalData(Dataset[Any]):
    """A split that is scored, sample by sample or in batches of one size."""

    def __init__(self, source: Source) -> None:
        """Hold what a worker needs."""
        self.source, self.num_channels = source, source.num_channels

    @property
    def num_samples(self) -> int:
        """Count the samples."""
        return len(self.source)

    def example_ids(self, count: int) -> frozenset[str]:
        """Choose the ids of `count` samples, evenly spread over the split."""
        return frozenset(
            self.source.samples[place].id for place in evenly_spaced(len(self.source), count)
        )

    def loader(self, *, process: int, processes: int, num_workers: int) -> DataLoader[Any]:
        """Load one process's share, sample by sample, in order."""
        sampler = share(len(self.source), process=process, processes=processes)
        return load(self, num_workers, batch_size=None, sampler=sampler)

    @cached_property
    def sizes(self) -> list[tuple[int, int] | None]:
        """(height, width) of each image, from the headers."""
        return [self.source.size(index) for index in range(len(self.source))]

    def share(
        self, *, process: int, processes: int, batch_size: int
    ) -> list[list[tuple[int, bool]]]:
        """List one process's batches, as keys; as many on each process, the last may be padding.

        The batches are cut before they are shared, so that each is the same on any number of
        processes.
        """
        single = [[index] for index in range(len(self.source))]
        cut = {"batch_size": batch_size, "pixels": MOST_PIXELS}
        batches = single if batch_size == 1 else of_one_size(self.sizes, **cut)
        turns = share(len(batches), process=process, processes=processes)
        return [[(index, padding) for index in batches[turn]] for turn, padding in turns]

    def batches(
        self, *, process: int, processes: int, num_workers: int, batch_size: int
    ) -> DataLoader[Any]:
        """Load one process's share: lists of Item or SegaccError, of images of one size."""
        return DataLoader(
            self,
            batch_sampler=self.share(process=process, processes=processes, batch_size=batch_size),
            collate_fn=list,
            num_workers=num_workers,
            worker_init_fn=quiet,
            generator=torch.Generator(),
        )

    def count(self, *, process: int, processes: int, batch_size: int) -> int:
        """Count the images of one process's share, padding too."""
        batches = self.share(process=process, processes=processes, batch_size=batch_size)
        return sum(map(len, batches))

    def __getitem__(self, key: tuple[int, bool]) -> Item | SegaccError:
        """Read one sample at its original size; the key is (index, whether it is padding)."""
        return scored_item(
            self.source.samples[key[0]].id,
            lambda: self.source.read(key[0]),
            self.source.num_channels,
            padding=key[1],
        )


def scored_item(
    name: str, read: Callable[[], Pair], num_channels: int, *, padding: bool = False
) -> Item | SegaccError:
    """Read a sample at its original size; an error is returned, for all processes to stop."""
    try:
        return Item(*read(), name, 0, padding)
    except UnreadableError as error:
        return Item(*nothing(num_channels), name, 0, padding, str(error))
    except SegaccError as error:
        return error
