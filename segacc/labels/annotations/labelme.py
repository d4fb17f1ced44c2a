"""Reads labelme's JSON files, one for each image (github.com/wkentaro/labelme)."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from segacc.errors import DataError, count_of
from segacc.labels.annotations import IGNORED
from segacc.labels.annotations.reading import (
    Faults,
    ShapeError,
    class_name,
    ellipse,
    embedded,
    image_size,
    left_out,
    number,
    numbers,
    pixels_of,
    polygon,
    read_json,
    rectangle,
    value,
)
from segacc.labels.annotations.shapes import AnnotatedImage, Annotations, Patch, Shape

LINES = ("point", "points", "line", "linestrip")
"""Types of shapes that have no area."""


def read_labelme(files: Sequence[Path]) -> Annotations:
    """Read labelme's files; the classes are in alphabetical order, since no file lists them.

    Polygons, rectangles, circles and masks are read; points and lines, which have no area, are
    counted in the notes. `__ignore__` is ignored.

    Raises:
        DataError: a file is not labelme's, or a shape is faulty; the error names it and its image.
    """
    lines, images = Counter[str](), list[AnnotatedImage]()
    for file in files:
        images.append(_read(file, lines))
    names = {shape.label for image in images for shape in image.shapes if not shape.ignored}
    notes = left_out(files[0].parent, lines) if files else ()
    return Annotations(tuple(sorted(names)), tuple(images), notes)


def _read(path: Path, lines: Counter[str]) -> AnnotatedImage:
    content = read_json(path, "the labelme file")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f'{path}: not a labelme file: it has no list "shapes".')
    faults = Faults(path)
    size: tuple[int, int] | None = None
    name, shapes = "", list[Shape]()
    with faults.of("the image"):
        name = value(content, "imagePath", str)
        if content.get("imageHeight") is not None:
            size = image_size(number(content, "imageHeight"), number(content, "imageWidth"))
    for index, entry in enumerate(content["shapes"], 1):
        told = entry.get("label", "") if isinstance(entry, dict) else ""
        where = f'shape {index}, "{told}"'
        with faults.of(where, PurePosixPath(name.replace("\\", "/")).name):
            label, kind = value(entry, "label", str), entry.get("shape_type") or "polygon"
            if kind in LINES:
                lines[kind] += 1
            else:
                shapes.append(_shape(entry, kind, class_name(label), where, size))
    faults.stop()
    return AnnotatedImage(name, tuple(shapes), size)


def _shape(
    entry: Mapping[str, Any], kind: str, label: str, where: str, size: tuple[int, int] | None
) -> Shape:
    """Return a shape that has an area.

    Raises:
        ShapeError: it is faulty, or of an unknown type.
    """
    points, ignored = value(entry, "points", list), label == IGNORED
    if kind == "mask":
        return Shape(label, where, patch=_patch(entry, points, size), ignored=ignored)
    if kind == "polygon":
        return Shape(label, where, (polygon(points, size),), ignored=ignored)
    if kind not in ("rectangle", "circle"):
        known = "polygon, rectangle, circle, mask"
        raise ShapeError(f"its shape_type is {kind}; segacc reads {known}, and skips lines")
    if len(points) == 4 and kind == "rectangle":  # as newer versions write it
        return Shape(label, where, (polygon(points, size),), ignored=ignored)
    if len(points) != 2:
        raise ShapeError(f"its {kind} has {count_of(len(points), 'point')}; expected 2")
    (x, y), (x_end, y_end) = (numbers(one, 2, "point") for one in points)
    if kind == "rectangle":
        corners = rectangle(x, y, x_end, y_end)
    else:
        radius = math.hypot(x_end - x, y_end - y)
        corners = ellipse(x, y, radius, radius)
    return Shape(label, where, (polygon(corners, size),), ignored=ignored)


def _patch(entry: Mapping[str, Any], points: list[Any], size: tuple[int, int] | None) -> Patch:
    """Return the pixels of a mask, which `points` gives the first and the last pixel of.

    Raises:
        ShapeError: the mask is no picture, of another size, or far outside the image.
    """
    if len(points) != 2:
        raise ShapeError(f"its mask has {count_of(len(points), 'point')}; expected 2")
    (left, top), (right, bottom) = (map(int, numbers(one, 2, "point")) for one in points)
    polygon(rectangle(left, top, right + 1, bottom + 1), size)  # raises if it is outside
    data, found = embedded(value(entry, "mask", str), "mask")
    if found != (bottom - top + 1, right - left + 1):
        raise ShapeError(
            f"its mask has {found[0]}x{found[1]} pixels (height x width); its points span "
            f"{bottom - top + 1}x{right - left + 1}"
        )
    return Patch(top, left, *found, partial(pixels_of, data, "L"))
