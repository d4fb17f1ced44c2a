"""The usual kinds of PNG, decoded by imagecodecs where it is installed, to the same pixels.

Labels of ADE20K take two thirds of Pillow's time (benchmarks/data.py, with --pillow and without).
"""

import functools
import math
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from segacc.jpeg import content

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
GREY, RGB = 0, 2
"""Kinds of colour, in a PNG's header."""
SIMPLE_CHUNKS = set(b"IHDR IDAT IEND gAMA cHRM sRGB sBIT pHYs tIME bKGD tEXt".split())
"""Chunks that do not say how the pixels are meant, or say it to screens."""
TURNING = re.compile(rb"exif|xmp|raw profile", re.IGNORECASE)
"""In the name of a text that may say how the picture is turned."""

Pixels = np.ndarray[Any, Any]


@functools.cache
def decoder() -> Callable[[bytes], Pixels] | None:
    """Return what decodes, or None where imagecodecs is not installed."""
    try:
        from imagecodecs import png_decode
    except ImportError:
        return None
    return png_decode


def decode_png(source: bytes | Path) -> Pixels | None:
    """Decode a whole grey or RGB PNG of 8 bits by imagecodecs, to Pillow's pixels.

    Whatever is not that plain is left to Pillow, which also tells what is wrong with it.

    Args:
        source: an encoded picture, or its path.

    Returns:
        (H, W) or (H, W, 3) uint8; None for any other picture, or without imagecodecs.
    """
    decode = decoder()
    data = content(source) if decode else b""
    try:
        return decode(data) if decode and is_simple_png(data) else None
    except Exception:  # a damaged file; Pillow tells what
        return None


def refuse_wrong_checksum(source: bytes | Path) -> None:
    """Refuse a PNG with a chunk whose checksum is wrong: Pillow does not look at the pixels'.

    Raises:
        ValueError: so; a file that ends too early is left to Pillow.
    """
    data = content(source)
    place, view = len(SIGNATURE), memoryview(data)
    while data.startswith(SIGNATURE) and place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 <= len(data):
            stored = int.from_bytes(data[end : end + 4], "big")
            if zlib.crc32(view[place + 4 : end]) != stored:
                raise ValueError(f"damaged: the checksum of its part {name!r} is wrong")
        place = end + 4


def is_simple_png(data: bytes) -> bool:
    """Tell whether it is whole, 8 bits, grey or RGB, not interlaced, not transparent or turned.

    Damage is looked for here, as libpng would complain of it on stderr.
    """
    if not (data.startswith(SIGNATURE) and data.endswith(PNG_END)):
        return False
    width, height, bits, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if bits != 8 or color not in (GREY, RGB) or interlaced:
        return False
    if width * height > (PILImage.MAX_IMAGE_PIXELS or math.inf):
        return False
    place, view = len(SIGNATURE), memoryview(data)
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if name not in SIMPLE_CHUNKS or zlib.crc32(view[place + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            return False
        if name == b"tEXt" and TURNING.search(data[place + 8 : end].split(b"\0")[0]):
            return False
        place = end + 4
    return place == len(data)
