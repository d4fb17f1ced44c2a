"""Splits that are streamed: shards are shared among processes and workers, and read in order."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from segacc.data.augment import Pair, Pipeline
from segacc.data.batches import Batch, Item, augmented, collate, load, nothing, scored_item
from segacc.data.decode import read_sample
from segacc.data.order import Cut, sample_seed
from segacc.data.samples import read_shard
from segacc.errors import DataError, SegaccError
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap

PATIENCE = 20
"""Epochs without a sample of its own after which a reader gives up."""


@dataclass(frozen=True)
class Place:
    """Where a reader stands: a block, and how many of its samples were taken."""

    epoch: int = 0
    shard: int = 0
    """Place of the block's first shard in the reader's row of this epoch."""
    position: Any = None
    """In that shard, before the block's first sample, as `Stream.read` takes it."""
    passed: int = 0
    """Samples of that shard before it."""
    block: int = 0
    """Number of the block in this epoch."""
    offset: int = 0
    """Samples that were taken from the block."""


def deal(order: Sequence[int], reader: int, readers: int) -> list[tuple[int, int, int]]:
    """Give a reader its shards of an epoch, so that each sample goes to one reader.

    Each reader has as many whole shards as all can have; each shard that is left over is shared by
    several readers, who take its samples in turn.

    Args:
        order: of all shards in this epoch.
        reader: one of 0..readers-1.
        readers: all workers of all processes.

    Returns:
        In order (shard, part, parts): sample n of the shard is the reader's if n % parts == part.
    """
    whole = len(order) - len(order) % readers
    mine = [(shard, 0, 1) for shard in order[reader:whole:readers]]
    if rest := order[whole:]:
        which = reader % len(rest)
        together = range(which, readers, len(rest))
        mine.append((rest[which], together.index(reader), len(together)))
    return mine


@dataclass(frozen=True)
class Reader:
    """One of several that share a training stream: a worker of a process.

    It goes through its part endlessly, epoch after epoch. Its order, and so what `items` yields, is
    a function of (seed, number, readers) alone.
    """

    stream: Stream
    labels: LabelMap
    num_channels: int
    pipeline: Pipeline
    seed: int
    number: int
    """One of 0..readers-1."""
    readers: int
    """All workers of all processes."""

    def items(self, place: Place) -> Iterator[tuple[Item | SegaccError, Place]]:
        """Yield decoded, augmented samples from a place on, each with the place behind it.

        A block of undecoded samples is read and permuted. To go on inside a block, it is read
        again.

        Raises:
            SegaccError: a shard cannot be read, or there is nothing for this reader.
        """
        size = max(1, self.stream.buffer // self.readers)
        block: list[Sample] = []
        barren = 0
        while True:
            start, rows = place, self.rows(place)
            while behind := refill(block, rows, size):
                after = replace(behind, block=place.block + 1, offset=0)
                order = self._draw(place.epoch, place.block).permutation(len(block)).tolist()
                for turn in range(place.offset, len(block)):
                    key = (place.epoch, self.number, place.block, turn)
                    item = self._item(block, order[turn], sample_seed(self.seed, *key))
                    last = turn + 1 == len(block)
                    yield item, after if last else replace(place, offset=turn + 1)
                place = after
            barren = barren + 1 if place == start == Place(epoch=place.epoch) else 0
            if barren == PATIENCE:
                raise DataError(self._complaint())
            place = Place(epoch=place.epoch + 1)

    def rows(self, start: Place) -> Iterator[tuple[Sample, Place]]:
        """Yield this reader's undecoded samples of an epoch from a place on, see `items`."""
        order = self._draw(start.epoch).permutation(len(self.stream.shards)).tolist()
        mine = deal(order, self.number, self.readers)
        for turn, (shard, part, parts) in enumerate(mine[start.shard :], start.shard):
            here = start if turn == start.shard else Place(epoch=start.epoch, shard=turn)
            passed = here.passed
            name = self.stream.shards[shard]
            for sample, position in read_shard(self.stream, name, here.position):
                passed += 1
                if (passed - 1) % parts == part:
                    yield sample, replace(here, position=position, passed=passed)

    def _draw(self, epoch: int, block: int | None = None) -> np.random.Generator:
        """Return what draws the order of an epoch's shards, for all readers, or of a block."""
        key = (0,) if block is None else (1, self.number, block)
        return np.random.default_rng((self.seed, epoch, *key))

    def _item(self, block: Sequence[Sample], index: int, seed: int) -> Item | SegaccError:
        return augmented(
            block[index].id,
            lambda: self._read(block[index]),
            self.pipeline,
            seed,
            fetch=lambda: self._read(block[int(torch.randint(len(block), ()))]),
            num_channels=self.num_channels,
        )

    def _read(self, sample: Sample) -> Pair:
        return read_sample(sample, self.labels, self.num_channels)

    def _complaint(self) -> str:
        shards = self.stream.shards
        more = f" ... {shards[-1]}" if len(shards) > 1 else ""
        return (
            f"{shards[0]}{more}: {PATIENCE} epochs had no sample for reader {self.number + 1} of "
            f"{self.readers} (processes x workers). Are the shards empty? With so few samples, use "
            "fewer processes or --num-workers 0."
        )


def refill(block: list[Sample], rows: Iterator[tuple[Sample, Place]], size: int) -> Place | None:
    """Replace a block by the next `size` samples, fewer at the end of an epoch.

    It is emptied first: two blocks at once would be twice the memory.

    Returns:
        The place behind the last one; None where there are no more.
    """
    block.clear()
    behind: Place | None = None
    for row in islice(rows, size):
        block.append(row[0])
        behind = row[1]
    return behind


@dataclass(frozen=True)
class TrainStream:
    """A training split that is streamed."""

    stream: Stream
    labels: LabelMap
    num_channels: int
    pipeline: Pipeline
    seed: int

    @property
    def num_samples(self) -> int | None:
        """Count the samples; None where nobody has."""
        return self.stream.num_samples

    def loader(
        self, cut: Cut, steps: range, *, positions: Any, num_workers: int, pin_memory: bool
    ) -> DataLoader[Any]:
        """Load this process's micro-batches of some steps; never draws from the global state.

        Args:
            cut: how a step is shared.
            steps: the first and the last but one.
            positions: of this process's readers, one for each worker, as its batches told: a Place
                as a dict, or None for one that starts.
            num_workers: 0 loads in this process.
            pin_memory: for copies to a GPU that do not wait.

        Returns:
            Yields Batch, or SegaccError from where a shard cannot be read. The batches come from
            the readers in turn, from the first step of a run on.
        """
        turns = range(steps.start * cut.accumulation, steps.stop * cut.accumulation)
        train = Turns(self, cut, turns, tuple(positions))
        return load(train, num_workers, ahead=4, batch_size=None, pin_memory=pin_memory)

    def batches(
        self, cut: Cut, mine: int, workers: int, place: Place
    ) -> Iterator[Batch | SegaccError]:
        """Yield the micro-batches of one of a process's readers, endlessly, see `loader`."""
        number, readers = cut.process * workers + mine, cut.processes * workers
        given = self.labels, self.num_channels, self.pipeline, self.seed
        items = Reader(self.stream, *given, number, readers).items(place)
        try:
            while True:
                taken = list(islice(items, cut.batch_size))
                batch = collate([item for item, _ in taken])
                if isinstance(batch, Batch):
                    batch = replace(batch, position=(mine, asdict(taken[-1][1])))
                yield batch
        except SegaccError as error:
            while True:  # the step that meets it needs all its micro-batches
                yield error


@dataclass(frozen=True)
class Turns(IterableDataset[Any]):
    """What a data loader's workers share: micro-batches by number, each worker those in turn."""

    train: TrainStream
    cut: Cut
    turns: range
    """Numbers of the micro-batches among all of this process's run."""
    positions: tuple[dict[str, Any] | None, ...]

    def __iter__(self) -> Iterator[Batch | SegaccError]:
        """Yield every n-th micro-batch, for the worker that calls."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        mine = (self.turns.start + worker) % workers  # a loader starts with its worker 0
        place = self.positions[mine] if self.positions else None
        batches = self.train.batches(self.cut, mine, workers, Place(**place or {}))
        yield from islice(batches, len(self.turns[worker::workers]))


@dataclass(frozen=True)
class EvalStream:
    """A split that is scored, streamed."""

    stream: Stream
    labels: LabelMap
    num_channels: int

    @property
    def num_samples(self) -> int | None:
        """Count the samples; None where nobody has."""
        return self.stream.num_samples

    def samples(self) -> Iterator[Sample]:
        """Yield all samples in order, undecoded.

        Raises:
            SegaccError: a shard cannot be read.
        """
        for shard in self.stream.shards:
            for sample, _ in read_shard(self.stream, shard):
                yield sample

    def example_ids(self, count: int) -> frozenset[str]:
        """Choose the ids of the first `count` samples; others would have to be read for."""
        return frozenset(sample.id for sample in islice(self.samples(), count))

    def loader(self, *, process: int, processes: int, num_workers: int) -> DataLoader[Any]:
        """Load one process's share, sample by sample, in order, with one worker or none.

        All processes walk over all samples, so that each knows how many there are when the split
        ends; each decodes its own only.

        Yields:
            Item, as many on each process; or SegaccError, the last of its process.
        """
        return load(Share(self, process, processes), min(1, num_workers), batch_size=None)

    def batches(
        self, *, process: int, processes: int, num_workers: int, batch_size: int
    ) -> Iterator[list[Item | SegaccError]]:
        """Load one process's share in batches of one: the sizes to come are not known."""
        assert batch_size == 1
        items = self.loader(process=process, processes=processes, num_workers=num_workers)
        return ([item] for item in items)

    def count(self, *, process: int, processes: int, batch_size: int) -> int | None:
        """Count the images of one process's share; None where nobody has counted the stream."""
        return None if self.num_samples is None else -(-self.num_samples // processes)


@dataclass(frozen=True)
class Share(IterableDataset[Any]):
    """Every n-th sample of a stream that is scored, and padding at the end."""

    data: EvalStream
    process: int
    processes: int

    def __iter__(self) -> Iterator[Item | SegaccError]:
        """Yield one process's share; it ends with the error of a shard that cannot be read."""
        data, given, count = self.data, 0, 0
        try:
            for count, sample in enumerate(data.samples(), 1):
                if (count - 1) % self.processes == self.process:
                    read = partial(read_sample, sample, data.labels, data.num_channels)
                    yield scored_item(sample.id, read, data.num_channels)
                    given += 1
            if not count:
                raise DataError(f"{', '.join(data.stream.shards[:4])}: the split has no sample.")
        except SegaccError as error:
            yield error
            return
        for _ in range(-(-count // self.processes) - given):
            yield Item(*nothing(data.num_channels), "", 0, padding=True)
