"""Colour changes as one affine map per image, drawn in the worker, applied to whole batches.

A matrix is (3, 7) float64: for each of red, green and blue the factors of the three channels, an
offset in grey levels 0..255, and the factors of the image's mean red, green and blue, which
contrast uses. So it is drawn without access to the image. The maps are exact as long as no
intermediate value is clamped; `apply` clamps once, at the end.
"""

import cmath
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segacc.kernels import LUMA

Matrix = np.ndarray[Any, np.dtype[np.float64]]

ROWS = 128
"""Number of image rows that a CPU processes at a time."""
CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""I and Q of NTSC's YIQ; both are 0 for greys."""


def fused(steps: Iterable[tuple[str, float]]) -> Matrix:
    """Return the matrix (3, 7) of colour changes that are applied one after the other.

    Each is simple for a colour's grey value and its chroma (the remainder): a complex number, which
    hue multiplies by a phase.

    Args:
        steps: pairs of change and amount: `brightness` (factor of all channels, like torchvision's
            adjust_brightness), `offset` (grey levels added, like TensorFlow's adjust_brightness),
            `contrast` (factor of a channel's difference to the mean grey value, like torchvision's
            adjust_contrast), `contrast_each` (difference to its own mean, like TensorFlow's),
            `saturation` (factor of the distance from the pixel's own grey value, 0 gives a grey
            image), `hue` (rotation about the grey axis in the plane of YIQ's I and Q: 1 is a full
            turn; positive values turn red towards yellow, like the hue of HSV).

    Raises:
        ValueError: unknown name.
    """
    grey, chroma = 1.0, 1 + 0j  # factors of the pixel's values
    mean_grey, mean_chroma = 0.0, 0j  # and of the mean's values
    added = 0.0
    for name, amount in steps:
        match name:
            case "offset":
                added += amount
            case "hue" | "saturation":
                turn = cmath.rect(1, 2 * math.pi * amount) if name == "hue" else amount
                chroma, mean_chroma = chroma * turn, mean_chroma * turn
            case "brightness":
                grey, chroma, added = grey * amount, chroma * amount, added * amount
                mean_grey, mean_chroma = mean_grey * amount, mean_chroma * amount
            case "contrast":
                mean_grey, mean_chroma = mean_grey + (1 - amount) * grey, mean_chroma * amount
                grey, chroma = grey * amount, chroma * amount
            case "contrast_each":
                mean_grey += (1 - amount) * grey
                mean_chroma += (1 - amount) * chroma
                grey, chroma = grey * amount, chroma * amount
            case _:
                raise ValueError(f"{name}: unknown colour change.")
    factors = (grey, chroma.real, chroma.imag, added, mean_grey, mean_chroma.real, mean_chroma.imag)
    matrix: Matrix = np.array(factors) @ _parts()
    return matrix.reshape(3, 7)


@functools.cache
def _parts() -> Matrix:
    """Return the seven matrices that `fused` sums up, (7, 21).

    For the pixel: its grey value, its chroma, and the chroma turned by 90 degrees; an offset; then
    the first three for the mean.
    """
    to_yiq = np.array((LUMA, *CHROMA))
    # From I to -Q: red, yellow, green are clockwise in this plane.
    turned = np.array(((0.0, 0.0, 0.0), CHROMA[1], np.negative(CHROMA[0])))
    grey = np.array((LUMA,) * 3)
    parts = np.zeros((7, 3, 7))
    for index, part in enumerate((grey, np.eye(3) - grey, np.linalg.solve(to_yiq, turned))):
        parts[index, :, :3] = parts[4 + index, :, 4:] = part
    parts[3, :, 3] = 1
    return parts.reshape(7, 21)


def mean_colors(images: Tensor) -> Tensor:
    """Return the means of the colour channels, (N, 3) float32 in grey levels.

    An image with fewer than three channels is grey: its first channel is used three times. Integer
    grey levels are summed, so that the result does not depend on how a batch is split.

    Args:
        images: (N, C, H, W) uint8, or float32 in 0..255.
    """
    count = 3 if images.shape[1] >= 3 else 1
    pixels = images[:, :count]
    if images.dtype == torch.uint8 and images.device.type == "cpu":  # numpy is faster here
        lines = pixels.numpy().sum(axis=3, dtype=np.uint32)
        sums = torch.from_numpy(lines.sum(axis=2, dtype=np.int64))
    else:
        levels = pixels.round() if images.is_floating_point() else pixels
        sums = levels.sum((2, 3), dtype=torch.int64)
    return (sums.float() / math.prod(images.shape[2:])).expand(-1, 3)


def apply(images: Tensor, matrices: Tensor, out: Tensor | None = None) -> Tensor:
    """Apply each image's matrix to its colours; the result is clamped to 0..255.

    The result for an image does not depend on the others.

    Args:
        images: (N, C, H, W) uint8, or float32 in 0..255. Channels after the third are unchanged; an
            image with fewer than three is grey, and its first uses the matrix's first factor.
        matrices: (N, 3, 7) float32, on the same device.
        out: (N, C, H, W) float32 for the result; by default a new tensor.

    Returns:
        The result (N, C, H, W) float32.
    """
    count = 3 if images.shape[1] >= 3 else 1
    matrices = about_mean(matrices, images)
    out = torch.empty_like(images, dtype=torch.float32) if out is None else out
    out[:, count:] = images[:, count:]
    if images.device.type == "cpu" and count == 3:
        for index in range(len(images)):
            _convolve(images[index, :3], matrices[index], out[index, :3])
        return out
    images, factors = images.float(), matrices[..., None, None]  # (N, 3, 4, 1, 1)
    for row in range(count):
        target = out[:, row]
        # One pass per term over one plane, which stays in the cache: no temporaries.
        torch.mul(images[:, 0], factors[:, row, 0], out=target)
        for channel in range(1, count):
            target.addcmul_(images[:, channel], factors[:, row, channel])
        target.add_(factors[:, row, 3]).clamp_(0, 255)
    return out


def apply_inside(
    images: Tensor, matrices: Tensor, inside: Sequence[tuple[slice, slice] | None]
) -> Tensor:
    """Apply each image's matrix as `apply`, to a part of the image as if it were all of it.

    Args:
        images: see `apply`.
        matrices: see `apply`.
        inside: for each image rows and columns of the part; None is all.
    """
    if not any(inside):
        return apply(images, matrices)
    out = torch.empty_like(images, dtype=torch.float32)
    for index, part in enumerate(inside):
        if part is not None:
            out[index] = images[index]
        rows, columns = part or (slice(None), slice(None))
        box = slice(index, index + 1), slice(None), rows, columns
        apply(images[box], matrices[index : index + 1], out[box])
    return out


def about_mean(matrices: Tensor, images: Tensor) -> Tensor:
    """Evaluate the mean terms of matrices (N, 3, 7) for the images: (N, 3, 4) float32."""
    bare = matrices[..., :4].clone()
    if matrices.device.type != "cpu" or matrices[..., 4:].any():
        means = mean_colors(images)
        for channel in range(3):
            bare[..., 3] += matrices[..., 4 + channel] * means[:, None, channel]
    return bare


def _convolve(image: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Apply a matrix (3, 4) to one image (3, H, W); the result is in `out` (3, H, W) float32.

    A 1x1 convolution reads all three planes at once, and blocks of rows stay in the cache until
    they are clamped, which takes half the time of separate terms.
    """
    kernel, added = matrix[:, :3, None, None], matrix[:, 3]
    for start in range(0, image.shape[1], ROWS):
        rows = slice(start, start + ROWS)
        changed = F.conv2d(image[None, :, rows].float(), kernel, added)
        torch.clamp(changed[0], 0, 255, out=out[:, rows])
