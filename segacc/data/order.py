"""In what order training sees samples: a function of seed and step, however the work is cut."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler, get_worker_info

Key = tuple[int, ...]
"""(epoch, index of the sample), and its place in the epoch where a sample may come twice."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch, numpy and random seeded; their global states stay as they were.

    The generator of a CUDA `device` is seeded too when one is given. A data loader's worker has its
    global states for itself, so there nothing is put back.
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
    """Return the seed of one sample under its key: 63 bits from (seed, epoch, index, ...)."""
    digest = hashlib.blake2b(repr((seed, *map(int, key))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Order:
    """An endless row of epochs over `count` samples; place N is known without those before it.

    An epoch is a permutation. Where `chances` are given it is as many independent draws, in
    proportion to them, so that a sample may come twice or not at all.
    """

    def __init__(self, count: int, *, seed: int, chances: Sequence[float] | None = None) -> None:
        """Hold what decides the order.

        Args:
            count: of samples.
            seed: of the run.
            chances: (count,) numbers >= 0 that are not all 0.
        """
        self.count, self.seed = count, seed
        self.chances = None if chances is None else np.asarray(chances, np.float64)
        self.epochs: dict[int, np.ndarray[Any, np.dtype[np.int64]]] = {}

    def key(self, position: int) -> Key:
        """Return what comes at a position of the row."""
        epoch, place = divmod(position, self.count)
        index = int(self.epoch(epoch)[place])
        return (epoch, index) if self.chances is None else (epoch, index, place)

    def epoch(self, epoch: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Return the sample indices of one epoch, from (seed, epoch) only; two are kept."""
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
        """Draw the index of a sample from torch's generator, in proportion to the chances."""
        if self.chances is None:
            return int(torch.randint(self.count, ()))
        return int(torch.multinomial(torch.from_numpy(self.chances), 1))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How the batch of a step is shared by processes and micro-batches."""

    batch_size: int
    """Images per process per micro-batch."""
    accumulation: int = 1
    """Micro-batches per step."""
    process: int = 0
    processes: int = 1


class StepSampler(Sampler[list[Key]]):
    """Micro-batches of this process, from an endless row of epochs; a function of the step alone.

    Step s takes the samples from s * total_batch_size on in that row, however many processes and
    micro-batches share them, so no window is ever partial and the order never depends on how the
    work is cut.
    """

    def __init__(self, order: Order, steps: range, cut: Cut) -> None:
        """Cover some steps."""
        self.order, self.steps, self.cut = order, steps, cut

    def __len__(self) -> int:
        """Count micro-batches."""
        return len(self.steps) * self.cut.accumulation

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each micro-batch."""
        cut, size = self.cut, self.cut.batch_size
        for step in self.steps:
            for micro in range(cut.accumulation):
                turn = (step * cut.accumulation + micro) * cut.processes + cut.process
                yield [self.order.key(place) for place in range(turn * size, (turn + 1) * size)]


def share(count: int, *, process: int, processes: int) -> list[tuple[int, bool]]:
    """List one process's keys of a split: every `processes`-th sample, as many on each process.

    Past the end comes sample 0 as padding.
    """
    turns = range(process, -(-count // processes) * processes, processes)
    return [(index, False) if index < count else (0, True) for index in turns]


def of_one_size(
    sizes: Sequence[tuple[int, int] | None], *, batch_size: int, pixels: int
) -> list[list[int]]:
    """Cut a split that is scored into batches of images of one size.

    The cut depends on nothing else, so it is the same on any number of processes.

    Args:
        sizes: (height, width) of each image; one whose size is not known is alone.
        batch_size: images of a batch, at most.
        pixels: that a batch has, at most, unless it is one image.

    Returns:
        The indices of each batch, ascending; full batches first, in the order they are full.
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
