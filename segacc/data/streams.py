"""Streamed splits: shards are distributed over processes and workers and read sequentially."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from segacc.data.augment import Pair, Pipeline, augmented
from segacc.data.batches import Loader, load, scored_item
from segacc.data.items import Batch, Item, collate, nothing
from segacc.data.order import Cut, sample_seed
from segacc.data.sample_pair import read_sample
from segacc.data.samples import read_shard, samples_of
from segacc.errors import DataError, SegaccError, WorkerError, WriteError
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap

PATIENCE = 20
"""Number of epochs without a sample after which a reader raises an error."""


@dataclass(frozen=True)
class Position:
    """Where a reader is: a block, and how many of its samples were taken."""

    epoch: int = 0
    shard: int = 0
    """Index of the block's first shard in the reader's list of this epoch."""
    position: Any = None
    """Position in that shard before the block's first sample, as `Stream.read` takes it."""
    passed: int = 0
    """Samples of that shard before the position."""
    block: int = 0
    """Index of the block in this epoch."""
    offset: int = 0
    """Number of samples taken from the block."""


def deal(order: Sequence[int], reader: int, readers: int) -> list[tuple[int, int, int]]:
    """Return a reader's shards of an epoch; each sample belongs to exactly one reader.

    All readers get equally many whole shards; each remaining shard is shared by several readers,
    which take its samples in turn.

    Args:
        order: all shards of this epoch.
        reader: index of the reader, 0..readers-1.
        readers: number of workers of all processes.

    Returns:
        Tuples (shard, part, parts) in order: the reader gets sample n if n % parts == part.
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
    """One of several readers of a training stream: one worker of one process.

    It reads its part endlessly, epoch after epoch. The result of `items` is a function of (seed of
    the run, number, readers) alone.
    """

    train: "TrainStream"
    number: int
    """Index of this reader, 0..readers-1."""
    readers: int
    """Number of workers of all processes."""

    def items(
        self, position: Position, shares: Iterator[float] | None = None
    ) -> Iterator[tuple[Item | SegaccError, Position]]:
        """Yield decoded, augmented samples from a position on, each with the position after it.

        Undecoded samples are read in blocks, which are permuted. To resume inside a block, it is
        read again. `shares` has for each sample the fraction of the run's steps before its own, by
        default 0.

        Raises:
            SegaccError: a shard cannot be read, or this reader gets no samples.
        """
        size = max(1, self.train.stream.buffer // self.readers)
        block: list[Sample] = []
        barren, shares = 0, shares or repeat(0.0)
        while True:
            start, rows = position, self.rows(position)
            while behind := refill(block, rows, size):
                after = replace(behind, block=position.block + 1, offset=0)
                order = self._draw(position.epoch, position.block).permutation(len(block)).tolist()
                for turn in range(position.offset, len(block)):
                    key = (position.epoch, self.number, position.block, turn)
                    seed, share = sample_seed(self.train.seed, *key), next(shares)
                    item = self._item(block, order[turn], seed, share)
                    last = turn + 1 == len(block)
                    yield item, after if last else replace(position, offset=turn + 1)
                position = after
            barren = barren + 1 if position == start == Position(epoch=position.epoch) else 0
            if barren == PATIENCE:
                raise DataError(self._complaint())
            position = Position(epoch=position.epoch + 1)

    def rows(self, start: Position) -> Iterator[tuple[Sample, Position]]:
        """Yield this reader's undecoded samples of an epoch from a position on, see `items`."""
        order = self._draw(start.epoch).permutation(len(self.train.stream.shards)).tolist()
        mine = deal(order, self.number, self.readers)
        for turn, (shard, part, parts) in enumerate(mine[start.shard :], start.shard):
            here = start if turn == start.shard else Position(epoch=start.epoch, shard=turn)
            passed = here.passed
            name = self.train.stream.shards[shard]
            for sample, position in read_shard(self.train.stream, name, here.position):
                passed += 1
                if (passed - 1) % parts == part:
                    yield sample, replace(here, position=position, passed=passed)

    def _draw(self, epoch: int, block: int | None = None) -> np.random.Generator:
        """Return the generator for the order of an epoch's shards (all readers), or of a block."""
        key = (0,) if block is None else (1, self.number, block)
        return np.random.default_rng((self.train.seed, epoch, *key))

    def _item(
        self, block: Sequence[Sample], index: int, seed: int, share: float
    ) -> Item | SegaccError:
        return augmented(
            block[index].id,
            lambda: self._read(block[index]),
            self.train.pipeline.at(share),
            seed,
            fetch=lambda: self._read(block[int(torch.randint(len(block), ()))]),
            num_channels=self.train.num_channels,
        )

    def _read(self, sample: Sample) -> Pair:
        return read_sample(sample, self.train.labels, self.train.num_channels)

    def _complaint(self) -> str:
        shards = self.train.stream.shards
        more = f" ... {shards[-1]}" if len(shards) > 1 else ""
        return (
            f"{shards[0]}{more}: {PATIENCE} epochs contained no sample for reader "
            f"{self.number + 1} of {self.readers} (processes x workers). Are the shards empty? "
            "With so few samples, use fewer processes or --num-workers 0."
        )


def refill(
    block: list[Sample], rows: Iterator[tuple[Sample, Position]], size: int
) -> Position | None:
    """Replace the contents of a block by the next `size` samples, fewer at the end of an epoch.

    It is emptied first, since two blocks would need twice the memory.

    Returns:
        The position after the last sample; None if there are no more.
    """
    block.clear()
    behind: Position | None = None
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
        """Number of samples; None if unknown."""
        return self.stream.num_samples

    def loader(
        self,
        cut: Cut,
        steps: range,
        *,
        positions: Any,
        num_workers: int,
        pin_memory: bool,
        total: Any = None,
    ) -> Loader:
        """Return a loader of this process's micro-batches; it never uses the global generators.

        Args:
            cut: how a step is split over processes and micro-batches.
            steps: range of steps to load.
            positions: one for each of this process's workers, from their last batches: a Position
                as a dict, or None for the start.
            num_workers: 0 loads in this process.
            pin_memory: for asynchronous copies to a GPU.
            total: unused; the run has as many steps as the end of `steps`.

        Returns:
            An iterable of Batch, or of SegaccError once a shard cannot be read. The readers'
            batches alternate, from the first step of a run on.
        """
        turns = range(steps.start * cut.accumulation, steps.stop * cut.accumulation)
        train = Turns(self, cut, turns, tuple(positions))
        return load(train, num_workers, ahead=4, batch_size=None, pin_memory=pin_memory)

    def batches(
        self, cut: Cut, mine: int, workers: int, position: Position, shares: Iterable[float]
    ) -> Iterator[Batch | SegaccError]:
        """Yield the micro-batches of one of a process's readers, see `loader`.

        `shares` has one of `Reader.items` for each.
        """
        number, readers = cut.process * workers + mine, cut.processes * workers
        each = chain.from_iterable(repeat(share, cut.batch_size) for share in shares)
        items = Reader(self, number, readers).items(position, each)
        try:
            while True:
                taken = list(islice(items, cut.batch_size))
                batch = collate([item for item, _ in taken])
                if isinstance(batch, Batch):
                    batch = replace(batch, position=(mine, asdict(taken[-1][1])))
                yield batch
        except SegaccError as error:
            while True:  # the failing step still expects all its micro-batches
                yield error


@dataclass(frozen=True)
class Turns(IterableDataset[Any]):
    """The data set of a data loader: its workers yield the micro-batches in turn."""

    train: TrainStream
    cut: Cut
    turns: range
    """Indices of the micro-batches in this process's run."""
    positions: tuple[dict[str, Any] | None, ...]

    def __iter__(self) -> Iterator[Batch | SegaccError]:
        """Yield every n-th micro-batch, for the calling worker."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        mine = (self.turns.start + worker) % workers  # a loader starts with its worker 0
        position = self.positions[mine] if self.positions else None
        turns, per_step = self.turns[worker::workers], self.cut.accumulation
        shares = (turn // per_step * per_step / self.turns.stop for turn in turns)
        start = Position(**position or {})
        yield from islice(self.train.batches(self.cut, mine, workers, start, shares), len(turns))


@dataclass(frozen=True)
class EvalStream:
    """A streamed evaluation split."""

    stream: Stream
    labels: LabelMap
    num_channels: int

    @property
    def num_samples(self) -> int | None:
        """Number of samples; None if unknown."""
        return self.stream.num_samples

    def example_ids(self, count: int) -> frozenset[str]:
        """Return the ids of the first `count` samples; others would require reading further."""
        return frozenset(sample.id for sample in islice(samples_of(self.stream), count))

    def loader(self, *, process: int, processes: int, num_workers: int) -> Loader:
        """Return a loader of one process's samples, in order, with at most one worker.

        Each process iterates over all samples, so that it knows their number when the split ends,
        but decodes only its own.

        Yields:
            Item, equally many on each process; or SegaccError as the last one of its process.
        """
        return load(Share(self, process, processes), min(1, num_workers), batch_size=None)

    def items(
        self, *, process: int, processes: int, num_workers: int
    ) -> Iterator[Item | SegaccError]:
        """Yield the samples of `loader`, and an error if its worker is killed or has no memory."""
        try:
            yield from self.loader(process=process, processes=processes, num_workers=num_workers)
        except (WorkerError, WriteError) as error:
            yield error

    def batches(
        self, *, process: int, processes: int, num_workers: int, batch_size: int
    ) -> Iterator[list[Item | SegaccError]]:
        """Return one process's samples in batches of one, because later image sizes are unknown."""
        assert batch_size == 1
        items = self.items(process=process, processes=processes, num_workers=num_workers)
        return ([item] for item in items)

    def count(self, *, process: int, processes: int, batch_size: int) -> int | None:
        """Return the number of images of one process; None if the stream's length is unknown."""
        return None if self.num_samples is None else -(-self.num_samples // processes)


@dataclass(frozen=True)
class Share(IterableDataset[Any]):
    """Every n-th sample of a streamed evaluation split, with padding at the end."""

    data: EvalStream
    process: int
    processes: int

    def __iter__(self) -> Iterator[Item | SegaccError]:
        """Yield one process's samples; if a shard cannot be read, its error comes last."""
        data, given, count = self.data, 0, 0
        try:
            for count, sample in enumerate(samples_of(data.stream), 1):
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
            yield Item(*nothing(data.num_channels), padding=True)
