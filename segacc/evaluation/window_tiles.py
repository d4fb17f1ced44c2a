"""Predictions of overlapping windows on a CPU, a tile of pixels at a time.

The mean of windows, resized to the original size, is linear in the logits of each window, and each
weight is a product of one for the row and one for the column. So a tile of the result is a sum of
products of three matrices, and no full-size logits of other pixels are needed. The weights of a
pixel are not negative, and their sum over all windows is 1. As in `segacc.kernels.bounds`, a class
can therefore be excluded by the corners around a pixel, and a tile is computed for the classes only
that can win in it; for probabilities, for all classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from segacc.evaluation.windows import (
    Grid,
    between,
    blended_bands,
    decide_bands,
    elements,
    neighbours,
)
from segacc.kernels.bands import Taps
from segacc.kernels.bounds import ROUNDING, best
from segacc.kernels.resize import Decided, Shares, by_rows, decide, of_rows, resize, widened

BLOCK = 4
"""Rows and columns of logits whose pixels are bounded together."""
TILE = 8
"""Rows and columns of blocks that are computed together, at most."""
ELEMENTS = 2**22
"""Elements of a tile of all classes, at most, unless it has one block only."""


def decide_windows(
    windows: Iterable[Tensor],
    grid: Grid,
    size: tuple[int, int],
    shares: Shares | None = None,
    odds: Shares | None = None,
) -> Decided:
    """Predict each pixel from the mean of overlapping windows, resized to the original size.

    Many classes on a CPU are predicted by tiles. The result is that of `decide_bands` for
    `blended_bands`: of equal values the first one wins, and values that differ only by rounding may
    be taken for each other.

    Args:
        windows: logits (N, K, h, w) of each window, row by row.
        grid: the layout of the windows.
        size: (H, W) of the original images.
        shares: see `decide`.
        odds: see `decide`.
    """
    source = iter(windows)
    first = next(source)
    source = chain([first], source)
    sides = zip(grid.crop, size, grid.size, strict=True)
    height, width = (max(1, round(crop * wanted / seen)) for crop, wanted, seen in sides)
    summed, kept = elements(first, grid)
    if odds or kept > summed or not by_rows(first, (height, width)):
        return decide_bands(blended_bands(source, grid), grid.size, size, shares, odds)
    steps = max(1, BLOCK * height // first.shape[2]), max(1, BLOCK * width // first.shape[3])
    return Decided.joined(list(_bands(source, grid, size, steps, shares)), 1)


def _bands(
    source: Iterator[Tensor],
    grid: Grid,
    size: tuple[int, int],
    steps: tuple[int, int],
    shares: Shares | None,
) -> Iterator[Decided]:
    """Yield the predictions of rows of tiles, from top to bottom, once no later window has them."""
    first = next(source)
    source = chain([first], source)
    down, across = (parts_of(grid, side, first, size[side]) for side in (0, 1))
    side = math.isqrt(ELEMENTS // first.shape[1])
    height, width = (step * min(TILE, max(1, side // step)) for step in steps)
    columns = Side.of(across, range(size[1]), steps[1], width)
    above, below, _ = neighbours(grid.size[0], size[0])
    kept: list[_Row] = []
    ready = 0
    for number, (top, after) in enumerate(grid.bands, 1):
        need = int(above[min(ready, size[0] - 1)])
        kept = [row for row in kept if row.top + grid.crop[0] > need]
        kept.append(_Row(top, [next(source).contiguous() for _ in grid.lefts]))
        largest = torch.stack([end for row in kept for one in row.logits for end in one.aminmax()])
        margin = ROUNDING * largest.abs().max()
        start, ready = ready, int((below < after).sum())
        for here in _cut(range(start, ready), height):
            if not margin.isfinite():
                yield _plainly(kept, grid, size, here, shares)
                continue
            rows = Side.of(down[number - len(kept) : number], here, steps[0], height)
            images = ([row.of(image) for row in kept] for image in range(len(first)))
            found = [_decided(grids, rows, columns, margin, shares) for grids in images]
            yield Decided.joined(found, 0)


class _Row(NamedTuple):
    """A row of windows."""

    top: int
    logits: list[Tensor]
    """(N, K, h, w) of each window."""

    def of(self, image: int) -> list[Tensor]:
        """Return the logits (K, h, w) of one image."""
        return [one[image] for one in self.logits]


def _cut(pixels: range, step: int) -> list[range]:
    """Divide pixels into ranges of at most `step`."""
    return [pixels[start : start + step] for start in range(0, len(pixels), step)]


def _plainly(
    kept: Sequence[_Row], grid: Grid, size: tuple[int, int], here: range, shares: Shares | None
) -> Decided:
    """Predict some rows of the result from full-size logits, which need not be finite."""
    above, below, share = (one[here.start : here.stop] for one in neighbours(grid.size[0], size[0]))
    near, (height, width) = range(int(above[0]), int(below[-1]) + 1), grid.crop
    total = torch.zeros(1)
    for row in kept:
        rows = range(max(near.start, row.top), min(near.stop, row.top + height))
        own, ours = (slice(rows.start - k, rows.stop - k) for k in (row.top, near.start))
        for left, one in zip(grid.lefts, row.logits, strict=True):
            full = grid.weighted(resize(one, grid.crop))
            if total.ndim == 1:
                total = full.new_zeros(*full.shape[:2], len(near), grid.width)
            if rows:
                total[:, :, ours, left : left + width] += full[:, :, own]
    mean = grid.mean(total, near.start)
    if size != grid.size:
        mean = between(mean, above - near.start, below - near.start, share)
    return decide(mean, (len(here), size[1]), shares=shares)


Grids = Sequence[Sequence[Tensor]]
"""The logits (K, h, w) of the windows of one image: rows of windows."""


class Part(NamedTuple):
    """What a window adds to the rows (or columns) of the result."""

    start: int
    """Its first row."""
    matrix: Tensor
    """(n, h): the weights of the logits' rows for it and the next ones."""


def parts_of(grid: Grid, side: int, logits: Tensor, wanted: int) -> list[Part]:
    """Return the part of each row (side 0) or column (side 1) of windows.

    Args:
        grid: the layout of the windows.
        side: 0 or 1.
        logits: those of one window, (N, K, h, w).
        wanted: height or width of the result.
    """
    starts, crop, seen = (grid.tops, grid.lefts)[side], grid.crop[side], grid.size[side]
    given, dtype = logits.shape[2 + side], widened(logits[:0]).dtype
    weights, near = Taps.of(given, crop, crop, dtype).weights(slice(0, crop))
    window = weights.new_zeros(crop, given)
    window[:, near] = weights.flip(1)
    window *= grid.weights[side][:, None]
    above, below, share = neighbours(seen, wanted)
    if side == 1:  # as torch resizes the bands' columns
        above, share, _ = Taps.of(seen, wanted, wanted, dtype)
        below = (above + 1).clamp(max=seen - 1)
    parts = []
    for start in starts:
        stop = min(start + crop, seen)
        used = ((below >= start) & (above < stop)).nonzero()[:, 0]
        rows = window.new_zeros(stop - start + 2, given)  # beside it, there is one of zeros
        rows[1:-1] = window[: stop - start] / grid.sums[side][start:stop, None]
        upper, lower = (
            rows[one[used].clamp(start - 1, stop) - (start - 1)] for one in (above, below)
        )
        parts.append(Part(int(used[0]), torch.lerp(upper, lower, share[used, None].to(dtype))))
    return parts


class Piece(NamedTuple):
    """What a window adds to the rows (or columns) of a tile."""

    window: int
    pixels: slice
    """Rows of the tile."""
    near: slice
    """Rows of the logits."""
    weights: Tensor
    """(pixels, near)."""


class Tile(NamedTuple):
    """Some rows (or columns) of the result."""

    pixels: range
    blocks: slice
    pieces: list[Piece]


class Near(NamedTuple):
    """What a window adds to blocks of rows (or columns)."""

    window: int
    blocks: slice
    first: Tensor
    """(blocks,) int64, of `span` rows of logits, those that their pixels are interpolated from."""
    span: int
    least: Tensor
    """(blocks,) the smallest sum of a pixel's weights."""
    most: Tensor
    """(blocks,) the largest one."""


class Side(NamedTuple):
    """Rows (or columns) of the result, divided into blocks and tiles of blocks."""

    blocks: int
    near: list[Near]
    tiles: list[Tile]

    @classmethod
    def of(cls, parts: Sequence[Part], here: range, step: int, tile: int) -> "Side":
        """Divide pixels into blocks of `step` and tiles of `tile`, which is a multiple of `step`.

        And find what each window adds to them.
        """
        near, tiles = [], []
        for window, part in enumerate(parts):
            if (found := _near(window, part, here, step)) is not None:
                near.append(found)
        for index, pixels in enumerate(_cut(here, tile)):
            pieces = [_piece(window, part, pixels) for window, part in enumerate(parts)]
            blocks = slice(tile // step * index, tile // step * (index + 1))
            tiles.append(Tile(pixels, blocks, [one for one in pieces if one is not None]))
        return cls(-(-len(here) // step), near, tiles)


def _rows(part: Part, here: range) -> tuple[slice, Tensor]:
    """Return which of some pixels a window has a part in, and the weights for these."""
    first = max(here.start, part.start)
    last = max(first, min(here.stop, part.start + len(part.matrix)))
    own = part.matrix[first - part.start : last - part.start]
    return slice(first - here.start, last - here.start), own


def _piece(window: int, part: Part, here: range) -> Piece | None:
    pixels, weights = _rows(part, here)
    used = (weights > 0).any(0).nonzero()[:, 0]
    if not len(used):
        return None
    near = slice(int(used[0]), int(used[-1]) + 1)
    return Piece(window, pixels, near, weights[:, near].contiguous())


def _near(window: int, part: Part, here: range, step: int) -> Near | None:
    pixels, own = _rows(part, here)
    blocks = slice(pixels.start // step, -(-pixels.stop // step))
    if not (own > 0).any():
        return None
    end = min(blocks.stop * step, len(here))  # the last block may be cut
    weights = own.new_zeros(blocks.stop * step - blocks.start * step, own.shape[1])
    weights[pixels.start - blocks.start * step :][: len(own)] = own
    sums = weights.sum(1)
    sums[end - blocks.start * step :] = sums[end - blocks.start * step - 1]
    sums, used = sums.view(-1, step), (weights > 0).view(-1, step, own.shape[1]).any(1).int()
    first, last = used.argmax(1), own.shape[1] - 1 - used.flip(1).argmax(1)
    span = int((last - first)[used.any(1)].max()) + 1  # more than some need, for looser bounds
    first.clamp_(max=own.shape[1] - span)  # that of an unused block does not matter
    return Near(window, blocks, first, span, sums.amin(1), sums.amax(1))


def _decided(
    kept: Grids, rows: Side, columns: Side, margin: Tensor, shares: Shares | None
) -> Decided:
    """Predict one row of tiles."""
    (tile,), parts = rows.tiles, []
    left = None if shares else (lead(kept, rows, columns) >= -margin).any(1)
    for column in columns.tiles:
        if left is None:
            parts.append(of_rows(values(kept, tile, column), shares))
            continue
        classes = left[:, column.blocks].any(1).nonzero()[:, 0]
        if len(classes) > 1:
            found = best(values(kept, tile, column, classes), classes)
        else:
            found = classes.to(torch.uint8).expand(len(tile.pixels), len(column.pixels))
        parts.append(Decided(found[None]))
    return Decided.joined(parts, 2)


def lead(kept: Grids, rows: Side, columns: Side) -> Tensor:
    """Return by how much each class can win in a block of pixels: (K, blocks, blocks).

    A class cannot win where this is negative: where a class that is probably the best one has more,
    even if in each window the former has the largest of its corners, and the latter the smallest.
    """
    one = widened(kept[0][0])[:, 0, 0]
    total = one.new_zeros(len(one), rows.blocks, columns.blocks)
    ends = []
    for down in rows.near:
        for across in columns.near:
            logits = kept[down.window][across.window]
            least, most = (
                widened(reduced(reduced(logits, 1, down, join), 2, across, join))
                for join in (torch.minimum, torch.maximum)
            )
            lowest, highest = down.least[:, None] * across.least, down.most[:, None] * across.most
            share = torch.stack([lowest, highest])
            total[:, down.blocks, across.blocks] += least * share.mean(0)
            ends.append((down.blocks, across.blocks, least, most, share))
    probable = total.argmax(0, keepdim=True)
    total.zero_()
    for here, there, least, most, share in ends:
        ahead = most - least.gather(0, probable[:, here, there])
        total[:, here, there] += torch.maximum(ahead * share[0], ahead * share[1])
    return total


def reduced(logits: Tensor, dim: int, near: Near, join: Callable[..., Tensor]) -> Tensor:
    """Join the rows (or columns) of logits (K, h, w) near each block: one for each block."""
    start = int(near.first.min())
    found = logits.narrow(dim, start, int(near.first.max()) + near.span - start)
    done = 1
    while done < near.span:  # a row is now that joined with the next ones, `done` in all
        more = min(done, near.span - done)
        rest = found.shape[dim] - more
        found = join(found.narrow(dim, 0, rest), found.narrow(dim, more, rest))
        done += more
    return found.index_select(dim, near.first - start)


def values(kept: Grids, down: Tile, across: Tile, classes: Tensor | None = None) -> Tensor:
    """Return the logits of all or some classes in a tile: (rows, C, columns)."""
    count = len(kept[0][0]) if classes is None else len(classes)
    total = None
    for row in down.pieces:
        for column in across.pieces:
            part = kept[row.window][column.window][:, row.near, column.near]
            part = part if classes is None else part.index_select(0, classes)
            wide = torch.matmul(widened(part).transpose(0, 1), column.weights.T)
            full = torch.mm(row.weights, wide.flatten(1)).view(-1, *wide.shape[1:])
            if total is None:
                total = full.new_zeros(len(down.pixels), count, len(across.pixels))
            total[row.pixels, :, column.pixels] += full
    assert total is not None
    return total
