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
LEADING = 8
"""Number of classes that are looked at first."""
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
    dense = logits if logits.is_contiguous() else logits.permute(1, 2, 0)  # as a network leaves it
    margin = ROUNDING * max(float(one.abs()) for one in dense.aminmax())
    height, width = (
        Taps.of(*given, logits.dtype) for given in zip(logits.shape[1:], size, extent, strict=True)
    )
    across, image = list(tiles(width)), None
    found = torch.empty(size, dtype=torch.uint8)
    for down in tiles(height):
        possible = classes_left(logits[:, down.cells.start : down.cells.stop + 1], across, margin)
        if possible is None:
            image = image or Resized(logits.contiguous(), size, extent=extent)
            for rows, here in image.bands(down.pixels):
                if values is not None:
                    values[here] = rows.amax(1)
                found[here] = best(rows, torch.arange(len(logits)))
            continue
        classes, left = possible
        band = of_these(logits[:, down.near], classes).transpose(0, 1)
        for tile, which in zip(across, left, strict=True):
            place = down.pixels, tile.pixels
            if len(which) == 1 and values is None:
                found[place] = classes[which].to(torch.uint8)
                continue
            full = resized_tile(band, down, tile, which)
            if values is not None:
                values[place] = full.amax(1)
            found[place] = best(full, classes[which])
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
    rows: Tensor, across: list[Tile], margin: float
) -> tuple[Tensor, list[Tensor]] | None:
    """Find the classes that can win in the tiles of some rows (K, r, w) of the grid.

    Returns:
        Classes, int64 and ascending, and for each tile those that can win there, as indices of
        them; None if there are so many that resizing all of them is faster.
    """
    classes = contenders_of(rows, margin)
    if len(classes) > HARD * len(rows):
        middle = (len(rows[0]) - 1) // 2
        found = able(rows[:, middle : middle + 2], across, margin)
        if found.float().mean() > HARD:  # one row tells as much as all
            return None
    found = able(of_these(rows, classes), across, margin)
    if found.sum() > HARD * len(rows) * len(across):
        return None
    return classes, [one.nonzero()[:, 0] for one in found]


def contenders_of(rows: Tensor, margin: float) -> Tensor:
    """Return the classes, ascending, that reach what the leading ones keep in every cell.

    A cheap bound that leaves out most classes of a trained network.
    """
    most = rows.amax((1, 2))
    leading = rows[most.topk(min(LEADING, len(rows))).indices]
    kept = corners(torch.minimum, leading).amax(0).min()
    return (most >= kept - margin).nonzero()[:, 0]


def of_these(rows: Tensor, classes: Tensor) -> Tensor:
    """Return some classes of (K, r, w), ascending; the same tensor for all."""
    return rows if len(classes) == len(rows) else rows.index_select(0, classes)


def able(rows: Tensor, across: list[Tile], margin: float) -> Tensor:
    """Return which classes of (C, r, w) can win in a cell of each tile: bool (tiles, C).

    A class cannot win in a cell if its largest corner is less than the largest of all classes'
    smallest corners.
    """
    least, most = (corners(join, rows) for join in (torch.minimum, torch.maximum))
    lead = most.sub_(least.amax(0)).amax(1)
    return torch.stack([lead[:, tile.cells].amax(1) for tile in across]) >= -margin


def corners(join: Callable[[Tensor, Tensor], Tensor], rows: Tensor) -> Tensor:
    """Join the corners of each cell of (C, r, w): new (C, r - 1, w - 1), but at least one each."""
    high = join(rows[:, :-1], rows[:, 1:]) if rows.shape[1] > 1 else rows.clone()
    return join(high[..., :-1], high[..., 1:]) if rows.shape[2] > 1 else high


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
