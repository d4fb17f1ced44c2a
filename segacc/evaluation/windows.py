"""Sliding windows: their layout, and blending and resizing of logits in bands of rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from segacc.evaluation.protocol_options import Blend
from segacc.kernels import resize as resizing
from segacc.kernels.resize import (
    Decided,
    Shares,
    decide,
    log_odds,
    probabilities,
    resize,
    resize_and_cut,
)

SIGMA = 1 / 8
"""Standard deviation of Gaussian weights, as a share of the window's side, as in nnU-Net (Isensee
et al., Nature Methods 2021)."""


def resized_bands(
    bands: Iterable[Tensor],
    given: tuple[int, int],
    size: tuple[int, int],
    *,
    extent: tuple[float, float] | None = None,
    limit: int | None = None,
) -> Iterator[Tensor]:
    """Resize the height of logits given in bands of rows, keeping few rows in memory.

    Args:
        bands: (N, K, rows, w) float from top to bottom, h rows in all.
        given: (h, w).
        size: (H, W) in pixels.
        extent: height and width covered by the bands, in pixels of the result, as in
            `resize_and_cut`; default `size`.
        limit: maximum elements at full size per yielded band; default `kernels.resize.CHUNK`.

    Yields:
        (N, K, rows, w) float32, H rows in all.
    """
    if given == size == (extent or size):
        yield from bands
        return
    above, below, share = neighbours(given[0], size[0], (extent or size)[0])
    kept, first, ready = torch.empty(0), 0, 0
    for band in bands:  # `kept` holds the rows from `first` on that are still needed
        kept = torch.cat([kept, band], dim=2) if kept.numel() else band
        last, ready = ready, int((below < first + kept.shape[2]).sum())
        elements = kept.shape[0] * kept.shape[1] * max(given[1], size[1])
        step = max(1, (limit or resizing.CHUNK) // elements)
        for start in range(last, ready, step):
            rows = slice(start, min(start + step, ready))
            yield between(kept, above[rows] - first, below[rows] - first, share[rows])
        done = int(above[ready]) if ready < size[0] else given[0]
        drop = min(done - first, kept.shape[2])
        kept, first = kept[:, :, drop:], first + drop


@lru_cache(maxsize=16)
def neighbours(given: int, size: int, extent: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows above and below each of `size` resized rows, and the lower row's weight."""
    position = (torch.arange(size, dtype=torch.float64) + 0.5) * given / (extent or size) - 0.5
    position = position.clamp(0, given - 1)
    above = position.floor()
    return above.long(), position.ceil().long(), (position - above).float()


def between(logits: Tensor, above: Tensor, below: Tensor, share: Tensor) -> Tensor:
    """Interpolate between rows of logits (N, K, h, w): (N, K, rows, w) float32."""
    upper, lower = (logits.index_select(2, rows.to(logits.device)) for rows in (above, below))
    return torch.lerp(upper.float(), lower.float(), share[:, None].to(logits.device))


def decide_bands(
    bands: Iterable[Tensor],
    given: tuple[int, int],
    size: tuple[int, int],
    shares: Shares | None = None,
    odds: Shares | None = None,
) -> Decided:
    """Return `kernels.resize.decide` for logits given in bands, see `resized_bands`."""
    parts = [
        decide(rows, (rows.shape[2], size[1]), shares=shares, odds=odds)
        for rows in resized_bands(bands, given, size)
    ]
    return Decided.joined(parts, 1)


class View(NamedTuple):
    """The logits of one view of N images, in bands."""

    bands: Iterable[Tensor]
    """(N, K, rows, w) float from top to bottom."""
    given: tuple[int, int]
    """(h, w) of all bands."""
    extent: tuple[float, float]
    """Height and width covered by the logits, in pixels of the original images."""
    flipped: bool = False
    """Whether the images were flipped horizontally."""


def mean_decision(
    views: Sequence[View], size: tuple[int, int], shares: Shares, *, limit: int, odds: bool = False
) -> Decided:
    """Predict each pixel from its mean probabilities over views; see `mean_probabilities`.

    With `odds`, the log-odds of two classes are returned as well.
    """
    parts = []
    for mean in mean_probabilities(views, size, shares, limit=limit):
        confidence, winner = mean.max(dim=1)
        second = log_odds(mean[:, 0], mean[:, 1], "sum") if odds else None
        parts.append(Decided(winner.to(torch.uint8), confidence, second))
    return Decided.joined(parts, 1)


def mean_probabilities(
    views: Sequence[View], size: tuple[int, int], shares: Shares, *, limit: int
) -> Iterator[Tensor]:
    """Average each pixel's probabilities over views, at the original size.

    The views are processed together, a few rows at a time, so the full-size probabilities of all
    rows are never in memory. mmsegmentation's SegTTAModel computes the same mean.

    Args:
        views: views of the same images.
        size: (H, W) of the original images.
        shares: how logits become probabilities.
        limit: maximum number of elements of a view's full-size logits in memory.

    Yields:
        (N, K, rows, W) float32 from top to bottom, H rows in all.
    """
    first, *others = (_full_rows(view, size, limit) for view in views)
    rest = [_Rows(other) for other in others]
    for full in first:
        total = probabilities(full, shares)
        for one in rest:
            total += probabilities(one.take(full.shape[2]), shares)
        yield total.div_(len(views))


def _full_rows(view: View, size: tuple[int, int], limit: int) -> Iterator[Tensor]:
    """Yield a view's logits (N, K, rows, W) float32 at the original size, flipped back."""
    found = resized_bands(view.bands, view.given, size, extent=view.extent, limit=limit)
    for rows in found:
        count = rows.shape[2]
        full = resize_and_cut(rows, (count, size[1]), (count, view.extent[1]))
        yield full.flip(-1) if view.flipped else full


class _Rows:
    """Reads bands (N, K, rows, W) by a given number of rows."""

    def __init__(self, bands: Iterator[Tensor]) -> None:
        """Start at the top."""
        self.bands, self.rest = bands, torch.empty(0)

    def take(self, count: int) -> Tensor:
        """Return the next (N, K, count, W)."""
        found = [self.rest] if self.rest.numel() else []
        while sum(one.shape[2] for one in found) < count:
            found.append(next(self.bands))
        rows = torch.cat(found, dim=2) if len(found) > 1 else found[0]
        self.rest = rows[:, :, count:]
        return rows[:, :, :count]


@dataclass(frozen=True)
class Grid:
    """A grid of windows of one size over an image."""

    tops: Sequence[int]
    """First pixel row of each row of windows, ascending from 0 without gaps."""
    lefts: Sequence[int]
    """First pixel column of each column of windows, likewise."""
    crop: tuple[int, int]
    """(height, width) of a window."""
    size: tuple[int, int]
    """(H, W) of the image; windows may extend beyond it."""
    blend: Blend = "even"
    """Weights of a window's pixels: equal, or Gaussian with the maximum at its centre."""

    @property
    def width(self) -> int:
        """Number of pixel columns that the windows cover."""
        return self.lefts[-1] + self.crop[1]

    @property
    def bands(self) -> list[tuple[int, int]]:
        """List the pixel rows (first, last + 1) that are complete after each row of windows."""
        return list(zip(self.tops, [*self.tops[1:], self.size[0]], strict=True))

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights of a window's rows and columns; a pixel's weight is their product."""
        down, across = (importance(side, self.blend) for side in self.crop)
        return down, across

    def weighted(self, logits: Tensor, rows: slice = slice(None)) -> Tensor:
        """Multiply rows of a window's full-size logits (N, K, rows, width) by their weights."""
        if self.blend == "even":
            return logits
        down, across = (one.to(logits.device) for one in self.weights)
        return logits * (down[rows, None] * across)

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor]:
        """Sums of the weights over all windows, for each row and each column of the image."""
        down, across = self.weights
        return _sums(self.tops, down), _sums(self.lefts, across)

    def mean(self, total: Tensor, start: int) -> Tensor:
        """Divide summed rows (N, K, rows, width) from `start` on by their weights; W columns."""
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
    """Sum the weights of the windows that cover each row or column."""
    total = torch.zeros(starts[-1] + len(weights), dtype=weights.dtype)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total


def blended_bands(
    windows: Iterable[Tensor], grid: Grid, *, limit: int | None = None
) -> Iterator[Tensor]:
    """Average the logits of overlapping windows at full size.

    Rows are yielded as soon as no later window covers them. If the full-size logits of one row of
    windows are within twice the limit, windows are resized and summed one by one. For larger images
    the network's own logits of the overlapping rows of windows are kept, and resized a few rows at
    a time; this may differ in the last bit of a float32.

    Args:
        windows: logits (N, K, h, w) of each window, row by row.
        grid: the layout of the windows.
        limit: maximum number of full-size logits in memory; default `kernels.resize.CHUNK`.

    Yields:
        (N, K, rows, W) float32, from top to bottom, H rows in all.
    """
    source, limit = iter(windows), limit or resizing.CHUNK
    first = next(source)
    summed, kept = elements(first, grid)
    source = chain([first], source)
    if summed < max(2 * limit, kept):
        return _as_they_come(source, grid)
    return _a_few_rows(source, grid, limit)


def elements(logits: Tensor, grid: Grid) -> tuple[int, int]:
    """Count the numbers that are in memory at a time, from the logits (N, K, h, w) of a window.

    Returns:
        The full-size logits of one row of windows, and the network's own logits of all rows of
        windows that overlap.
    """
    summed = logits.shape[0] * logits.shape[1] * grid.crop[0] * grid.width
    overlap = max(sum(top - grid.crop[0] < one <= top for one in grid.tops) for top in grid.tops)
    return summed, logits.numel() * len(grid.lefts) * overlap


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
        step = max(1, limit // (4 * count * num_classes * grid.width))  # 4: with temporary copies
        for start in range(top, after, step):
            yield _blended(kept, grid, range(start, min(start + step, after)))


def _blended(kept: Sequence["_Row"], grid: Grid, rows: range) -> Tensor:
    """Blend some pixel rows (N, K, rows, W) of the kept rows of windows."""
    one = kept[0].logits[0]
    total = one.new_zeros((*one.shape[:2], len(rows), grid.width), dtype=torch.float32)
    for row in kept:
        part = slice(rows.start - row.top, min(rows.stop - row.top, grid.crop[0]))
        if part.start < grid.crop[0]:
            for index, left in enumerate(grid.lefts):
                enlarged = grid.weighted(row.enlarged(index, part), part)
                count, width = enlarged.shape[2:]
                total[:, :, :count, left : left + width] += enlarged
    return grid.mean(total, rows.start)


@dataclass(frozen=True)
class _Row:
    """A row of windows, with the network's logits."""

    top: int
    logits: list[Tensor]
    """(N, K, h, w) of each window, or their rows from `first` on."""
    crop: tuple[int, int]
    height: int = 0
    """h of the complete logits of a window; default that of `logits`."""
    first: int = 0
    """The row at which `logits` start."""

    def near(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits' rows around each of a window's pixel rows, see `neighbours`."""
        return neighbours(self.height or self.logits[0].shape[2], self.crop[0])

    def enlarged(self, index: int, rows: slice) -> Tensor:
        """Return some rows (N, K, rows, width) of a window at full size."""
        above, below, share = (near[rows] for near in self.near())
        part = between(self.logits[index], above - self.first, below - self.first, share)
        return resize(part, (len(share), self.crop[1]))

    def from_row(self, row: int) -> "_Row":
        """Drop the logits that are only needed for the image's rows before `row`."""
        first = int(self.near()[0][row - self.top])
        height = self.height or self.logits[0].shape[2]
        rest = [one[:, :, first - self.first :].clone() for one in self.logits]
        return _Row(self.top, rest, self.crop, height, first)
