"""Shared by the writers of annotation files."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from segacc.labels import Color
from segacc.labels.annotations.shapes import AnnotatedImage, Patch

Add = Callable[[AnnotatedImage], None]
"""Writes an image with its shapes; its size must be known."""


def whole(patch: Patch, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a patch in an image of (H, W)."""
    pixels = np.zeros(size, np.bool_)
    below, right = patch.top + patch.height, patch.left + patch.width
    pixels[patch.top : below, patch.left : right] = patch.read()
    return pixels


def hexadecimal(color: Color) -> str:
    """Return an RGB colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)
