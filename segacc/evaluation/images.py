"""Convert the images that a Segmenter is given to tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from segacc.contracts import IGNORE, USUAL, Reading
from segacc.data.decode import MODES, opened_pixels, plainly, read_image, upper
from segacc.errors import DataError, OptionError, UnreadableError, expand, first_of, quoted

OneImage = PILImage.Image | str | Path | bytes | np.ndarray[Any, Any] | Tensor
"""One image, see `Segmenter.__call__`."""


def to_tensor(image: Any, num_channels: int = 3, reading: Reading = USUAL) -> Tensor:
    """Convert an image to (C, H, W) uint8, the same pixels as reading its file gives.

    Args:
        image: see `Segmenter.__call__`.
        num_channels: C of the network.
        reading: how many of 16 bits are used.

    Raises:
        DataError: the type, dtype or shape is not supported or is ambiguous.
    """
    if isinstance(image, str | Path):
        return read_image(expand(image, "Segmenter"), str(image), num_channels, reading)
    if isinstance(image, bytes):
        return read_image(image, "Segmenter", num_channels, reading)
    if isinstance(image, Tensor | np.ndarray):
        pixels = channels_last(eight_bits(image, reading.bits), num_channels)
        if num_channels not in MODES:
            return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        image = PILImage.fromarray(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels)
    if not isinstance(image, PILImage.Image):
        raise DataError(
            f"Segmenter: {type(image).__name__} is not an image. An image is a path, the bytes of "
            "a file, a PIL image, or a uint8 array or tensor."
        )
    if 0 in image.size:
        raise DataError(f"Segmenter: an image of size {image.width}x{image.height} has no pixels.")
    if num_channels not in MODES:
        raise DataError(
            f"Segmenter: the network takes {num_channels} channels, which a PIL image cannot have. "
            "Give the path or the bytes of a TIFF, or a uint8 array or tensor."
        )
    try:
        return torch.from_numpy(opened_pixels(image, "Segmenter", num_channels, reading))
    except DataError:
        raise
    except Exception as error:  # PIL decodes a file only now, and may raise anything
        raise UnreadableError(f"Segmenter: the image cannot be read: {plainly(error)}.") from None


def eight_bits(image: Tensor | np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Return an array's pixels as uint8; for uint16, the upper 8 of `bits` bits, as for files.

    Raises:
        DataError: the dtype is another, or uint16 without values above 255, which is ambiguous.
    """
    dtype = getattr(image.dtype, "name", str(image.dtype).removeprefix("torch."))
    if dtype not in ("uint8", "uint16"):
        raise DataError(
            f"Segmenter: the pixels are {dtype}, whose range is not known; they must be uint8 in "
            "0..255, or uint16 in 0..65535. Convert floats in 0..1 with "
            '(image * 255).round().astype("uint8"), or .to(torch.uint8) for a tensor.'
        )
    pixels = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    if pixels.dtype == np.uint8:
        return pixels
    if bits == 16 and 0 < pixels.max(initial=0) <= 255:
        raise DataError(
            "Segmenter: the pixels are uint16 and none is above 255, so white may be 255 or 65535. "
            'Give 8-bit pixels as image.astype("uint8"), or as image.to(torch.uint8) for a tensor.'
        )
    return upper(pixels, bits)


def channels_last(
    pixels: np.ndarray[Any, Any], num_channels: int
) -> np.ndarray[Any, Any]:  # (H, W, C)
    """Return (H, W), (H, W, C) or (C, H, W) as (H, W, C).

    Raises:
        DataError: the shape is another, or may be either of the last two.
    """
    channels = tuple(MODES) if num_channels in MODES else (num_channels,)
    if pixels.ndim == 2 and pixels.size and 1 in channels:
        return pixels[..., None]
    fits = pixels.ndim == 3 and pixels.size > 0
    last, first = fits and pixels.shape[2] in channels, fits and pixels.shape[0] in channels
    if last != first:
        return pixels if last else pixels.transpose(1, 2, 0)
    why = "may be (H, W, C) or (C, H, W)" if last else "is not that of one image"
    forms = "(H, W), (H, W, C)" if 1 in channels else "(H, W, C)"
    raise DataError(
        f"Segmenter: an array of shape {tuple(pixels.shape)} {why}. Give an image as {forms} or "
        f"(C, H, W) with {' or '.join(map(str, channels))} channels, and several as a list."
    )


def checked_dtype(dtype: str) -> torch.dtype:
    """Return the dtype of probabilities that was given by its name.

    Raises:
        OptionError: it is none of those that hold them.
    """
    names = ("float32", "float16", "uint8")
    if not isinstance(dtype, str) or dtype not in names:
        raise OptionError(
            f"Segmenter: probabilities: dtype: expected one of {', '.join(map(repr, names))}; "
            f"found {quoted(dtype)}."
        )
    return getattr(torch, dtype)  # type: ignore[no-any-return]


def checked_classes(
    prediction: np.ndarray[Any, Any] | Tensor, size: tuple[int, int], num_classes: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a prediction that was given as (H, W) uint8.

    Args:
        prediction: classes (H, W), integers; 255 is ignored.
        size: (H, W) of the image.
        num_classes: K.

    Raises:
        DataError: it is no array of integers, of another size, or has a value that is no class.
    """
    if not isinstance(prediction, np.ndarray | Tensor):
        raise DataError(
            f"Segmenter.overlay: the prediction is {type(prediction).__name__}; expected an array "
            "or tensor of classes (H, W), as a Segmenter returns it."
        )
    classes = np.asarray(prediction.cpu() if isinstance(prediction, Tensor) else prediction)
    if classes.shape != size or classes.dtype.kind not in "iu":
        raise DataError(
            f"Segmenter.overlay: the prediction is {classes.dtype} of shape {classes.shape}; "
            f"expected integers of shape {size}, the size of the image."
        )
    found = np.unique(classes)
    if wrong := [int(k) for k in found if k != IGNORE and not 0 <= k < num_classes]:
        raise DataError(
            f"Segmenter.overlay: the prediction has {first_of(wrong, 4)}; expected classes from 0 "
            f"to {num_classes - 1}, or {IGNORE} for ignored pixels. Raw label ids are not classes."
        )
    return classes.astype(np.uint8)
