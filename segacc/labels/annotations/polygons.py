"""Turns label images into shapes: regions as simplified polygons, or as their exact pixels."""

from collections.abc import Collection, Mapping
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
    return tuple(
        _shape(region, names[region.value], f"region {number}", form, tolerance)
        for number, region in enumerate(regions_of(label, but), 1)
    )


def _shape(region: Region, name: str, where: str, form: Form, tolerance: float) -> Shape:
    ignored = region.value == IGNORE
    if form == "masks" or (form == "mixed" and region.holes):
        patch = Patch(*region.box, region.pixels)
        return Shape(name, where, patch=patch, ignored=ignored)
    rings = simplified(region, tolerance)
    return Shape(name, where, (joined(rings[0], rings[1:]),), ignored=ignored)


def simplified(region: Region, tolerance: float) -> list[Ring]:
    """Return the outline of a region and those of its holes with fewer corners.

    They deviate by at most `tolerance` pixels. If less than SAME of the region would remain, the
    tolerance is TOLERANCE at most, and else the outlines are exact.
    """
    exact = [region.outer, *region.holes]
    top, left, *_ = region.box
    pixels = region.pixels()
    for most in sorted({tolerance, min(tolerance, TOLERANCE)} - {0.0}, reverse=True):
        rings = [fewer_corners(smooth(ring), most) for ring in exact]
        drawn = _drawn([ring - (left, top) for ring in rings], pixels.shape)
        shared = np.count_nonzero(drawn & pixels)
        if shared >= SAME * np.count_nonzero(drawn | pixels):
            return rings
    return exact


def _drawn(rings: Collection[Ring], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Draw an outline and its holes (H, W)."""
    inside = np.zeros(size, np.bool_)
    for ring in rings:
        if found := filled(ring, (size[0], size[1])):
            top, left, part = found
            rows, columns = part.shape
            inside[top : top + rows, left : left + columns] ^= part
    return inside


def smooth(ring: Ring) -> Ring:
    """Replace the steps of an outline by lines through the middles of the pixels' sides.

    Corners of two long sides are kept. It holds the same centres of pixels as before.
    """
    if len(ring) == 4:
        return ring
    along = np.roll(ring, -1, axis=0) - ring
    length = np.abs(along).sum(axis=1, keepdims=True)
    half = along / length / 2
    is_long = length[:, 0] >= LONG
    sharp = is_long & np.roll(is_long, 1)
    points = np.stack((ring, ring + half, ring + along - half), axis=1)
    kept = np.stack((sharp, ~sharp, (length[:, 0] > 1) & ~np.roll(sharp, -1)), axis=1)
    found: Ring = points[kept]
    return found


def fewer_corners(ring: Ring, tolerance: float) -> Ring:
    """Leave out corners of a closed line by the algorithm of Douglas and Peucker (1973).

    Args:
        ring: (N, 2).
        tolerance: greatest distance of a corner that is left out from the line.

    Returns:
        (M, 2), 3 <= M <= N.
    """
    closed = np.concatenate((ring, ring[:1]))
    far = int(_squared(ring - ring[0]).argmax())
    kept = {0, far}
    parts = [(0, far), (far, len(ring))]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        distance = _squared_distances(closed[first + 1 : last], closed[first], closed[last])
        middle = first + 1 + int(distance.argmax())
        # The first cut is always made: a line there and back encloses nothing.
        if distance.max() > tolerance**2 or len(kept) < 3:
            kept.add(middle)
            parts += [(first, middle), (middle, last)]
    return ring[sorted(kept)]


def _squared(vectors: Ring) -> NDArray[np.float64]:
    squared: NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors)
    return squared


def _squared_distances(points: Ring, first: Ring, last: Ring) -> NDArray[np.float64]:
    """Return the squared distance of each point (N, 2) from a line between two points."""
    along, away = last - first, points - first
    total = float(along @ along)
    share = np.clip(away @ along / total, 0, 1) if total else np.zeros(len(points))
    return _squared(away - share[:, None] * along)


def joined(outer: Ring, holes: Collection[Ring]) -> Ring:
    """Join an outline and those of holes to one line, by cuts that go there and back.

    The cut starts at the leftmost corner of a hole and ends at the nearest corner so far.
    """
    for hole in sorted(holes, key=lambda one: float(one[:, 0].min())):
        start = np.roll(hole, -int(hole[:, 0].argmin()), axis=0)
        near = int(_squared(outer - start[0]).argmin())
        outer = np.concatenate((outer[: near + 1], start, start[:1], outer[near:]))
    return outer
