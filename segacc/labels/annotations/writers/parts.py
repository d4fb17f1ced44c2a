"""Shared by the writers of annotation files: the classes that they list, and pixels of patches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segacc.contracts import IGNORE
from segacc.errors import DataError
from segacc.labels import Color, LabelMap
from segacc.labels.annotations import IGNORED
from segacc.labels.annotations.polygons import TOLERANCE, Form, shapes_of
from segacc.labels.annotations.shapes import AnnotatedImage, Patch

BACKGROUNDS = ("background", "_background_")
"""Names of a class, in lower case, that has no shapes: it is what no shape covers."""
GREY = (128, 128, 128)
"""Colour of the class of ignored pixels, which is listed after all others if there are some."""

Add = Callable[[AnnotatedImage], None]
"""Writes an image with its shapes; its size must be known."""


@dataclass
class Outlines:
    """Turns label images into shapes, and knows the classes that an annotation file lists."""

    labels: LabelMap
    form: Form = "mixed"
    """See `shapes_of`."""
    tolerance: float = TOLERANCE
    """See `shapes_of`."""
    some_ignored: bool = False
    """Whether an image so far has ignored pixels."""

    def __post_init__(self) -> None:
        """Refuse a class that readers would ignore.

        Raises:
            DataError: a class has the name of ignored pixels.
        """
        if IGNORED in self.labels.names:
            raise DataError(
                f'The class "{IGNORED}" cannot be written: in annotation files this name stands '
                "for pixels that are ignored. Rename it, or ignore its pixels with "
                f"map={{drop: [{IGNORED}]}}."
            )

    @property
    def classes(self) -> dict[str, Color]:
        """The classes that have shapes, in order, and their colours."""
        pairs = zip(self.labels.names, self.labels.palette, strict=True)
        found = {name: color for name, color in pairs if name.lower() not in BACKGROUNDS}
        return {**found, IGNORED: GREY} if self.some_ignored else found

    @property
    def ids(self) -> dict[str, int]:
        """The place of each class in the list, also of the ignored one: it is the last."""
        return {name: k for k, name in enumerate(dict.fromkeys([*self.classes, IGNORED]))}

    def image(self, name: str, label: NDArray[np.uint8]) -> AnnotatedImage:
        """Return the shapes of a label image (H, W), under the name that the file gives it."""
        shown = self.classes
        names = {k: one for k, one in enumerate(self.labels.names) if one in shown}
        names[IGNORE] = IGNORED
        shapes = shapes_of(label, names, form=self.form, tolerance=self.tolerance)
        self.some_ignored |= any(shape.ignored for shape in shapes)
        return AnnotatedImage(name, shapes, (label.shape[0], label.shape[1]))


def whole(patch: Patch, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a patch in an image of (H, W)."""
    pixels = np.zeros(size, np.bool_)
    below, right = patch.top + patch.height, patch.left + patch.width
    pixels[patch.top : below, patch.left : right] = patch.read()
    return pixels


def hexadecimal(color: Color) -> str:
    """Return an RGB colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)
