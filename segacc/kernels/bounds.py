"""Resize + argmax by bounds: most classes of most pixels need not be resized.

A bilinearly interpolated value is a convex mean of four corners. In a cell of the decoder's grid, a
class can therefore win only if its largest corner is not below the largest of all classes' smallest
corners. In the cells where a single class is left it is the prediction; only the pixels of the
others are resized, for the classes that are left.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MOST = 6
"""Classes left in a cell for which its pixels are resized alone; all classes if there are more."""
HARD = 0.4
"""Share of the pixels in cells with several classes, times those, above which resizing all classes
is faster; untrained networks are above."""
EVERY = 8
"""Distance of the rows of the grid that are looked at first."""
AT_ONCE = 2**16
"""Pixels that are resized at a time."""
ROUNDING = 4e-6
"""Bound of the rounding errors of interpolated float32 values, relative to the largest logit."""


class Taps(NamedTuple):
    """Where resized rows (or columns) lie between those of the grid."""

    low: Tensor
    """(n,) int64: the upper of the two rows."""
    share: Tensor
    """(n,) the weight of the lower one."""

    @classmethod
    def of(cls, given: int, wanted: int, extent: float, dtype: torch.dtype) -> "Taps":
        """Return the taps of the first `wanted` of `extent` rows, as torch computes them.

        Corners are not aligned, and the position is computed in the logits' dtype.
        """
        scale = torch.tensor(given / extent, dtype=dtype)
        place = (scale * (torch.arange(wanted, dtype=dtype) + 0.5) - 0.5).clamp(min=0)
        low = place.long().clamp(max=given - 1)
        return cls(low, place - low)


def argmax_by_bounds(
    logits: Tensor, size: tuple[int, int], extent: tuple[float, float]
) -> Tensor | None:
    """Return the class of each pixel of an image, or None if resizing all classes is faster.

    Args:
        logits: (K, h, w) float32 or float64 on the CPU, at most 256 classes.
        size: (H, W) in pixels.
        extent: height and width that the logits cover, at least `size`.

    Returns:
        (H, W) uint8, as the argmax of all resized logits; of equal values the first one. Values
        that differ only by rounding may be taken for each other.
    """
    margin = ROUNDING * max(float(one.abs()) for one in logits.aminmax())
    every = torch.arange(logits.shape[1])
    if not math.isfinite(margin) or too_many(
        classes_left(logits, every[EVERY // 2 :: EVERY], margin)[1]
    ):
        return None
    most, left, alive = classes_left(logits, every, margin)
    first = most.argmax(0)
    down, right = (
        Taps.of(*each, logits.dtype) for each in zip(logits.shape[1:], size, extent, strict=True)
    )

    def at_pixels(grid: Tensor) -> Tensor:
        return grid.index_select(0, down.low).index_select(1, right.low)

    several = at_pixels(left)
    if too_many(several):
        return None
    classes = at_pixels(first.to(torch.uint8))
    listed = candidates(most.where(alive, -torch.inf), left)
    for few in (True, False):
        here = (several > 1) & (several <= MOST) if few else several > MOST
        for place in torch.split(here.nonzero(), AT_ONCE):
            rows, columns = place.unbind(1)
            pixels = Pixels(logits, down, right, rows, columns)
            classes[rows, columns] = pixels.best(listed if few else None).to(torch.uint8)
    return classes


def classes_left(logits: Tensor, rows: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find the classes that can win in the cells of some rows of the grid.

    Returns:
        The largest corner of each class (K, r, w), the number of classes left (r, w) int16, and
        which they are (K, r, w).
    """
    upper = logits.index_select(1, rows)
    lower = logits.index_select(1, (rows + 1).clamp(max=logits.shape[1] - 1))
    least, most = (wider(join, join(upper, lower)) for join in (torch.minimum, torch.maximum))
    alive = most >= least.amax(0) - margin
    return most, alive.sum(0, dtype=torch.int16), alive


def wider(join: Callable[[Tensor, Tensor], Tensor], rows: Tensor) -> Tensor:
    """Join each column of (K, r, w) with the next one; the last one has none."""
    found = rows.clone()
    found[..., :-1] = join(rows[..., :-1], rows[..., 1:])
    return found


def too_many(left: Tensor) -> bool:
    """Return whether so many classes are left that resizing all of them is faster."""
    work = left.clamp(max=MOST + 1).sub_(1).float().mean() / MOST
    return not work <= HARD


def candidates(most: Tensor, left: Tensor) -> Tensor:
    """Return for each cell the classes that are left, in ascending order: (MOST, h, w).

    If fewer are left, others fill up the places; they cannot win.
    """
    found = torch.zeros((min(MOST, len(most)), *left.shape), dtype=torch.int64)
    rows, columns = ((left > 1) & (left <= MOST)).nonzero(as_tuple=True)
    largest = most[:, rows, columns].topk(len(found), dim=0).indices
    found[:, rows, columns] = largest.sort(0).values
    return found


class Pixels(NamedTuple):
    """Some pixels of the resized image."""

    logits: Tensor
    down: Taps
    right: Taps
    rows: Tensor
    columns: Tensor

    def best(self, listed: Tensor | None) -> Tensor:
        """Return the first of the best classes of each pixel: of those listed per cell, or all."""
        top, left = self.down.low[self.rows], self.right.low[self.columns]
        bottom = (top + 1).clamp(max=self.logits.shape[1] - 1)
        right = (left + 1).clamp(max=self.logits.shape[2] - 1)
        every = torch.arange(len(self.logits))[:, None]
        classes = every if listed is None else listed[:, top, left]
        across, downward = self.right.share[self.columns], self.down.share[self.rows]

        def row(number: Tensor) -> Tensor:
            a, b = self.logits[classes, number, left], self.logits[classes, number, right]
            return (1 - across) * a + across * b

        value = (1 - downward) * row(top) + downward * row(bottom)
        winner = value.argmax(0)
        return winner if listed is None else classes.gather(0, winner[None])[0]
