"""The splits that training and evaluation read, and the data loaders that read them."""

import atexit
import copy
import gc
import multiprocessing
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from segacc.data.atomic import filled, pass_on_or_end, shared_memory
from segacc.data.augment import Pair, Pipeline, augmented
from segacc.data.codecs import picture_size
from segacc.data.decode import MODES
from segacc.data.items import Item, collate, nothing
from segacc.data.order import (
    Cut,
    Key,
    Keys,
    Order,
    Rest,
    StepSampler,
    of_one_size,
    sample_seed,
    share,
)
from segacc.data.sample_pair import read_sample
from segacc.data.samples import evenly_spaced
from segacc.errors import DataError, SegaccError, WorkerError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

MOST_PIXELS = 2**22
"""Maximum pixels of a batch of several images: 16 images of 512x512, 2 of 1024x2048."""
SETTLE = 0.1
"""Seconds to wait for gloo's threads."""
MOST_LOST = 3
"""How often the workers of a loader are replaced."""


@dataclass(frozen=True)
class Source:
    """A split and how to read it: decoded images, labels mapped to classes."""

    samples: Sequence[Sample]
    labels: LabelMap
    num_channels: int = 3

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def read(self, index: int) -> Pair:
        """Return image (C, H, W) uint8 and label (H, W) uint8, 255 ignored.

        Raises:
            SegaccError: see `read_sample`.
        """
        return read_sample(self.samples[index], self.labels, self.num_channels)

    def size(self, index: int) -> tuple[int, int] | None:
        """Return an image's (height, width) from its header; None if it is not there."""
        known = self.num_channels in MODES  # Pillow does not read the others
        sample = self.samples[index]
        stored = sample.reading.exif == "stored"
        return picture_size(sample.image, stored=stored) if known else None


class TrainData(Dataset[Any]):
    """The training split, indexed by the keys of an Order."""

    def __init__(self, source: Source, pipeline: Pipeline, order: Order) -> None:
        """Store what a worker needs."""
        self.source, self.pipeline, self.order = source, pipeline, order

    @property
    def num_samples(self) -> int:
        """Return the number of samples."""
        return len(self.source)

    def loader(
        self,
        cut: Cut,
        steps: range,
        *,
        positions: Any,
        num_workers: int,
        pin_memory: bool,
        total: Callable[[], int] | None = None,
    ) -> "Loader":
        """Return a loader of this process's micro-batches; it never uses the global generators.

        Args:
            cut: how a step is split over processes and micro-batches.
            steps: range of steps to load.
            positions: unused; for streams.
            num_workers: 0 loads in this process.
            pin_memory: for asynchronous copies to a GPU.
            total: returns the number of steps of the run, if it is not the end of `steps`.
        """
        return load(
            self,
            num_workers,
            ahead=4,
            batch_sampler=StepSampler(self.order, steps, cut, total),
            collate_fn=collate,
            pin_memory=pin_memory,
        )

    def __getitems__(self, keys: Keys) -> list[Item | SegaccError]:
        """Read and augment the samples of a micro-batch; a DataLoader calls it."""
        pipeline = self.pipeline.at(keys.share)
        return [self._item(key, pipeline) for key in keys]

    def __getitem__(self, key: Key) -> Item | SegaccError:
        """Read one sample and augment it as at the start of a run."""
        return self._item(key, self.pipeline)

    def _item(self, key: Key, pipeline: Pipeline) -> Item | SegaccError:
        """Read and augment one sample; an error is returned, so that all processes stop."""
        try:
            name = self.source.samples[key[1]].id
        except SegaccError as error:
            return error
        return augmented(
            name,
            lambda: self.source.read(key[1]),
            pipeline,
            sample_seed(self.order.seed, *key),
            fetch=lambda: self.source.read(self.order.another()),
            num_channels=self.source.num_channels,
        )


def load(data: Dataset[Any], num_workers: int, *, ahead: int = 2, **settings: Any) -> "Loader":
    """Build a data loader that never uses the global random generators.

    Args:
        data: used in this process; each worker gets a copy.
        num_workers: 0 loads in this process.
        ahead: batches (or samples, without batching) that each worker prefetches.
        settings: further arguments of DataLoader.
    """
    fixed = {
        "num_workers": num_workers,
        "worker_init_fn": quiet,
        "prefetch_factor": ahead if num_workers else None,
    }
    return Loader(data, {**fixed, **settings})


class Loader:
    """A DataLoader that goes on with new workers if one was killed, from the batch that was lost.

    Each sample depends on its key only, so the batches are the same. After several losses it goes
    on without workers.

    Attributes:
        lost: how often a worker was killed.
    """

    def __init__(self, data: Dataset[Any], settings: dict[str, Any]) -> None:
        """Prepare it; `settings` are those of DataLoader."""
        self.data, self.settings, self.lost = data, settings, 0

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            WorkerError: a worker that reads a stream was killed; who iterates knows where to go on.
            WriteError: the shared memory of the workers is full.
        """
        taken = 0
        batches: Iterator[Any] = iter(())
        with shared_memory(self.settings["num_workers"]):
            while True:
                try:
                    batches = self._from(taken)
                    for batch in batches:
                        taken += 1
                        yield batch
                    return
                except (RuntimeError, ConnectionError, EOFError):
                    ended = killed_workers(batches)
                    if not ended:
                        raise
                self.lost += 1
                self._tell(ended)

    def _from(self, taken: int) -> Iterator[Any]:
        """Return the batches after the first ones."""
        settings = {**self.settings, "generator": torch.Generator()}
        if self.lost > MOST_LOST:
            settings |= {"num_workers": 0, "prefetch_factor": None}
        key = "batch_sampler" if "batch_sampler" in settings else "sampler"
        if taken:
            settings[key] = Rest(settings[key], taken)
        if settings["num_workers"]:
            settle()
            settings["multiprocessing_context"] = without_locks()
        batches = iter(DataLoader(self.data, **settings))
        leave_to_loader()
        return batches

    def _tell(self, ended: Sequence[int]) -> None:
        process = ", ".join(map(str, ended))
        text = (
            f"a data loader worker (process {process}) was killed, probably by the system because "
            "memory was full; fewer --num-workers need less"
        )
        if isinstance(self.data, IterableDataset):
            raise WorkerError(f"{text}.")
        how = "new workers go on" if self.lost <= MOST_LOST else "the main process goes on"
        sys.stderr.write(f"warning: {text}. From the batch that was lost, {how}.\n")


def settle() -> None:
    """Wait a moment before workers are forked in a run with gloo.

    Its threads release sent tensors shortly after these arrive, for which they enter the
    interpreter; a worker that is forked meanwhile may hang before it begins (Python 3.11).
    """
    group = torch.distributed
    if group.is_available() and group.is_initialized() and "gloo" in group.get_backend():
        time.sleep(SETTLE)


def killed_workers(batches: Any) -> list[int]:
    """Return the process ids of a DataLoader's workers that were killed; they may just be ending.

    The attribute is torch's own; without workers there is none.

    Raises:
        RuntimeError: one had no room in the shared memory.
    """
    workers = getattr(batches, "_workers", ())
    for worker in workers:
        worker.join(0.2)
    if any(one.exitcode == -signal.SIGBUS for one in workers):
        raise RuntimeError("Bus error")
    ended = [one.pid for one in workers if (one.exitcode or 0) < 0]
    for worker in workers if ended else ():
        worker.kill()  # it may wait for a lock that a killed one held
    return ended


@dataclass(frozen=True)
class Flag:
    """An event in shared memory that has no lock: who is killed while reading it blocks nobody."""

    value: Any
    """A ctypes byte that processes share."""

    def is_set(self) -> bool:
        """Return whether it was set."""
        return bool(self.value.value)

    def set(self) -> None:
        """Set it."""
        self.value.value = 1


def without_locks() -> Any:
    """Return a context of multiprocessing whose events are Flags.

    A DataLoader's workers read one event that its end sets. With multiprocessing's own, which has
    a lock, the end would wait for ever if a worker was killed while it read the event.
    """
    context: Any = copy.copy(multiprocessing.get_context())
    context.Event = lambda: Flag(context.RawValue("b", 0))
    return context


def leave_to_loader() -> None:
    """Remove torch's handler of ended child processes, so that a loader reports a killed worker.

    The handler raises wherever the main thread is, e.g. in a backward pass; a loader notices the
    same within some seconds, while it waits for a batch.
    """
    here = threading.current_thread() is threading.main_thread()
    if here and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def quiet(worker: int) -> None:
    """Set up a worker: one thread, and no reaction to signals (the main process ends its workers).

    Objects of the imported libraries are excluded from garbage collection, which would otherwise
    take a tenth of a worker's time and copy its memory pages.
    """
    gc.freeze()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    pass_on_or_end()


@atexit.register
def end_workers() -> None:
    """Terminate remaining data loader workers when the process exits, e.g. after an error.

    torch leaves this to Python, which sends a signal that workers ignore (see `quiet`) and waits.
    Here all have the same half second, for other processes than workers, which heed the signal.
    """
    left = [one for one in multiprocessing.active_children() if one.daemon]
    if left:
        leave_to_loader()  # else torch would report a crash
    for worker in left:
        worker.terminate()
    until = time.monotonic() + 0.5
    for worker in left:
        worker.join(max(0.0, until - time.monotonic()))
        if worker.is_alive():
            worker.kill()


class EvalData(Dataset[Any]):
    """The evaluation split, read sample by sample or in batches of one image size."""

    def __init__(self, source: Source) -> None:
        """Store what a worker needs."""
        self.source, self.num_channels = source, source.num_channels

    @property
    def num_samples(self) -> int:
        """Return the number of samples."""
        return len(self.source)

    def example_ids(self, count: int) -> frozenset[str]:
        """Return the ids of `count` samples, evenly spaced over the split."""
        return frozenset(
            self.source.samples[index].id for index in evenly_spaced(len(self.source), count)
        )

    def loader(self, *, process: int, processes: int, num_workers: int) -> Loader:
        """Return a loader of one process's samples, one by one, in order."""
        sampler = share(len(self.source), process=process, processes=processes)
        return load(self, num_workers, batch_size=None, sampler=sampler)

    @cached_property
    def sizes(self) -> list[tuple[int, int] | None]:
        """(height, width) of each image, from the file headers."""
        return [self.source.size(index) for index in range(len(self.source))]

    def share(
        self, *, process: int, processes: int, batch_size: int
    ) -> list[list[tuple[int, bool]]]:
        """Return one process's batches as keys, equally many per process; the last may be padding.

        The batches are formed before they are distributed, so they are the same on any number of
        processes.
        """
        single = [[index] for index in range(len(self.source))]
        cut = {"batch_size": batch_size, "pixels": MOST_PIXELS}
        batches = single if batch_size == 1 else of_one_size(self.sizes, **cut)
        turns = share(len(batches), process=process, processes=processes)
        return [[(index, padding) for index in batches[turn]] for turn, padding in turns]

    def batches(
        self, *, process: int, processes: int, num_workers: int, batch_size: int
    ) -> Iterator[list[Item | SegaccError]]:
        """Return one process's batches: lists of Item or SegaccError of one size, see `filled`."""
        share = self.share(process=process, processes=processes, batch_size=batch_size)
        return filled(load(self, num_workers, batch_sampler=share, collate_fn=list), len(share))

    def count(self, *, process: int, processes: int, batch_size: int) -> int:
        """Return the number of images of one process, including padding."""
        batches = self.share(process=process, processes=processes, batch_size=batch_size)
        return sum(map(len, batches))

    def __getitem__(self, key: tuple[int, bool]) -> Item | SegaccError:
        """Read one sample at its original size; the key is (index, whether it is padding)."""
        index, pad = key
        try:
            name = self.source.samples[index].id
        except SegaccError as error:
            return error
        return scored_item(name, lambda: self.source.read(index), self.num_channels, padding=pad)


def scored_item(
    name: str, read: Callable[[], Pair], num_channels: int, *, padding: bool = False
) -> Item | SegaccError:
    """Read a sample at its original size; an error is returned, so that all processes stop."""
    try:
        return Item(*read(), name, 0, padding)
    except DataError as error:
        return Item(*nothing(num_channels), name, 0, padding, str(error))
    except SegaccError as error:
        return error
