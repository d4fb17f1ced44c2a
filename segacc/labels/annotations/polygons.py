"""Turns label images into shapes: regions as simplified polygons, or as their exact pixels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segacc.contracts import IGNORE
from segacc.labels.annotations.draw import filled
from segacc.labels.annotations.outline import Region, Ring, regions_of
from segacc.labels.annotations.shapes import Patch, Shape

Form = Literal["mixed", "polygons", "masks"]
"""`mixed`: a polygon for each region, or a mask if it has holes; `polygons`: a hole is joined to
the outline by a cut; `masks`: the exact pixels of each region."""

TOLERANCE = 0.4
"""Default distance in pixels by which a polygon may deviate from the outline. Below 0.5 nearly all
pixels keep their side, because the centre of a pixel is half a pixel from its sides."""
SAME = 0.99
"""Lowest IoU of a region and its polygon; one that would be below gets its exact outline."""
LONG = 3
"""Length in pixels of two sides that meet in a corner of their own; shorter ones are steps."""


def shapes_of(
    label: NDArray[np.uint8],
    names: Mapping[int, str],
    *,
    form: Form = "mixed",
    tolerance: float = TOLERANCE,
) -> tuple[Shape, ...]:
    """Return the regions of a label image as shapes, the largest first, so that it lies below.

    Args:
        label: (H, W) uint8.
        names: the name of each value; other values are no shape. That of IGNORE is for pixels that
            are ignored, whose shapes are marked as such.
        form: see `Form`.
        tolerance: distance in pixels by which a polygon may deviate; 0 for the exact outline.
    """
    but = [value for value in np.unique(label).tolist() if value not in names]
    regions = regions_of(label, but)
    masks = {k for k, one in enumerate(regions) if one.holes or form == "masks"}
    masks = set() if form == "polygons" else masks
    others = [one for k, one in enumerate(regions) if k not in masks]
    rings = iter(simplified(others, tolerance))
    found = list[Shape]()
    for k, region in enumerate(regions):
        patch = Patch(*region.box, region.pixels) if k in masks else None
        polygons = () if patch else (joined(next(rings)),)
        name, ignored = names[region.value], region.value == IGNORE
        found.append(Shape(name, f"region {k + 1}", polygons, patch, ignored))
    return tuple(found)


def simplified(regions: Sequence[Region], tolerance: float) -> list[list[Ring]]:
    """Return for each region its outline and those of its holes with fewer corners.

    They deviate by at most `tolerance` pixels. If less than SAME of a region would remain, the
    tolerance is halved, down to TOLERANCE, and else its outlines are exact.
    """
    found = [[region.outer, *region.holes] for region in regions]
    waiting = list(range(len(regions)))
    for most in _levels(tolerance):
        fewer = iter(fewer_corners(smooth([ring for k in waiting for ring in found[k]]), most))
        tried = {k: [next(fewer) for _ in found[k]] for k in waiting}
        same = {k: rings for k, rings in tried.items() if _is_same(rings, regions[k])}
        waiting = [k for k in waiting if k not in same]
        found = [same.get(k, rings) for k, rings in enumerate(found)]
    return found


def _levels(tolerance: float) -> Iterator[float]:
    """Yield the tolerances to try, in descending order."""
    most = tolerance
    while most > TOLERANCE:
        yield most
        most /= 2
    if most:
        yield min(tolerance, TOLERANCE)


def _is_same(rings: Sequence[Ring], region: Region) -> bool:
    """Return whether outlines hold the pixels of a region, by their IoU."""
    top, left, *size = region.box
    pixels, drawn = region.pixels(), np.zeros(size, np.bool_)
    for ring in rings:
        if found := filled(ring - (left, top), (size[0], size[1])):
            row, column, part = found
            rows, columns = part.shape
            drawn[row : row + rows, column : column + columns] ^= part
    shared = np.count_nonzero(drawn & pixels)
    return bool(shared >= SAME * np.count_nonzero(drawn | pixels))


def smooth(rings: Sequence[Ring]) -> list[Ring]:
    """Replace the steps of outlines by lines through the middles of the pixels' sides.

    Corners of two long sides are kept, and rectangles. They hold the same centres of pixels as
    before.
    """
    if not rings:
        return []
    points, counts = np.concatenate(rings), np.array([len(ring) for ring in rings])
    after, before = _neighbours(counts)
    along = points[after] - points
    length = np.abs(along).sum(axis=1)
    half = along / length[:, None] / 2
    sharp = (length >= LONG) & (length[before] >= LONG) | np.repeat(counts == 4, counts)
    found = np.stack((points, points + half, points + along - half), axis=1)
    kept = np.stack((sharp, ~sharp, (length > 1) & ~sharp[after]), axis=1)
    owner = np.repeat(np.arange(len(rings)), counts)
    starts = np.cumsum(np.bincount(owner, kept.sum(axis=1)).astype(int))[:-1]
    return np.split(found[kept], starts)


def _neighbours(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the index of the next and of the preceding corner in lines with so many corners."""
    ends = np.cumsum(counts)
    after = np.arange(1, ends[-1] + 1)
    after[ends - 1] = ends - counts
    before = np.arange(-1, ends[-1] - 1)
    before[ends - counts] = ends - 1
    return after, before


def fewer_corners(rings: Sequence[Ring], tolerance: float) -> list[Ring]:
    """Leave out corners of closed lines by the algorithm of Douglas and Peucker (1973).

    Args:
        rings: (N, 2) each.
        tolerance: greatest distance of a corner that is left out from the line.

    Returns:
        (M, 2) each, 3 <= M <= N.
    """
    if not rings:
        return []
    points = np.concatenate([np.concatenate((ring, ring[:1])) for ring in rings])
    counts = np.array([len(ring) + 1 for ring in rings])
    start = np.cumsum(counts) - counts
    far = start + [int(_squared(ring - ring[0]).argmax()) for ring in rings]
    kept = np.zeros(len(points), np.bool_)
    kept[start] = kept[far] = True
    first, last = np.concatenate((start, far)), np.concatenate((far, start + counts - 1))
    while True:  # halves all parts of all lines at once
        long = last - first > 1
        first, last = first[long], last[long]
        if not len(first):
            break
        middle, distance = _farthest(points, first, last)
        far_off = distance > tolerance**2
        first, middle, last = first[far_off], middle[far_off], last[far_off]
        kept[middle] = True
        first, last = np.concatenate((first, middle)), np.concatenate((middle, last))
    parts = zip(rings, np.split(kept, start[1:]), strict=True)
    # A line there and back encloses nothing.
    return [ring[some[:-1]] if some.sum() > 2 else ring for ring, some in parts]


def _farthest(
    points: Ring, first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each part the corner that is farthest from the line between its ends.

    Returns:
        Its index, and its squared distance.
    """
    counts = last - first - 1
    starts = np.cumsum(counts) - counts
    part = np.repeat(np.arange(len(first)), counts)
    inner = np.arange(len(part)) - starts[part] + first[part] + 1
    along = points[last] - points[first]
    total = _squared(along)
    away = points[inner] - points[first][part]
    share = np.einsum("ij,ij->i", away, along[part]) / np.where(total, total, 1)[part]
    distance = _squared(away - np.clip(share, 0, 1)[:, None] * along[part])
    most = np.maximum.reduceat(distance, starts)
    is_most = np.flatnonzero(distance == most[part])
    chosen = is_most[np.unique(part[is_most], return_index=True)[1]]
    return inner[chosen], most


def _squared(vectors: Ring) -> NDArray[np.float64]:
    squared: NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors)
    return squared


def joined(rings: Sequence[Ring]) -> Ring:
    """Join an outline and those of its holes to one line, by cuts that go there and back.

    The cut starts at the leftmost corner of a hole and ends at the nearest corner so far.
    """
    outer, *holes = rings
    for hole in sorted(holes, key=lambda one: float(one[:, 0].min())):
        start = np.roll(hole, -int(hole[:, 0].argmin()), axis=0)
        near = int(_squared(outer - start[0]).argmin())
        outer = np.concatenate((outer[: near + 1], start, start[:1], outer[near:]))
    return outer
