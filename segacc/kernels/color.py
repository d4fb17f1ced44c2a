"""Changes of colour as one affine map a picture, made in the worker, applied to whole batches.

A matrix is (3, 7) float64: for each of red, green and blue the factors of the three, what is added,
in grey levels 0..255, and the factors of the picture's mean red, green and blue, which contrast is
about. So it is drawn without a look at the picture. The maps are exact as long as nothing is
clamped on the way; `apply` clamps once, at the end.
"""

import cmath
import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Matrix = np.ndarray[Any, np.dtype[np.float64]]

ROWS = 128
"""Of a picture that a CPU changes at once."""
LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue add to the grey value (ITU-R BT.601)."""
CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""I and Q of NTSC's YIQ; both are 0 for greys."""


def fused(steps: Iterable[tuple[str, float]]) -> Matrix:
    """Return the matrix (3, 7) of changes that are made one after the other, the first first.

    Each is plain for a colour's grey value and its chroma, the rest of it: a complex number, which
    is multiplied by the phase that hue turns it by.

    Args:
        steps: what, and by how much: `brightness` (factor of all channels, as torchvision's
            adjust_brightness), `offset` (grey levels added, as TensorFlow's adjust_brightness),
            `contrast` (factor of what a channel has above the mean grey value, as torchvision's
            adjust_contrast), `contrast_each` (above its own mean, as TensorFlow's), `saturation`
            (factor of the distance from the pixel's own grey value, 0 gives a grey picture), `hue`
            (turn about the axis of greys, in the plane of YIQ's I and Q: 1 is the whole circle,
            above 0 red goes towards yellow, as with the hue of HSV).

    Raises:
        ValueError: another name.
    """
    grey, chroma = 1.0, 1 + 0j  # factors of a pixel's
    mean_grey, mean_chroma = 0.0, 0j  # and of the mean's
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
                raise ValueError(f"{name}: no change of colours.")
    factors = (grey, chroma.real, chroma.imag, added, mean_grey, mean_chroma.real, mean_chroma.imag)
    matrix: Matrix = np.array(factors) @ _parts()
    return matrix.reshape(3, 7)


@functools.cache
def _parts() -> Matrix:
    """Return the seven matrices that `fused` adds up, (7, 21).

    Of a pixel: its grey value, its chroma, and that turned by a quarter; a grey level; of the mean
    what there is of a pixel.
    """
    to_yiq = np.array((LUMA, *CHROMA))
    # From I to -Q: red, yellow, green lie clockwise in this plane.
    turned = np.array(((0.0, 0.0, 0.0), CHROMA[1], np.negative(CHROMA[0])))
    grey = np.array((LUMA,) * 3)
    parts = np.zeros((7, 3, 7))
    for place, part in enumerate((grey, np.eye(3) - grey, np.linalg.solve(to_yiq, turned))):
        parts[place, :, :3] = parts[4 + place, :, 4:] = part
    parts[3, :, 3] = 1
    return parts.reshape(7, 21)


def mean_colors(images: Tensor) -> Tensor:
    """Return the means of the colour channels, (N, 3) float32 in grey levels.

    One of less than three channels is grey: its first channel counts, three times. The sums are of
    whole grey levels, so that they are the same however a batch or the work is cut.

    Args:
        images: (N, C, H, W) uint8, or float32 in 0..255.
    """
    count = 3 if images.shape[1] >= 3 else 1
    pixels = images[:, :count]
    if images.dtype == torch.uint8 and images.device.type == "cpu":  # numpy adds them faster
        lines = pixels.numpy().sum(axis=3, dtype=np.uint32)
        sums = torch.from_numpy(lines.sum(axis=2, dtype=np.int64))
    else:
        levels = pixels.round() if images.is_floating_point() else pixels
        sums = levels.sum((2, 3), dtype=torch.int64)
    return (sums.float() / math.prod(images.shape[2:])).expand(-1, 3)


def apply(images: Tensor, matrices: Tensor) -> Tensor:
    """Change the colours of a batch, each picture by its own matrix; clamped to 0..255.

    A picture's result does not depend on the others.

    Args:
        images: (N, C, H, W) uint8, or float32 in 0..255. Channels past the third stay as they are;
            one of less than three channels is grey, and its first takes the matrix's first factor.
        matrices: (N, 3, 7) float32, on the same device.

    Returns:
        A new tensor (N, C, H, W) float32.
    """
    count = 3 if images.shape[1] >= 3 else 1
    matrices = about_mean(matrices, images)
    out = torch.empty_like(images, dtype=torch.float32)
    out[:, count:] = images[:, count:]
    if images.device.type == "cpu" and count == 3:
        for place in range(len(images)):
            _convolve(images[place, :3], matrices[place], out[place, :3])
        return out
    images, factors = images.float(), matrices[..., None, None]  # (N, 3, 4, 1, 1)
    for row in range(count):
        target = out[:, row]
        # One pass a term, over one plane that stays in the cache: no temporaries.
        torch.mul(images[:, 0], factors[:, row, 0], out=target)
        for channel in range(1, count):
            target.addcmul_(images[:, channel], factors[:, row, channel])
        target.add_(factors[:, row, 3]).clamp_(0, 255)
    return out


def about_mean(matrices: Tensor, images: Tensor) -> Tensor:
    """Put the images' means into matrices (N, 3, 7), which leaves (N, 3, 4) float32."""
    bare = matrices[..., :4].clone()
    if matrices.device.type != "cpu" or matrices[..., 4:].any():
        means = mean_colors(images)
        for channel in range(3):
            bare[..., 3] += matrices[..., 4 + channel] * means[:, None, channel]
    return bare


def _convolve(image: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Change one picture (3, H, W) by a matrix (3, 4), into `out` (3, H, W) float32.

    A convolution of one pixel reads all three planes at once, and pieces of a picture stay in the
    cache of a core until they are clamped: half the time of a term after the other.
    """
    kernel, added = matrix[:, :3, None, None], matrix[:, 3]
    for start in range(0, image.shape[1], ROWS):
        rows = slice(start, start + ROWS)
        changed = F.conv2d(image[None, :, rows].float(), kernel, added)
        torch.clamp(changed[0], 0, 255, out=out[:, rows])
