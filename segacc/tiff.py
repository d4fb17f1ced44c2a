"""TIFF files: what Pillow says of them that cannot be trusted, and all that tifffile reads."""

import io
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from segacc.png import Pixels

SAMPLES, BITS, PLANAR = 277, 258, 284
"""TIFF tags: number of channels, bits of each, and 2 where they lie one after the other."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(source: bytes | Path) -> bool:
    """Tell whether an encoded picture, or the file at a path, begins as a TIFF does.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source.startswith(TIFF_STARTS)
    with source.open("rb") as file:
        return file.read(4) in TIFF_STARTS


def channels_in_file(file: PILImage.Image, bands: int) -> int:
    """Return how many channels a file has: Pillow passes over one that is not marked as alpha."""
    return int(getattr(file, "tag_v2", {}).get(SAMPLES, bands))


def refuse_deep_planes(file: PILImage.Image) -> None:
    """Refuse a TIFF of 16 bits with one plane after the other: Pillow reads noise from it.

    Raises:
        UnidentifiedImageError: as Pillow does of what it does not know.
    """
    tags = getattr(file, "tag_v2", {})
    if tags.get(PLANAR) == 2 and max(tags.get(BITS, (8,))) > 8:
        raise UnidentifiedImageError


def read_tiff(source: bytes | Path, num_channels: int) -> Pixels:
    """Return the first picture of a TIFF, (C, H, W) of its own dtype.

    Raises:
        ImportError: tifffile is not installed, or imagecodecs, which a compressed one may need.
        ValueError: it has no pixels, or too many.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        first = file.series[0]
        if first.size > 2 * (PILImage.MAX_IMAGE_PIXELS or np.inf) * num_channels:
            raise ValueError(f"{first.size} values, which is more than Pillow would read")
        return _planes(first.asarray(), first.axes, num_channels)


def _planes(pixels: Pixels, axes: str, num_channels: int) -> Pixels:
    """Put the channels first; `axes` names Y, X and what is neither, as tifffile does."""
    if pixels.ndim < 2 or pixels.size == 0:
        raise ValueError("it has no pixels")
    if pixels.ndim == 2:
        return pixels[None]
    if "Y" in axes and "X" in axes:
        pixels = np.moveaxis(pixels, (axes.index("Y"), axes.index("X")), (-2, -1))
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    if len(pixels) != num_channels == pixels.shape[-1]:  # (H, W, C) that was written as pages
        pixels = pixels.transpose(2, 0, 1)
    return pixels
