"""The size of a picture as it will be decoded, from its header alone."""

import io
from pathlib import Path

from PIL import Image as PILImage

from segacc.jpeg import ORIENTATION

LYING = (5, 6, 7, 8)
"""Values of the EXIF orientation under which height and width change places."""


def picture_size(source: bytes | Path) -> tuple[int, int] | None:
    """Return (height, width) once upright, without decoding; None where that is not certain.

    Args:
        source: an encoded picture, or its path.
    """
    try:
        with PILImage.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            # A PNG's own `getexif` would decode it; a TIFF's size is that of the upright picture.
            turn = 1 if file.format == "TIFF" else PILImage.Image.getexif(file).get(ORIENTATION)
            return (file.width, file.height) if turn in LYING else (file.height, file.width)
    except Exception:  # a damaged file makes Pillow raise anything; the decoder tells what
        return None
