"""Draws the shapes of an annotated image as the raw ids of a label image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segacc.contracts import IGNORE
from segacc.labels.annotations import Overlap
from segacc.labels.annotations.outline import regions_of
from segacc.labels.annotations.reading import ShapeError
from segacc.labels.annotations.shapes import Patch, Shape

Region = tuple[int, int, NDArray[np.bool_]]
"""Row and column of the first pixel, and the pixels (h, w) that belong to it."""


def draw(
    shapes: Sequence[Shape],
    size: tuple[int, int],
    values: Mapping[str, int],
    *,
    background: int = 0,
    overlap: Overlap = "order",
) -> NDArray[Any]:
    """Draw shapes as raw ids, (H, W) uint8, or uint16 if a value is above 255.

    Args:
        shapes: from the lowest to the uppermost. Ignored ones lie below all others, so that they
            hide no object.
        size: (H, W) in pixels; what lies outside is cut off.
        values: the raw id of each class name.
        background: raw id of the pixels without a shape.
        overlap: which shape a pixel of several belongs to: the last one (`order`), or the smallest
            one (`small_on_top`), of equal ones the last.

    Raises:
        ShapeError: the pixels of a shape cannot be decoded; it names the shape.
    """
    large = max((*values.values(), background)) > 255
    label = np.full(size, background, np.uint16 if large else np.uint8)
    if overlap == "small_on_top":
        shapes = sorted(shapes, key=area, reverse=True)
    for shape in sorted(shapes, key=lambda one: not one.ignored):  # stable
        value = IGNORE if shape.ignored else values[shape.label]
        for top, left, inside in regions(shape, size):
            rows, columns = inside.shape
            np.copyto(label[top : top + rows, left : left + columns], value, where=inside)
    return label


def regions(shape: Shape, size: tuple[int, int]) -> Iterator[Region]:
    """Yield the parts of a shape that lie in an image of (H, W) pixels."""
    for corners in shape.polygons:
        if found := filled(corners, size):
            yield found
    if shape.patch:
        try:
            yield clipped(shape.patch, size)
        except ShapeError as error:
            raise ShapeError(f"{shape.where}: {error}") from None


def outlines(shapes: Sequence[Shape], size: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Return the polygons of shapes, and the outlines of patches and of their holes.

    Args:
        shapes: the shapes.
        size: (H, W) of the image, outside of which patches are cut off.

    Returns:
        x and y of the corners of each, (N, 2), in pixels.

    Raises:
        ShapeError: see `draw`.
    """
    found = [corners for shape in shapes for corners in shape.polygons]
    for shape in shapes:
        for top, left, inside in regions(replace(shape, polygons=()), size):
            for part in regions_of(inside.astype(np.uint8), but=(0,)):
                found += [ring + np.array([left, top], float) for ring in (part.outer, *part.holes)]
    return found


def clipped(patch: Patch, size: tuple[int, int]) -> Region:
    """Return the part of a patch that lies in an image of (H, W) pixels, perhaps no pixel."""
    top, left = max(0, patch.top), max(0, patch.left)
    bottom = min(size[0], patch.top + patch.height) - patch.top
    right = min(size[1], patch.left + patch.width) - patch.left
    pixels = patch.read()
    return top, left, pixels[top - patch.top : max(0, bottom), left - patch.left : max(0, right)]


def area(shape: Shape) -> float:
    """Return the area of a shape in pixels; that of overlapping polygons counts twice."""
    if shape.patch:
        whole = shape.patch.top + shape.patch.height, shape.patch.left + shape.patch.width
        return float(sum(pixels.sum() for _, _, pixels in regions(shape, whole)))
    return sum(polygon_area(corners) for corners in shape.polygons)


def polygon_area(corners: NDArray[np.float64]) -> float:
    """Return the area of a polygon with corners (N, 2) by the shoelace formula."""
    x, y = corners[:, 0], corners[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def filled(corners: NDArray[np.float64], size: tuple[int, int]) -> Region | None:
    """Return the pixels whose centres lie inside a polygon, by the even-odd rule.

    A centre on an edge belongs to the polygon on its right or below, so that polygons with common
    edges share no pixel and leave none between them.

    Args:
        corners: x and y, (N, 2), in pixels; it need not be closed.
        size: (H, W) of the image.

    Returns:
        None if there is no such pixel.
    """
    low, high = (np.ceil(edge(0) - 0.5).astype(int) for edge in (corners.min, corners.max))
    left, top = np.maximum(low, 0).tolist()
    right, bottom = np.minimum(high, size[::-1]).tolist()
    if left >= right or top >= bottom:
        return None
    columns, y = _crossings(corners - 0.5, left, right)
    rows = np.clip(np.ceil(y), top, bottom).astype(int) - top
    turns = np.zeros((bottom - top + 1, right - left), np.uint8)
    np.add.at(turns.reshape(-1), rows * turns.shape[1] + columns - left, np.uint8(1))
    inside = np.bitwise_xor.accumulate(turns & 1, axis=0)[:-1].view(np.bool_)
    return top, left, inside


def _crossings(
    corners: NDArray[np.float64], left: int, right: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where the edges of a polygon cross the columns left..right-1.

    Returns:
        The columns and y of all crossings, (M,) each.
    """
    x, y = corners[:, 0], corners[:, 1]
    x_end, y_end = np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(x, x_end)), left, right).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(x, x_end)), left, right).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(counts)), counts)
    columns = first[edge] + np.arange(len(edge)) - (np.cumsum(counts) - counts)[edge]
    steps = (columns - x[edge]) / (x_end - x)[edge]
    return columns, y[edge] + steps * (y_end - y)[edge]
