"""Resize + argmax by bounds: most classes need not be resized at most places.

A bilinearly interpolated value is a convex mean of four corners. In a cell of the decoder's grid, a
class can therefore win only if its largest corner is not below the largest of all classes' smallest
corners. The grid is divided into tiles, and the pixels of a tile are resized for the classes only
that can win in one of its cells. Where these are many, as in noise, all classes are resized, a few
rows at a time.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segacc.kernels.bands import Resized, Taps

TILE = 16
"""Rows and columns of the grid that are resized together."""
HARD = 0.5
"""Share of the classes left, on average over tiles, above which resizing all is faster."""
ROUNDING = 4e-6
"""Bound of the rounding errors of interpolated float32 values, relative to the largest logit."""


def argmax_by_bounds(
    logits: Tensor,
    size: tuple[int, int],
    extent: tuple[float, float],
    values: Tensor | None = None,
) -> Tensor:
    """Return the class of each pixel of an image.

    Args:
        logits: (K, h, w) float32 or float64 on the CPU, finite, at most 256 classes.
        size: (H, W) in pixels.
        extent: height and width that the logits cover, at least `size`.
        values: (H, W), filled with the resized logits of these classes, unless it is None.

    Returns:
        (H, W) uint8, as the argmax of all resized logits; of equal values the first one. Values
        that differ only by rounding may be taken for each other.
    """
    logits = logits.contiguous()  # a network may have left classes next to each other in memory
    margin = ROUNDING * max(float(one.abs()) for one in logits.aminmax())
    image = Resized(logits, size, extent=extent)
    across = list(tiles(Taps.of(logits.shape[2], size[1], extent[1], logits.dtype)))
    found = torch.empty(size, dtype=torch.uint8)
    for down in tiles(image.down):
        left = classes_left(logits, down.cells, across, margin)
        if left is None:
            for rows, here in image.bands(down.pixels):
                if values is not None:
                    values[here] = rows.amax(1)
                found[here] = best(rows, torch.arange(len(logits)))
            continue
        band = logits[:, down.near].transpose(0, 1)
        for tile, classes in zip(across, left, strict=True):
            place = down.pixels, tile.pixels
            if len(classes) == 1 and values is None:
                found[place] = classes.to(torch.uint8)
                continue
            full = resized_tile(band, down, tile, classes)
            if values is not None:
                values[place] = full.amax(1)
            found[place] = best(full, classes)
    return found


class Tile(NamedTuple):
    """Some rows (or columns) of the grid, and the pixels between them and the next ones."""

    cells: slice
    pixels: slice
    near: slice
    """The rows that the pixels are interpolated from."""
    weights: Tensor
    """(pixels, near) their weights, the lowest row first."""


def tiles(taps: Taps) -> Iterator[Tile]:
    """Divide a side of the grid, except where no pixel is."""
    cells = max(taps.given - 1, 1)  # pixels beside the last row of the grid are in the last cell
    first = range(0, cells, TILE)
    edges = torch.searchsorted(taps.low, torch.tensor([*first, taps.given])).tolist()
    for start, top, bottom in zip(first, edges, edges[1:], strict=False):
        if top < bottom:
            pixels = slice(top, bottom)
            weights, near = taps.weights(pixels)
            yield Tile(slice(start, min(start + TILE, cells)), pixels, near, weights)


def classes_left(
    logits: Tensor, cells: slice, across: list[Tile], margin: float
) -> list[Tensor] | None:
    """Find the classes that can win in the tiles of some rows of cells.

    One row is looked at first.

    Returns:
        For each tile the classes, int64 and ascending; None if there are so many that resizing all
        of them is faster.
    """
    middle = (cells.start + cells.stop) // 2
    for rows in (slice(middle, middle + 1), cells):
        found = lead(logits, rows)
        left = torch.stack([found[:, tile.cells].amax(1) for tile in across]) >= -margin
        if left.float().mean() > HARD:
            return None
    return [one.nonzero()[:, 0] for one in left]


def lead(logits: Tensor, cells: slice) -> Tensor:
    """Return by how much each class can win in one of some rows of cells, per column: (K, w - 1).

    A class cannot win where this is negative: the largest of its corners, less the largest of all
    classes' smallest corners.
    """
    upper, lower = logits[:, cells], logits[:, cells.start + 1 : cells.stop + 1]
    if logits.shape[1] == 1:
        lower = upper
    least, most = (wider(join, join(upper, lower)) for join in (torch.minimum, torch.maximum))
    return most.sub_(least.amax(0)).amax(1)


def wider(join: Callable[[Tensor, Tensor], Tensor], rows: Tensor) -> Tensor:
    """Join each column of (K, r, w) with the next one: (K, r, w - 1), but at least one column."""
    return join(rows[..., :-1], rows[..., 1:]) if rows.shape[2] > 1 else rows


def resized_tile(band: Tensor, down: Tile, across: Tile, classes: Tensor) -> Tensor:
    """Resize some classes of a tile, from rows (s, K, w) of the grid: (r, C, W)."""
    part = band[:, :, across.near].index_select(1, classes).flip(0, 2)
    wide = torch.matmul(part, across.weights.T)
    return torch.mm(down.weights, wide.flatten(1)).view(-1, *wide.shape[1:])


def best(values: Tensor, classes: Tensor) -> Tensor:
    """Return the class of the first of the largest values (r, C, W), as (r, W) uint8.

    Args:
        values: no nan; overwritten.
        classes: (C,) int64, ascending.
    """
    rank = (len(classes) - torch.arange(len(classes))).to(values.dtype)[:, None]
    found = values.eq_(values.amax(1, keepdim=True)).mul_(rank).amax(1)
    return classes[len(classes) - found.long()].to(torch.uint8)
