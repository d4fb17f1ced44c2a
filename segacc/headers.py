"""What the header of a picture says: its size as it will be decoded, whether its EXIF turns it."""

import io
from pathlib import Path

from PIL import Image as PILImage

from segacc.jpeg import ORIENTATION

LYING = (5, 6, 7, 8)
"""Values of the EXIF orientation under which height and width change places."""


def picture_size(source: bytes | Path, *, stored: bool = False) -> tuple[int, int] | None:
    """Return (height, width) once upright, without decoding; None where that is not certain.

    Args:
        source: an encoded picture, or its path.
        stored: its EXIF does not count.
    """
    try:
        with PILImage.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            # A PNG's own `getexif` would decode it; a TIFF's size is that of the upright picture.
            turned = _turn(file) in LYING and stored == (file.format == "TIFF")
            return (file.width, file.height) if turned else (file.height, file.width)
    except Exception:  # a damaged file makes Pillow raise anything; the decoder tells what
        return None


def turn_of(source: bytes | Path) -> int:
    """Return the EXIF orientation 1..8 of a picture; 1, upright, where its header says nothing."""
    try:
        with PILImage.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            return _turn(file)
    except Exception:  # a damaged file makes Pillow raise anything; the decoder tells what
        return 1


def _turn(file: PILImage.Image) -> int:
    return int(PILImage.Image.getexif(file).get(ORIENTATION, 1))
