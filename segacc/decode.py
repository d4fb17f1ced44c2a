"""From encoded pictures to tensors: images as RGB, labels as class ids through the label map."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor

from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Number of channels to what Pillow calls such pixels."""


def read_image(source: bytes | Path, where: str, num_channels: int = 3) -> Tensor:
    """Decode a picture to (C, H, W) uint8, upright as its EXIF says; the first of several.

    Args:
        source: an encoded picture, or its path.
        where: what to call it.
        num_channels: C: 1 is grey, 3 RGB, 4 as the file has them.

    Raises:
        UnreadableError: missing or not a picture.
        DataError: its pixels have 32 bits, or three channels where four are wanted.
    """
    try:
        with PILImage.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            mode = file.mode
            upright = ImageOps.exif_transpose(eight_bit(file))
            if num_channels == 4 and len(upright.getbands()) == 4:
                pixels = np.array(upright)
            else:
                pixels = np.array(upright.convert(MODES[num_channels]))
            bands = len(file.getbands())
    except Exception as error:  # a damaged file makes Pillow raise anything
        raise UnreadableError(f"{where}: the image cannot be read: {plainly(error)}.") from None
    if mode in ("I", "F"):
        raise DataError(
            f"{where}: the image has 32 bits a pixel (mode {mode}), of no certain range. "
            "Save it with 8 or 16 bits."
        )
    if num_channels == 4 != bands:
        raise DataError(
            f"{where}: the image has {bands} channels (mode {mode}), --num-channels 4 wants four."
        )
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    image: Tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return image


def eight_bit(picture: PILImage.Image) -> PILImage.Image:
    """Keep the upper byte of a 16-bit grey picture, which Pillow would clip to white."""
    if not picture.mode.startswith("I;16"):
        return picture
    upper = PILImage.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    upper.info = picture.info
    return upper


def plainly(error: Exception) -> str:
    """Tell Pillow's error without the name of its object."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def read_label(source: bytes | Path, labels: LabelMap, where: str) -> Tensor:
    """Decode a label picture and map its raw ids: (H, W) uint8 classes, 255 ignored.

    A palette PNG is read as indices, 16-bit ids are kept.

    Raises:
        UnreadableError: missing or not a picture.
        DataError: it has colours instead of ids, or ids outside the map.
    """
    try:
        picture = PILImage.open(source if isinstance(source, Path) else io.BytesIO(source))
        raw = np.asarray(picture)
    except FileNotFoundError:
        raise UnreadableError(
            f"{where}: the label is missing; each image needs one of the same stem."
        ) from None
    except Exception as error:  # a damaged file makes Pillow raise anything
        raise UnreadableError(f"{where}: the label cannot be read: {plainly(error)}.") from None
    if raw.ndim != 2:
        raise DataError(
            f"{where}: the label is a {picture.mode} picture of {raw.shape[2]} channels; "
            "expected one channel of class "
            "ids. Convert its colours to ids (palette PNGs are read as ids), or export index masks."
        )
    if raw.dtype.kind == "f":
        raise DataError(
            f"{where}: the label holds fractions (mode {picture.mode}); expected class ids. "
            "Save them as 8-bit or 16-bit integers."
        )
    ids = raw.astype(np.uint8) if raw.dtype == bool else raw  # a 1-bit label
    return torch.from_numpy(labels.apply(ids, where))


def read_sample(sample: Sample, labels: LabelMap, num_channels: int = 3) -> tuple[Tensor, Tensor]:
    """Decode a sample to image (C, H, W) uint8 and label (H, W) uint8.

    Raises:
        DataError: see `read_image` and `read_label`; or their sizes differ.
    """
    where = str(sample.label) if isinstance(sample.label, Path) else f"sample {sample.id}"
    picture = str(sample.image) if isinstance(sample.image, Path) else where
    image = read_image(sample.image, picture, num_channels)
    label = read_label(sample.label, labels, where)
    if image.shape[-2:] != label.shape:
        raise DataError(
            f"{where}: the label is {label.shape[0]}x{label.shape[1]} pixels, its image "
            f"{image.shape[-2]}x{image.shape[-1]} (height x width). They must be of one size: "
            "export the label again, "
            "or resize it with nearest neighbour."
        )
    return image, label
