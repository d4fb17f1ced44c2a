"""Reads JPEG, PNG and TIFF files, and the sizes that image files state."""

import functools
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from segacc.contracts import MAX_BYTES, MAX_PIXELS, Drawn
from segacc.errors import huge, refuse_special

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION = 0x0112
"""The EXIF tag of the orientation of an image; 1 is upright."""
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
"""First and last bytes of a complete JPEG."""
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
"""First and last bytes of a complete PNG."""
ARRAY_START = b"\x93NUMPY"
"""First bytes of a NumPy file."""
EIGHT_BITS = (b"\x08\0", b"\x08\x02")
"""Bit depth and colour type in the header of a PNG that is grey or RGB with 8 bits."""
UNUSUAL = (b"tRNS", b"iCCP", b"acTL", b"eXIf", b"exif", b"xmp")
"""Chunks of a PNG, and words in its text chunks, that may change the meaning of the pixels."""

Pixels = np.ndarray[Any, Any]

SAMPLES, BITS, PLANAR = 277, 258, 284
"""TIFF tags: number of channels, bits of each, planar configuration (2: plane after plane)."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

LYING = (5, 6, 7, 8)
"""Values of the EXIF orientation that swap height and width."""
OPENING = threading.Lock()
"""Held while Pillow's own limit is off, which is global."""


@contextmanager
def opened(source: bytes | Path) -> Iterator[PILImage.Image]:
    """Open an image of any size with Pillow, which reads its header only; see `refuse_large`.

    It may not be a FIFO, a device or a socket, which might never end.

    A NumPy file (.npy) of integers (H, W) is an image as well, as masks are often saved.

    Raises:
        OSError: it is missing or empty.
        Exception: Pillow's, for a damaged file.
    """
    if isinstance(source, Path):
        refuse_special(source)
    with OPENING:
        limit, PILImage.MAX_IMAGE_PIXELS = PILImage.MAX_IMAGE_PIXELS, None
        try:
            file: PILImage.Image | None = PILImage.open(
                io.BytesIO(source) if isinstance(source, bytes) else source
            )
        except UnidentifiedImageError:
            refuse_huge(source, MAX_BYTES)
            data, file = content(source), None
            if not data:
                raise OSError("it is empty") from None
            if not data.startswith(ARRAY_START):
                raise
        finally:
            PILImage.MAX_IMAGE_PIXELS = limit
    with file or _image_of_array(data) as image:
        yield image


def _image_of_array(data: bytes) -> PILImage.Image:
    """Return the array (H, W) in a NumPy file as an image.

    Raises:
        ValueError: it has other than two dimensions, or values other than integers of 32 bits.
    """
    array = np.load(io.BytesIO(data), allow_pickle=False)  # at most as large as the file
    whole = array.dtype.kind in "biu" and array.ndim == 2 and array.size
    if not whole or array.min() < -(2**31) or array.max() >= 2**31:
        raise ValueError(
            f"an array of shape {array.shape} and type {array.dtype}; expected (height, width) "
            "and integers of up to 32 bits, which are class ids"
        )
    return PILImage.fromarray(
        array.astype(np.uint8 if array.dtype in (bool, np.uint8) else np.int32)
    )


def encoded(source: bytes | Path | Drawn) -> bytes | Path:
    """Return an encoded label image, or its path, drawing it if necessary.

    Raises:
        DataError: see `Drawn`.
    """
    return source if isinstance(source, bytes | Path) else source.read_bytes()


def refuse_huge(source: bytes | Path, max_bytes: int) -> None:
    """Refuse an encoded image, or the file at a path, by its size, before it is read.

    Raises:
        OSError: it is missing, or is no regular file.
        ValueError: it has more bytes than `max_bytes`.
    """
    size = len(source) if isinstance(source, bytes) else refuse_special(source)
    if size > max_bytes:
        raise ValueError(huge(size, max_bytes))


def refuse_large(height: int, width: int, max_pixels: int) -> None:
    """Refuse an image by its size, before it is decoded.

    Raises:
        ValueError: it has more pixels than `max_pixels`.
    """
    if height * width > max_pixels:
        raise ValueError(
            f"it has {height * width} pixels ({height}x{width}), and up to {max_pixels} are read. "
            f"If memory suffices, set max_pixels={height * width}, an option of every data set, of "
            "`segacc predict` (--max-pixels) and of Segmenter.from_pretrained"
        )


@functools.cache
def torchcodec() -> Any:
    """Return torchcodec's decoders; None if it is not installed, does not load or is too old."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError):
        return None
    return decoders if hasattr(decoders, "decode_png") else None


def decoded_by() -> str:
    """Return what decodes plain JPEG and PNG files: torchcodec or Pillow."""
    return "torchcodec" if torchcodec() else "Pillow"


def decode_plain(
    source: bytes | Path, mode: str = "RGB", max_pixels: int = MAX_PIXELS
) -> "Tensor | None":
    """Decode a plain JPEG or PNG with torchcodec, to the same pixels as Pillow.

    Pillow reads all other images, and reports what is wrong with them: damaged, rotated,
    transparent or too large ones, and those with a palette or other than 8 bits.

    Args:
        source: an encoded image, or its path.
        mode: "RGB", or "UNCHANGED" to keep grey.
        max_pixels: maximum number of pixels.

    Returns:
        (C, H, W) uint8; None for any other image, or without torchcodec.
    """
    import torch

    decoders, data = torchcodec(), content(source)
    png = data.startswith(PNG_START)
    try:
        plain = is_plain_png if png else is_plain_jpeg
        if decoders is None or not plain(data, max_pixels):
            return None
        decode = decoders.decode_png if png else decoders.decode_jpeg
        image: Tensor = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=mode)
        return image
    except Exception:  # a damaged file makes either library raise anything
        return None


def is_plain_jpeg(data: bytes, max_pixels: int = MAX_PIXELS) -> bool:
    """Return whether it is a complete, upright RGB JPEG, by its header."""
    if not (data.startswith(JPEG_START) and data.endswith(JPEG_END)):
        return False
    with opened(data) as file:
        upright = file.getexif().get(ORIENTATION, 1) == 1
        plain = file.format == "JPEG" and file.mode == "RGB" and upright
        return plain and file.width * file.height <= max_pixels


def is_plain_png(data: bytes, max_pixels: int = MAX_PIXELS) -> bool:
    """Return whether it is a complete 8-bit PNG, grey or RGB, neither transparent nor rotated."""
    if not data.endswith(PNG_END) or data[24:26] not in EIGHT_BITS:
        return False
    width, height = struct.unpack_from(">II", data, 16)
    return width * height <= max_pixels and not any(part in data for part in UNUSUAL)


def content(source: bytes | Path) -> bytes:
    """Return the bytes of an encoded image; empty if the file cannot be read."""
    try:
        if not isinstance(source, bytes):
            refuse_special(source)
            return source.read_bytes()
    except OSError:
        return b""
    return source


def refuse_wrong_checksum(source: bytes | Path) -> None:
    """Refuse a PNG with a wrong checksum; Pillow does not check those of the pixel data.

    Raises:
        ValueError: a checksum is wrong. Pillow reports a file that ends too early.
    """
    data = content(source)
    place, view = len(PNG_START), memoryview(data)
    while data.startswith(PNG_START) and place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 <= len(data):
            stored = int.from_bytes(data[end : end + 4], "big")
            if zlib.crc32(view[place + 4 : end]) != stored:
                raise ValueError(f"damaged: the checksum of its part {name!r} is wrong")
        place = end + 4


def is_tiff(source: bytes | Path) -> bool:
    """Return whether an encoded image, or the file at a path, begins like a TIFF.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source.startswith(TIFF_STARTS)
    refuse_special(source)
    with source.open("rb") as file:
        return file.read(4) in TIFF_STARTS


def channels_in_file(file: PILImage.Image, bands: int) -> int:
    """Return the number of channels of a file; Pillow ignores one that is not marked as alpha."""
    return int(getattr(file, "tag_v2", {}).get(SAMPLES, bands))


def refuse_deep_planes(file: PILImage.Image) -> None:
    """Refuse a 16-bit TIFF with one plane after the other, from which Pillow reads noise.

    Raises:
        UnidentifiedImageError: as Pillow raises for unknown formats.
    """
    tags = getattr(file, "tag_v2", {})
    if tags.get(PLANAR) == 2 and max(tags.get(BITS, (8,))) > 8:
        raise UnidentifiedImageError


def read_tiff(source: bytes | Path, num_channels: int, max_pixels: int) -> Pixels:
    """Return the first image of a TIFF, (C, H, W) in its own dtype.

    Raises:
        ImportError: tifffile is not installed, or imagecodecs, which a compressed one may need.
        ValueError: it has no pixels, or too many.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        first = file.series[0]
        page = first.keyframe
        refuse_large(page.imagelength, page.imagewidth, max_pixels)
        if first.size > num_channels * max_pixels:
            raise ValueError(f"it has {first.size} values, too many for {num_channels} channels")
        return _planes(first.asarray(), first.axes, num_channels)


def _planes(pixels: Pixels, axes: str, num_channels: int) -> Pixels:
    """Move the channels first; `axes` names the axes as tifffile does."""
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


def picture_size(source: bytes | Path, *, stored: bool = False) -> tuple[int, int] | None:
    """Return (height, width) of the upright image without decoding it; None if it is unknown.

    Args:
        source: an encoded image, or its path.
        stored: ignore its EXIF orientation.
    """
    try:
        with opened(source) as file:
            # A PNG's own `getexif` would decode it; a TIFF's size is that of the upright image.
            turned = _turn(file) in LYING and stored == (file.format == "TIFF")
            return (file.width, file.height) if turned else (file.height, file.width)
    except Exception:  # a damaged file makes Pillow raise anything; the decoder reports it
        return None


def turn_of(source: bytes | Path) -> int:
    """Return the EXIF orientation 1..8 of an image; 1 (upright) if the header has none."""
    try:
        with opened(source) as file:
            return _turn(file)
    except Exception:  # a damaged file makes Pillow raise anything; the decoder reports it
        return 1


def _turn(file: PILImage.Image) -> int:
    return int(PILImage.Image.getexif(file).get(ORIENTATION, 1))
