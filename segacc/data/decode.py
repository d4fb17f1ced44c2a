"""Decode image files to tensors: images as RGB, labels as class ids by the label map."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from PIL.Image import Transpose

from segacc.contracts import USUAL, Drawn, Reading
from segacc.data.codecs import (
    BITS,
    ORIENTATION,
    channels_in_file,
    decode_plain,
    encoded,
    is_tiff,
    opened,
    read_tiff,
    refuse_deep_planes,
    refuse_huge,
    refuse_large,
    refuse_wrong_checksum,
)
from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

if TYPE_CHECKING:
    from torch import Tensor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for each number of channels."""

COLORED = {"RGB": "RGB", "P": "RGB", "RGBA": "RGBA", "LA": "RGBA", "PA": "RGBA"}
"""Pillow's modes of labels that may have a colour table, and the mode in which they are read."""

INSTALL = 'pip install "segacc[tiff]"'

BACK = {
    **{2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM},
    **{5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_90},
    **{7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270},
}
"""The transposition that undoes each EXIF orientation."""

Pixels = np.ndarray[Any, Any]


def read_image(
    source: bytes | Path, where: str, num_channels: int = 3, reading: Reading = USUAL
) -> "Tensor":
    """Decode an image to (C, H, W) uint8, in any memory format; see `read_pixels`."""
    import torch

    with readable(where, "image"):
        refuse_huge(source, reading.max_bytes)
    image = decode_plain(source, max_pixels=reading.max_pixels) if num_channels == 3 else None
    if image is not None:
        return image
    return torch.from_numpy(read_pixels(source, where, num_channels, reading))


@contextmanager
def readable(where: str, what: str) -> Iterator[None]:
    """Turn an error of reading a file into one that names it.

    Raises:
        UnreadableError: the block raised an OSError or a ValueError.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{where}: the {what} cannot be read: {plainly(error)}.") from None


def read_pixels(
    source: bytes | Path, where: str, num_channels: int = 3, reading: Reading = USUAL
) -> Pixels:
    """Decode an image to (C, H, W) uint8, upright according to its EXIF; the first of several.

    The upper 8 of the 16 bits, or of the bits that are used, are kept. TIFF files with other than
    1, 3 or 4 channels, and those that Pillow does not know, are read by tifffile and not rotated.

    Args:
        source: an encoded image, or its path.
        where: its name in errors.
        num_channels: C: 1 is grey, 3 RGB, 4 and all others as in the file.
        reading: whether EXIF is applied, the number of bits that are used, and of pixels allowed.

    Raises:
        UnreadableError: missing, not an image, or too large.
        DataError: it has 32 bits per pixel or another number of channels; tifffile is needed and
            not installed; or only the upper byte of its 16 bits can be read and `reading` needs
            others.
    """
    with readable(where, "image"):
        refuse_huge(source, reading.max_bytes)
    if num_channels not in MODES:
        return _bands(source, where, num_channels, reading)
    try:
        with opened(source) as file:
            bands = len(file.getbands())
            beyond = num_channels == 4 == channels_in_file(file, bands) != bands
            if beyond or (cut(file, reading) and bands == num_channels and is_tiff(source)):
                # Pillow ignores a fourth channel that is not alpha, and the lower bytes
                return _bands(source, where, num_channels, reading)
            return opened_pixels(file, where, num_channels, reading)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        if is_tiff(source) and importlib.util.find_spec("tifffile"):
            return _bands(source, where, num_channels, reading)
        hint = f". It is a TIFF: perhaps tifffile reads it, {INSTALL}" if is_tiff(source) else ""
        raise UnreadableError(
            f"{where}: the image cannot be read: {plainly(error)}{hint}."
        ) from None
    except Exception as error:  # a damaged file makes Pillow raise anything
        raise UnreadableError(f"{where}: the image cannot be read: {plainly(error)}.") from None


def cut(picture: PILImage.Image, reading: Reading) -> bool:
    """Return whether Pillow keeps only the upper byte of pixels, and `reading` needs other bits."""
    return reading.bits < 16 and len(picture.getbands()) > 1 and bits_of(picture) == 16


def opened_pixels(
    picture: PILImage.Image, where: str, num_channels: int, reading: Reading = USUAL
) -> Pixels:
    """Return the result of `read_pixels` for an image that Pillow has opened; C is 1, 3 or 4.

    Raises:
        DataError: see `read_pixels`.
        ValueError: it is too large.
        Exception: Pillow's, for a damaged file.
    """
    refuse_large(picture.height, picture.width, reading.max_pixels)
    refuse_deep_planes(picture)
    mode, bands = picture.mode, len(picture.getbands())
    deep_pgm = picture.format == "PPM" and mode == "I"
    if num_channels == 4 != bands:
        raise DataError(
            f"{where}: the image has {bands} channels (mode {mode}); --num-channels 4 requires "
            "four."
        )
    if cut(picture, reading):
        raise DataError(
            f"{where}: bits={reading.bits} of the data set: only the upper byte of an image of 16 "
            f"bits and {bands} channels can be read. Save it as a TIFF of {num_channels} "
            "channels of 16 bits, or with 8 bits."
        )
    pixels = _channels_first(eight_bit(lay(picture, reading), reading.bits), num_channels)
    if mode in ("I", "F") and not deep_pgm:
        raise DataError(
            f"{where}: the image has 32 bits per pixel (mode {mode}), whose value range is "
            "unknown. Save it with 8 or 16 bits."
        )
    return pixels


def _channels_first(picture: PILImage.Image, num_channels: int) -> Pixels:
    """Return the pixels (C, H, W) uint8: grey, RGB or the four channels of the image."""
    four = num_channels == 4 == len(picture.getbands())
    if not four and picture.mode != MODES[num_channels]:
        picture = picture.convert(MODES[num_channels])
    pixels = np.array(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def lay(picture: PILImage.Image, reading: Reading) -> PILImage.Image:
    """Rotate an image by its EXIF, or leave it as stored; Pillow rotates TIFFs by itself."""
    if reading.exif != "stored":
        return upright(picture)
    turn = picture.getexif().get(ORIENTATION, 1) if picture.format == "TIFF" else 1
    picture.load()
    return picture.transpose(BACK[turn]) if turn in BACK else picture


def upright(picture: PILImage.Image) -> PILImage.Image:
    """Rotate an image by its EXIF; it is returned unchanged if there is no orientation."""
    picture.load()
    turned = picture.getexif().get(ORIENTATION, 1) != 1
    return ImageOps.exif_transpose(picture) if turned else picture


def eight_bit(picture: PILImage.Image, bits: int = 16) -> PILImage.Image:
    """Keep the upper 8 of the used bits of a 16-bit grey image, which Pillow would clip to white.

    Larger values become 255. Pillow itself scales a PGM to 16 bits.
    """
    if picture.format == "PPM" and picture.mode == "I":
        bits = 16
    elif not picture.mode.startswith("I;16"):
        return picture
    return PILImage.fromarray(upper(np.asarray(picture), bits))


def upper(pixels: Pixels, bits: int) -> Pixels:
    """Return the upper 8 of `bits` bits, at most 255."""
    return np.minimum(np.right_shift(pixels, bits - 8), 255).astype(np.uint8)


def bits_of(file: PILImage.Image) -> int:
    """Return the bits per channel of an open image, 8 or 16.

    PGM and PPM files count as 8, because they state themselves how many bits are used.
    """
    if file.format == "PNG":
        deep = str(getattr(file, "tile", [("", 0, 0, "")])[0][3]).find(";16") >= 0
    else:
        deep = max(getattr(file, "tag_v2", {}).get(BITS, (8,))) == 16
    return 16 if deep or file.mode.startswith("I;16") else 8


def unused_bits(sample: Sample, image: Any) -> int | None:
    """Return the largest upper byte of a 16-bit image; None if the bits that are used are known.

    Args:
        sample: its `reading` may state the bits.
        image: (C, H, W) uint8, as decoded: an array or a tensor.
    """
    source = sample.image
    if sample.reading.bits != 16:
        return None
    try:
        with opened(source) as file:
            deep = bits_of(file) == 16
    except UnidentifiedImageError:  # tifffile has read it
        most = sample.reading.max_pixels
        deep = read_tiff(source, len(image), most).dtype.itemsize == 2
    return int(image.max()) if deep else None


def plainly(error: Exception) -> str:
    """Describe Pillow's error without the name of its object."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _bands(source: bytes | Path, where: str, num_channels: int, reading: Reading) -> Pixels:
    """Read a TIFF with any number of channels with tifffile: (C, H, W) uint8.

    The channels may lie side by side, one after the other, or as pages.

    Raises:
        UnreadableError: missing, damaged or too large.
        DataError: not a TIFF, another number of channels, other values than 8 or 16 bits, or
            tifffile is not installed.
    """
    try:
        tiff = is_tiff(source)
        most = reading.max_pixels
        pixels = read_tiff(source, num_channels, most) if tiff else np.empty(0)
    except ImportError:
        raise DataError(
            f"{where}: a TIFF of {num_channels} channels is read with the package tifffile, which "
            f"is not installed: {INSTALL}."
        ) from None
    except Exception as error:  # a damaged file makes tifffile raise anything
        raise UnreadableError(f"{where}: the image cannot be read: {plainly(error)}.") from None
    if not tiff:
        raise DataError(
            f"{where}: --num-channels {num_channels} needs TIFF files of {num_channels} channels; "
            "this is no TIFF."
        )
    if len(pixels) != num_channels:
        raise DataError(
            f"{where}: the image has {len(pixels)} channels; --num-channels {num_channels} "
            f"requires {num_channels}."
        )
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise DataError(
            f"{where}: the image has values of type {pixels.dtype.name}, whose range is "
            "unknown. Save it with 8 or 16 bits."
        )
    if pixels.dtype.itemsize > 1:
        pixels = upper(pixels, reading.bits)
    return np.array(pixels, np.uint8, order="C")


def read_label(
    source: bytes | Path | Drawn, labels: LabelMap, where: str, reading: Reading = USUAL
) -> "Tensor":
    """Decode a label image and map its raw ids: (H, W) uint8 classes, 255 ignored.

    Raises:
        DataError: see `raw_label`; or it has ids outside the map.
    """
    import torch

    raw = raw_label(source, labels, where, reading, codec=True)
    return torch.from_numpy(labels.apply(raw, where))


def raw_label(
    source: bytes | Path | Drawn,
    labels: LabelMap,
    where: str,
    reading: Reading = USUAL,
    *,
    codec: bool = False,
) -> Pixels:
    """Decode a label image to raw ids (H, W) of any integer dtype; the map is not applied.

    A palette PNG is read as indices; ids of 16 and 32 bits are kept. If `labels.colors` has
    colours, RGB and palette images are read by their colours, and grey ones as ids unless all
    colours are grey. With `codec`, torchcodec decodes a plain JPEG or PNG, to the same pixels;
    without it, torch is not imported. Of `reading`, only the limits apply to labels.

    Raises:
        UnreadableError: missing, not an image, or too large.
        DataError: it has colours that are not in the table, or fractional values; or it cannot be
            drawn.
    """
    source = encoded(source)
    try:
        refuse_huge(source, reading.max_bytes)
        raw, mode = _label_pixels(source, labels, reading.max_pixels, codec=codec)
    except FileNotFoundError:
        raise UnreadableError(
            f"{where}: the label is missing; each image needs a label with the same name."
        ) from None
    except Exception as error:  # a damaged file makes Pillow raise anything
        raise UnreadableError(f"{where}: the label cannot be read: {plainly(error)}.") from None
    if _counts_by_color(mode, labels):
        return _ids_of_colors(raw, labels, where)
    return _ids(raw, mode, where)


def _label_pixels(
    source: bytes | Path, labels: LabelMap, max_pixels: int, *, codec: bool
) -> tuple[Pixels, str]:
    """Return the pixels of a label image, colours as RGB or RGBA, and its mode in Pillow."""
    plain = decode_plain(source, "UNCHANGED", max_pixels=max_pixels) if codec else None
    if plain is not None:
        grey = len(plain) == 1
        if grey and not _counts_by_color("L", labels):
            return plain[0].numpy(), "L"
        return plain.expand(3, -1, -1).permute(1, 2, 0).numpy(), "L" if grey else "RGB"
    refuse_wrong_checksum(source)
    with opened(source) as file:
        refuse_large(file.height, file.width, max_pixels)
        mode, colored = file.mode, _counts_by_color(file.mode, labels)
        return np.asarray(file.convert(COLORED.get(mode, "RGB")) if colored else file), mode


def _counts_by_color(mode: str, labels: LabelMap) -> bool:
    if mode in COLORED or not labels.colors:
        return bool(labels.colors)
    return mode in ("1", "L") and all(r == g == b for r, g, b in labels.colors)


def _ids_of_colors(raw: Pixels, labels: LabelMap, where: str) -> Pixels:
    if raw.shape[2] == 4 and (clear := int((raw[..., 3] != 255).sum())):
        raise DataError(
            f"{where}: {clear} pixels of the label are transparent, so it is unclear which "
            "colour they have. Export it without transparency."
        )
    return labels.raw_ids(raw[..., :3], where)


def _ids(raw: Pixels, mode: str, where: str) -> Pixels:
    if raw.ndim != 2:
        raise DataError(
            f"{where}: the label is a {mode} image with {raw.shape[2]} channels; expected one "
            "channel of class ids. Name the class of each colour (colors=FILE of --dataset "
            "folder), or export index masks (palette PNGs are read as ids)."
        )
    if raw.dtype.kind == "f":
        raise DataError(
            f"{where}: the label has fractional values (mode {mode}); expected class ids. "
            "Save them as 8-bit or 16-bit integers."
        )
    return raw.astype(np.uint8) if raw.dtype == bool else raw  # a 1-bit label
