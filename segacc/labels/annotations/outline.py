"""Finds the regions of a label image and their outlines along the edges of pixels.

A region is a connected part of a class; pixels that touch at a corner only are connected, too. Its
outline has corners in whole numbers and holds exactly its pixels.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Corners of a closed line, x and y, (N, 2); the first one is not repeated."""
Ints = NDArray[np.int64]
RIGHT, DOWN, LEFT, UP = range(4)
"""Directions in which a region's outline goes along the side of a pixel, the region to its right:
each is the one after a right turn of the preceding one."""
STEP = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
"""x and y of each direction."""


@dataclass(frozen=True)
class Region:
    """A connected part of a class."""

    value: int
    """Its value in the label image."""
    runs: Ints
    """Its pixels: row, first column and the column behind the last one, (M, 3)."""
    outer: Ring
    """Its outline, clockwise on the screen."""
    holes: tuple[Ring, ...]
    """The outlines of its holes, counterclockwise."""

    @property
    def area(self) -> int:
        """Number of its pixels."""
        return int((self.runs[:, 2] - self.runs[:, 1]).sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Its first row and column, height and width."""
        (left, top), (right, bottom) = self.outer.min(0).tolist(), self.outer.max(0).tolist()
        return int(top), int(left), int(bottom - top), int(right - left)

    def pixels(self) -> NDArray[np.bool_]:
        """Return its pixels in its box: (height, width)."""
        top, left, height, width = self.box
        turns = np.zeros((height, width + 1), np.bool_)
        row, first, behind = self.runs.T
        turns[row - top, first - left] = turns[row - top, behind - left] = True
        inside: NDArray[np.bool_] = np.logical_xor.accumulate(turns, axis=1)[:, :-1]
        return inside


@dataclass(frozen=True)
class _Sides:
    """The sides of pixels at which a region ends, E of them."""

    value: Ints
    """Value of the region."""
    start: Ints
    """x and y of the corner where the side starts, (E, 2)."""
    direction: Ints
    following: Ints
    """Index of the side that continues the outline."""
    order: Ints
    """The sides of the first outline in order, then those of the second, and so on."""
    ring: Ints
    """Index of the outline of each side."""


def regions_of(label: NDArray[np.uint8], but: Collection[int] = ()) -> list[Region]:
    """Return the regions of a label image (H, W) uint8, the largest first.

    Args:
        label: the label image.
        but: values that are no region, such as that of the background.
    """
    value, row, first, behind = _runs(label, but)
    if not len(value):
        return []
    runs, sides = np.stack((row, first, behind), axis=1), _sides(label, but)
    rings = list(_corners(sides))
    owner, is_hole = _owners(sides, runs)
    holes = dict[int, list[Ring]]()
    for index in np.flatnonzero(is_hole).tolist():
        holes.setdefault(int(owner[index]), []).append(rings[index])
    region = owner[sides.ring[: len(runs)]]  # the outline at the left of each run
    order = np.argsort(region, kind="stable")
    starts = np.flatnonzero(np.diff(region[order], prepend=-1))
    found = list[Region]()
    for part in np.split(order, starts[1:]):
        ring = int(region[part[0]])
        inner = tuple(holes.get(ring, ()))
        found.append(Region(int(value[part[0]]), runs[part], rings[ring], inner))
    return sorted(found, key=lambda one: -one.area)


def _runs(label: NDArray[np.uint8], but: Collection[int]) -> tuple[Ints, Ints, Ints, Ints]:
    """Return value, row, first column and column behind of the runs of equal pixels in rows."""
    width = label.shape[1]
    begins = np.ones(label.shape, np.bool_)
    np.not_equal(label[:, 1:], label[:, :-1], out=begins[:, 1:])
    places = np.flatnonzero(begins)
    row, first = np.divmod(places, width)
    behind = first + np.diff(places, append=label.size)
    value = label.reshape(-1)[places].astype(np.int64)
    kept = ~np.isin(value, list(but))
    return value[kept], row[kept], first[kept], behind[kept]


def _sides(label: NDArray[np.uint8], but: Collection[int]) -> _Sides:
    """Return all sides: first those to the left of the runs in rows, then those to their right."""
    value, row, first, behind = _runs(label, but)
    down_value, column, top, bottom = _runs(np.ascontiguousarray(label.T), but)
    values = np.concatenate((value, value, down_value, down_value))
    x = np.concatenate((first, behind, column, column + 1))
    y = np.concatenate((row + 1, row, top, bottom))
    counts = (len(value), len(value), len(column), len(column))
    direction = np.repeat((UP, DOWN, RIGHT, LEFT), counts).astype(np.int64)
    start = np.stack((x, y), axis=1)
    following = _following(values, start, direction, label.shape)
    order, ring = _followed(following)
    return _Sides(values, start, direction, following, order, ring)


def _following(value: Ints, start: Ints, direction: Ints, shape: tuple[int, ...]) -> Ints:
    """Return for each side the one that continues the outline.

    Where two pixels of a region touch at a corner only, the outline goes on along the other pixel,
    a turn to the left.
    """
    height, width = shape

    def key(corner: Ints) -> Ints:
        places: Ints = (value * (height + 1) + corner[:, 1]) * (width + 1) + corner[:, 0]
        return places * 4

    keys = key(start) + direction
    order = np.argsort(keys)
    keys, wanted = keys[order], key(start + STEP[direction])
    to_left = wanted + (direction - 1) % 4
    found = np.minimum(np.searchsorted(keys, to_left), len(keys) - 1)
    following: Ints = order[np.where(keys[found] == to_left, found, np.searchsorted(keys, wanted))]
    return following


def _followed(following: Ints) -> tuple[Ints, Ints]:
    """Follow all outlines; see `order` and `ring` of _Sides."""
    after, seen = following.tolist(), bytearray(len(following))
    order, lengths = list[int](), list[int]()
    for side in range(len(after)):
        before = len(order)
        while not seen[side]:
            seen[side] = 1
            order.append(side)
            side = after[side]
        if len(order) > before:
            lengths.append(len(order) - before)
    ring = np.empty(len(order), np.int64)
    ring[order] = np.repeat(np.arange(len(lengths)), lengths)
    return np.array(order, np.int64), ring


def _corners(sides: _Sides) -> Iterator[Ring]:
    """Yield the corners of each outline, where its direction changes."""
    turns = np.empty(len(sides.direction), np.bool_)
    turns[sides.following] = sides.direction != sides.direction[sides.following]
    kept = sides.order[turns[sides.order]]
    starts = np.flatnonzero(np.diff(sides.ring[kept], prepend=-1))
    yield from np.split(sides.start[kept].astype(np.float64), starts[1:])


def _owners(sides: _Sides, runs: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Return for each outline the outer one of its region, and whether it is that of a hole."""
    end = sides.start + STEP[sides.direction]
    doubled = sides.start[:, 0] * end[:, 1] - end[:, 0] * sides.start[:, 1]
    is_hole = np.bincount(sides.ring, doubled) < 0
    owner = np.arange(len(is_hole))
    left, right = sides.ring[: len(runs)], sides.ring[len(runs) : 2 * len(runs)]
    before = np.flatnonzero(is_hole[right])  # runs that end at a hole
    before = before[np.lexsort((runs[before, 2], right[before]))]
    first = before[np.unique(right[before], return_index=True)[1]]  # at its leftmost column
    for run in first[np.argsort(runs[first, 2], kind="stable")].tolist():
        owner[right[run]] = owner[left[run]]  # its region's outline, or a hole further to the left
    return owner, is_hole
