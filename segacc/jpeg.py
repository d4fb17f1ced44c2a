"""The usual kind of JPEG, decoded at less than half of what Pillow takes, to the same pixels."""

import io
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image as PILImage

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned; 1 is upright."""
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
"""What a JPEG that is whole starts and ends with."""
FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of a picture's header: baseline, extended, progressive."""
PIXELS = 0xDA
"""Marker that the header ends with."""
SIMPLE_MARKERS = (0xC4, 0xDB, 0xDD, 0xE0, 0xED, 0xFE)
"""Markers that say nothing of it: tables, restarts, JFIF, Photoshop's, comments."""


def decode_jpeg(source: bytes | Path) -> "Tensor | None":
    """Decode a whole, upright JPEG of three colours by torchvision's operator.

    Pillow copies the pixels twice on their way out; the operator, on the same libjpeg-turbo, not
    once. Whatever is not that plain is left to Pillow, which also tells what is wrong with it.

    Args:
        source: an encoded picture, or its path.

    Returns:
        (3, H, W) uint8 RGB, the channels next to each other in memory; None for any other picture,
        or where torchvision has no such operator.
    """
    import torch
    import torchvision  # noqa: F401  brings the operator

    data = content(source)
    if (
        data[:2] != JPEG_START
        or data[-2:] != JPEG_END
        or not hasattr(torch.ops.image, "decode_jpeg")
    ):
        return None
    try:
        if not (is_simple_jpeg(data) or is_plain(data)):
            return None
        bare = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: Tensor = torch.ops.image.decode_jpeg(bare, 3, False)
        return image
    except Exception:  # a damaged file makes either library raise anything; Pillow tells what
        return None


def is_simple_jpeg(data: bytes) -> bool:
    """Tell whether a header has three colours of 8 bits and nothing that says how they are meant.

    Pillow's own reading of a header takes longer, most of all in a worker between other work. A
    size that Pillow would warn of is left to it.
    """
    place, simple = 2, False
    while data[place] == 0xFF and data[place + 1] != PIXELS:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in FRAMES:
            bits, height, width, colors = struct.unpack_from(">BHHB", data, place + 4)
            most = PILImage.MAX_IMAGE_PIXELS or math.inf
            simple = bool(bits == 8 and colors == 3 and height * width <= most)
        elif marker not in SIMPLE_MARKERS:
            return False
        place += 2 + length
    return simple and data[place] == 0xFF


def is_plain(data: bytes) -> bool:
    """Tell whether Pillow takes it for an upright JPEG of three colours."""
    with PILImage.open(io.BytesIO(data)) as file:
        upright = file.getexif().get(ORIENTATION, 1) == 1
        return file.format == "JPEG" and file.mode == "RGB" and upright


def content(source: bytes | Path) -> bytes:
    """Return an encoded picture; nothing where its file cannot be read."""
    try:
        return source if isinstance(source, bytes) else source.read_bytes()
    except OSError:
        return b""
