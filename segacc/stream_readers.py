"""The readers of a stream: who reads which samples, in what order, and how one goes on exactly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from segacc.augment import Pair, Pipeline
from segacc.data import Item, augmented
from segacc.decode import read_sample
from segacc.errors import DataError, SegaccError
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap
from segacc.order import sample_seed
from segacc.samples import read_shard

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
