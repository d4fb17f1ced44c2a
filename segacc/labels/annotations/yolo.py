"""Reads YOLO's text files of polygons (docs.ultralytics.com/datasets/segment)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from segacc.errors import DataError, count_of, cut, first_of, read_text
from segacc.labels.annotations.reading import OUTSIDE, Faults, FileImages, ShapeError, polygon
from segacc.labels.annotations.shapes import AnnotatedImage, Annotations, Shape

SizeOf = Callable[[Path], tuple[int, int] | None]
"""Returns (height, width) of the upright image in a file; None if it cannot be read."""


def read_yolo(images: Sequence[Path], names: Sequence[str], size_of: SizeOf) -> Annotations:
    """Read the polygons of images, each from a text file when it is asked for.

    A line is `class x y x y ...`, where the class is an index into `names`, and x and y are
    fractions of the image's width and height. An image without a text file, or with an empty one,
    is all background.

    Args:
        images: paths of the images.
        names: the class names.
        size_of: reads the size of an image, by which the fractions are multiplied; picklable.
    """
    without = [path for path in images if not text_of(path).is_file()]
    if images and len(without) == len(images):
        raise DataError(
            f"{images[0]}: neither this image nor the {len(images) - 1} others of the split have "
            f"a text file of polygons, such as {text_of(images[0])}."
        )
    read = partial(_read, tuple(names), size_of)
    notes = (
        f"{count_of(len(without), 'image has', 'images have')} no text file, so all pixels are "
        f"background: {first_of(without, 2)}"
    )
    return Annotations(tuple(names), FileImages(tuple(images), read), (notes,) if without else ())


def text_of(image: Path) -> Path:
    """Return the text file of an image: NAME.txt, in labels/ if the image is below images/."""
    parts = list(image.parts)
    found = [k for k, part in enumerate(parts[:-1]) if part == "images"]
    if found:
        parts[found[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read(names: tuple[str, ...], size_of: SizeOf, image: Path) -> AnnotatedImage:
    """Read the polygons of one image.

    Raises:
        DataError: a line is faulty; the error names it and its file.
    """
    path, size = text_of(image), size_of(image)
    lines = _lines(path)
    if not lines or size is None:  # whoever reads the image reports it
        return AnnotatedImage(str(image), (), size)
    faults, shapes = Faults(path), list[Shape]()
    for number, line in lines:
        where = f"line {number}"
        with faults.of(where):
            shapes.append(_shape(line.split(), where, names, size))
    faults.stop()
    return AnnotatedImage(str(image), tuple(shapes), size)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = read_text(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: the polygons cannot be read: {error.strerror}.") from None
    return [(k, line) for k, line in enumerate(text.splitlines(), 1) if line.strip()]


def _shape(cells: Sequence[str], where: str, names: Sequence[str], size: tuple[int, int]) -> Shape:
    """Return the polygon of a line.

    Raises:
        ShapeError: it is a box, or faulty.
    """
    try:
        index, *values = (float(cell) for cell in cells)
    except ValueError:
        raise ShapeError(
            f"{cut(' '.join(cells))!r}: expected numbers, `class x y x y ...`"
        ) from None
    if len(values) == 4:
        raise ShapeError(
            "five numbers are a box, which is a label for detection, not for segmentation. Export "
            "polygons (YOLO segmentation) from your annotation tool"
        )
    if not 0 <= index < len(names) or index != int(index):
        raise ShapeError(
            f"its class is {cells[0]}; expected an index from 0 to {len(names) - 1} into the "
            f"{len(names)} class names"
        )
    corners = polygon(values, None)
    low, high = corners.min(), corners.max()
    if low < -OUTSIDE or high > 1 + OUTSIDE:
        raise ShapeError(
            f"its coordinates go from {low:g} to {high:g}; expected fractions of the image's width "
            "and height, from 0 to 1"
        )
    return Shape(names[int(index)], where, (polygon(corners * np.array(size[::-1]), size),))
