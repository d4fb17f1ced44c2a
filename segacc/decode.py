"""From encoded pictures to tensors: images as RGB, labels as class ids through the label map."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import to_dtype

from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap


def read_image(source: bytes | Path, where: str) -> Tensor:
    """Decode a picture to (3, H, W) uint8 RGB, upright as its EXIF says.

    Raises:
        UnreadableError: missing or not a picture.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{where}: cannot read the image: {error.strerror}.") from None
    try:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except (RuntimeError, ValueError):  # what torchvision does not know (TIFF, BMP, ...) Pillow may
        image = _pillow_image(data, where)
    decoded: Tensor = to_dtype(image, torch.uint8, scale=True)  # a 16-bit PNG keeps its upper byte
    return decoded


def _pillow_image(data: bytes, where: str) -> Tensor:
    try:
        picture = ImageOps.exif_transpose(PILImage.open(io.BytesIO(data))).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableError(f"{where}: the image cannot be decoded: {plainly(error)}.") from None
    pixels: Tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return pixels


def plainly(error: Exception) -> str:
    """Tell Pillow's error without the name of its object."""
    unknown = isinstance(error, UnidentifiedImageError)
    return "not a picture of a known format" if unknown else str(error).rstrip(".")


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
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableError(f"{where}: the label cannot be decoded: {plainly(error)}.") from None
    if raw.ndim != 2:
        raise DataError(
            f"{where}: the label is a {picture.mode} picture of {raw.shape[2]} channels; "
            "expected one channel of class "
            "ids. Convert its colours to ids (palette PNGs are read as ids), or export index masks."
        )
    return torch.from_numpy(labels.apply(raw, where))


def read_sample(sample: Sample, labels: LabelMap) -> tuple[Tensor, Tensor]:
    """Decode a sample to image (3, H, W) uint8 and label (H, W) uint8.

    Raises:
        DataError: see `read_image` and `read_label`; or their sizes differ.
    """
    where = str(sample.label) if isinstance(sample.label, Path) else f"sample {sample.id}"
    image = read_image(sample.image, str(sample.image) if isinstance(sample.image, Path) else where)
    label = read_label(sample.label, labels, where)
    if image.shape[-2:] != label.shape:
        raise DataError(
            f"{where}: the label is {label.shape[0]}x{label.shape[1]} pixels, its image "
            f"{image.shape[-2]}x{image.shape[-1]} (height x width). They must be of one size: "
            "export the label again, "
            "or resize it with nearest neighbour."
        )
    return image, label
