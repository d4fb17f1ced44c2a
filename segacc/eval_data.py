"""A split that is scored: samples at their original size, in batches of one size."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from segacc.augment import Pair
from segacc.data import Item, Source, load, nothing, quiet
from segacc.errors import SegaccError, UnreadableError
from segacc.order import of_one_size, share
from segacc.samples import evenly_spaced

MOST_PIXELS = 2**22
"""Of a batch, unless it is one image: 16 pictures of 512x512, 2 of 1024x2048."""


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
