"""The order of training samples: a function of seed and step, however a batch is split."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler, get_worker_info

Key = tuple[int, ...]
"""(epoch, sample index), and the index within the epoch if a sample may occur twice."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch, numpy and random inside a block; their global states are restored afterwards.

    The generator of a CUDA `device` is seeded too if one is given. In a data loader worker the
    global states are not restored, because nothing else uses them.
    """
    if device is None and get_worker_info() is not None:
        reseed(seed)
        yield
        return
    python, legacy = random.getstate(), np.random.get_state()
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        reseed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def reseed(seed: int) -> None:
    """Seed the global generators of torch (the CPU's), numpy and random."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def sample_seed(seed: int, *key: int) -> int:
    """Return the seed of one sample: 63 bits derived from (seed, epoch, index, ...)."""
    digest = hashlib.blake2b(repr((seed, *map(int, key))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Order:
    """Shuffled sample indices, epoch after epoch.

    Index N is computed directly, so a resumed run need not replay the earlier ones.

    An epoch is a permutation. With `chances` it consists of as many independent draws with these
    sampling weights, so a sample may occur several times or not at all.
    """

    def __init__(self, count: int, *, seed: int, chances: Sequence[float] | None = None) -> None:
        """Store what determines the order.

        Args:
            count: number of samples.
            seed: random seed of the run.
            chances: (count,) sampling weights >= 0, not all 0.
        """
        self.count, self.seed = count, seed
        self.chances = None if chances is None else np.asarray(chances, np.float64)
        self.epochs: dict[int, np.ndarray[Any, np.dtype[np.int64]]] = {}

    def key(self, position: int) -> Key:
        """Return the key at a position of the endless sequence."""
        epoch, offset = divmod(position, self.count)
        index = int(self.epoch(epoch)[offset])
        return (epoch, index) if self.chances is None else (epoch, index, offset)

    def epoch(self, epoch: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Return the sample indices of one epoch, from (seed, epoch) only; two are cached."""
        if epoch not in self.epochs:
            draw = np.random.default_rng((self.seed, epoch))
            if self.chances is None:
                order = draw.permutation(self.count)
            else:
                share = self.chances / self.chances.sum()
                order = draw.choice(self.count, size=self.count, p=share)
            self.epochs = {**{k: v for k, v in self.epochs.items() if k == epoch - 1}, epoch: order}
        return self.epochs[epoch]

    def another(self) -> int:
        """Draw a sample index with torch's generator, in proportion to the sampling weights."""
        if self.chances is None:
            return int(torch.randint(self.count, ()))
        return int(torch.multinomial(torch.from_numpy(self.chances), 1))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How the batch of a step is split over processes and micro-batches."""

    batch_size: int
    """Images per process per micro-batch."""
    accumulation: int = 1
    """Micro-batches per step."""
    process: int = 0
    processes: int = 1


class Keys(list[Key]):
    """The keys of a micro-batch.

    Attributes:
        share: the steps before its own, as a fraction of the run's.
    """

    share: float = 0.0


class StepSampler(Sampler[Keys]):
    """The micro-batches of this process, computed from the step alone.

    Step s takes total_batch_size samples from index s * total_batch_size of the endless sequence,
    however many processes and micro-batches share them. So no step has a partial batch, and the
    order does not depend on how a batch is split.
    """

    def __init__(
        self, order: Order, steps: range, cut: Cut, total: Callable[[], int] | None = None
    ) -> None:
        """Cover a range of steps; `total` returns the steps of the run, by default the range's end.

        It is called when the keys of a micro-batch are taken.
        """
        self.order, self.steps, self.cut = order, steps, cut
        self.total = total or (lambda: steps.stop)

    def __len__(self) -> int:
        """Return the number of micro-batches."""
        return len(self.steps) * self.cut.accumulation

    def __iter__(self) -> Iterator[Keys]:
        """Yield the keys of each micro-batch."""
        cut, size = self.cut, self.cut.batch_size
        for step in self.steps:
            for micro in range(cut.accumulation):
                turn = (step * cut.accumulation + micro) * cut.processes + cut.process
                keys = Keys(map(self.order.key, range(turn * size, (turn + 1) * size)))
                keys.share = step / self.total()
                yield keys


@dataclass(frozen=True)
class Rest:
    """A sampler without its first items."""

    sampler: Iterable[Any]
    start: int

    def __iter__(self) -> Iterator[Any]:
        """Yield the items after the first ones."""
        return islice(iter(self.sampler), self.start, None)


def share(count: int, *, process: int, processes: int) -> list[tuple[int, bool]]:
    """Return one process's keys of a split: every `processes`-th sample, equally many per process.

    The end is padded with sample 0.
    """
    turns = range(process, -(-count // processes) * processes, processes)
    return [(index, False) if index < count else (0, True) for index in turns]


def of_one_size(
    sizes: Sequence[tuple[int, int] | None], *, batch_size: int, pixels: int
) -> list[list[int]]:
    """Split an evaluation split into batches of images of one size.

    The result depends on nothing else, so it is the same on any number of processes.

    Args:
        sizes: (height, width) of each image; an image of unknown size gets its own batch.
        batch_size: maximum number of images per batch.
        pixels: maximum number of pixels per batch of several images.

    Returns:
        The indices of each batch, ascending; full batches first, in the order in which they fill
        up.
    """
    batches: list[list[int]] = []
    parts: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        if size is None:
            batches.append([index])
            continue
        part = parts.setdefault(size, [])
        part.append(index)
        if len(part) >= min(batch_size, pixels // (size[0] * size[1])):
            batches.append(parts.pop(size))
    return batches + list(parts.values())
