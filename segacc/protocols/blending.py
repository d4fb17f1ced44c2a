"""Windows that overlap, blended into bands of full-size logits."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from segacc.kernels import resize as functional
from segacc.kernels.resize import resize
from segacc.protocols.bands import between, neighbours

Blend = Literal["even", "gaussian"]
SIGMA = 1 / 8
"""Standard deviation of Gaussian weights, of a window's side; as nnU-Net (Isensee et al., Nature
Methods 2021) weighs its windows."""


@dataclass(frozen=True)
class Grid:
    """Windows of one size in rows and columns over a picture."""

    tops: Sequence[int]
    """First row of the windows of each row, ascending from 0 without gaps."""
    lefts: Sequence[int]
    """First column of the windows of each column, the same way."""
    crop: tuple[int, int]
    """(height, width) of a window."""
    size: tuple[int, int]
    """(H, W) of the picture; windows may reach beyond it."""
    blend: Blend = "even"
    """All pixels of a window count alike, or those near its middle more."""

    @property
    def width(self) -> int:
        """Columns that the windows reach over."""
        return self.lefts[-1] + self.crop[1]

    @property
    def bands(self) -> list[tuple[int, int]]:
        """List the rows (first, last + 1) that no window touches after each row of windows."""
        return list(zip(self.tops, [*self.tops[1:], self.size[0]], strict=True))

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights of a window's rows and of its columns, whose product is a pixel's."""
        down, across = (importance(side, self.blend) for side in self.crop)
        return down, across

    def weighted(self, logits: Tensor, rows: slice = slice(None)) -> Tensor:
        """Weigh some rows of a window's full-size logits (N, K, rows, width)."""
        if self.blend == "even":
            return logits
        down, across = (one.to(logits.device) for one in self.weights)
        return logits * (down[rows, None] * across)

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor]:
        """Sums of these over all windows at each row and at each column of the picture."""
        down, across = self.weights
        return _sums(self.tops, down), _sums(self.lefts, across)

    def mean(self, total: Tensor, start: int) -> Tensor:
        """Divide summed rows (N, K, rows, width) from `start` on by their weights: W columns."""
        down, across = self.sums
        weights = down[start : start + total.shape[2], None] * across[: self.size[1]]
        return total[..., : self.size[1]] / weights.to(total.device)


def importance(length: int, blend: Blend) -> Tensor:
    """Return the weights of a window's rows or columns: (length,) int64 ones, or float32 0..1."""
    if blend == "even":
        return torch.ones(length, dtype=torch.int64)
    distance = torch.arange(length, dtype=torch.float64) - length // 2
    return (-0.5 * (distance / (SIGMA * length)) ** 2).exp().float()


def _sums(starts: Sequence[int], weights: Tensor) -> Tensor:
    """Sum at each place the weights of the windows that cover it."""
    total = torch.zeros(starts[-1] + len(weights), dtype=weights.dtype)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total


def blended_bands(
    windows: Iterable[Tensor], grid: Grid, *, limit: int | None = None
) -> Iterator[Tensor]:
    """Average the logits of overlapping windows at full size, each pixel over those that cover it.

    Rows are handed out as soon as no later window touches them. Where the full-size logits of one
    row of windows are within twice the limit, they are summed as they come. Of larger pictures the
    logits of the rows of windows that overlap are kept as the network gave them, and enlarged for
    a few rows at a time; that rounds otherwise in the last bit of a float32.

    Args:
        windows: logits (N, K, h, w) of each window, row by row.
        grid: where the windows lie.
        limit: elements of full-size logits that exist at a time; default `functional.CHUNK`.

    Yields:
        (N, K, rows, W) float32, from top to bottom, H rows in all.
    """
    source, limit = iter(windows), limit or functional.CHUNK
    first = next(source)
    summed = first.shape[0] * first.shape[1] * grid.crop[0] * grid.width
    overlap = max(sum(top - grid.crop[0] < one <= top for one in grid.tops) for top in grid.tops)
    kept = first.numel() * len(grid.lefts) * overlap
    source = chain([first], source)
    if summed < max(2 * limit, kept):
        return _as_they_come(source, grid)
    return _a_few_rows(source, grid, limit)


def _as_they_come(source: Iterator[Tensor], grid: Grid) -> Iterator[Tensor]:
    total = torch.empty(0)
    height, width = grid.crop
    for top, after in grid.bands:
        for left in grid.lefts:
            logits = grid.weighted(resize(next(source), grid.crop))
            if not total.numel():
                total = logits.new_zeros((*logits.shape[:2], height, grid.width))
            total[..., left : left + width] += logits
        done = after - top
        yield grid.mean(total[:, :, :done], top)
        total[:, :, : height - done] = total[:, :, done:].clone()
        total[:, :, height - done :] = 0


def _a_few_rows(source: Iterator[Tensor], grid: Grid, limit: int) -> Iterator[Tensor]:
    kept: list[_Row] = []
    for top, after in grid.bands:
        kept = [row.from_row(top) for row in kept if row.top + grid.crop[0] > top]
        kept.append(_Row(top, [next(source) for _ in grid.lefts], grid.crop))
        count, num_classes = kept[-1].logits[0].shape[:2]
        step = max(1, limit // (4 * count * num_classes * grid.width))  # all that is made of them
        for start in range(top, after, step):
            yield _blended(kept, grid, range(start, min(start + step, after)))


def _blended(kept: Sequence["_Row"], grid: Grid, rows: range) -> Tensor:
    """Blend some rows (N, K, rows, W) of the rows of windows that are kept."""
    one = kept[0].logits[0]
    total = one.new_zeros((*one.shape[:2], len(rows), grid.width), dtype=torch.float32)
    for row in kept:
        part = slice(rows.start - row.top, min(rows.stop - row.top, grid.crop[0]))
        if part.start < grid.crop[0]:
            for place, left in enumerate(grid.lefts):
                enlarged = grid.weighted(row.enlarged(place, part), part)
                count, width = enlarged.shape[2:]
                total[:, :, :count, left : left + width] += enlarged
    return grid.mean(total, rows.start)


@dataclass(frozen=True)
class _Row:
    """A row of windows, as the network gave their logits."""

    top: int
    logits: list[Tensor]
    """(N, K, h, w) of each, or what is left of them."""
    crop: tuple[int, int]
    height: int = 0
    """h of all of a window; default that of `logits`."""
    first: int = 0
    """Row that `logits` start at."""

    def near(self) -> tuple[Tensor, Tensor, Tensor]:
        """Find the rows that each of a window's rows lies between, see `neighbours`."""
        return neighbours(self.height or self.logits[0].shape[2], self.crop[0])

    def enlarged(self, place: int, rows: slice) -> Tensor:
        """Return some rows (N, K, rows, width) of a window at full size."""
        above, below, share = (near[rows] for near in self.near())
        part = between(self.logits[place], above - self.first, below - self.first, share)
        return resize(part, (len(share), self.crop[1]))

    def from_row(self, row: int) -> "_Row":
        """Leave out what only the picture's rows before `row` need."""
        first = int(self.near()[0][row - self.top])
        height = self.height or self.logits[0].shape[2]
        rest = [one[:, :, first - self.first :].clone() for one in self.logits]
        return _Row(self.top, rest, self.crop, height, first)
