"""What an annotation file says, whichever tool wrote it: shapes of named classes on images.

Coordinates are in pixels of the image: x to the right, y down, (0, 0) is the corner of the first
pixel, and its centre is at (0.5, 0.5). A pixel belongs to a polygon if its centre is inside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Patch:
    """Part of an image as pixels, such as a decoded run-length encoding."""

    top: int
    """Row of its first pixel in the image."""
    left: int
    """Column of its first pixel in the image."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    read: Callable[[], NDArray[np.bool_]]
    """Decodes the pixels that belong to the shape: (height, width)."""


@dataclass(frozen=True)
class Shape:
    """One object or region: the union of its polygons, or a patch."""

    label: str
    """Name of its class; empty if the file gives none."""
    where: str
    """Names the annotation in errors, e.g. `annotation 17`."""
    polygons: tuple[NDArray[np.float64], ...] = ()
    """Corners as x, y: (N, 2) each, N >= 3; they may overlap and need not be closed."""
    patch: Patch | None = None
    """The pixels, if the shape is not given by polygons."""
    ignored: bool = False
    """True: its pixels are ignored, such as a crowd of COCO."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of an annotation file, with its shapes in the order in which they are drawn."""

    name: str
    """Path of the image as the file gives it."""
    shapes: tuple[Shape, ...]
    """From the lowest to the uppermost."""
    size: tuple[int, int] | None = None
    """Height and width that the file states; None if it states none."""


@dataclass(frozen=True)
class Annotations:
    """The images of an annotation file, or of a folder of them, that belong to one split."""

    names: tuple[str, ...]
    """Class names in the order of the file, without background."""
    images: Sequence[AnnotatedImage]
    """May create its items when asked for them."""
    notes: tuple[str, ...] = ()
    """What the user should know, such as the number of shapes without an area."""
