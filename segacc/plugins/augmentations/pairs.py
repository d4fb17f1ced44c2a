"""Functions shared by the augmentations: random draws, resizing and pasting of pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segacc.data import placement

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[Any, Any]
"""(image, label): tv_tensors Image (C, H, W) uint8 and Mask (H, W) uint8."""
Another = Callable[[], Pair]
"""Returns another pair of the training split."""
Window = tuple[slice, slice]
"""Rows and columns of an image."""


@dataclass(frozen=True, kw_only=True)
class RangeOptions:
    """Base class of options with ranges `<name>_min` to `<name>_max`."""

    def __post_init__(self) -> None:
        """Reject empty ranges."""
        for name, low in vars(self).items():
            most = name.removesuffix("_min") + "_max"
            if name.endswith("_min") and low > (high := getattr(self, most)):
                raise ValueError(f"{name} {low} is above {most} {high}")


def uniform(low: float, high: float) -> float:
    """Draw a number between two others with torch's generator."""
    return between(low, high, *uniforms(1))


def uniforms(count: int) -> list[float]:
    """Draw numbers in [0, 1) with torch's generator in a single call."""
    import torch

    drawn: list[float] = torch.rand(count).tolist()
    return drawn


def between(low: float, high: float, share: float) -> float:
    """Interpolate linearly between two numbers."""
    return low + (high - low) * share


def chance(p: float) -> bool:
    """Return True with probability `p`; always at 1, never at 0."""
    import torch

    return torch.rand(()).item() < p


def random_index(count: int) -> int:
    """Draw one of 0 ... count - 1."""
    import torch

    return int(torch.randint(count, ()))


def plain(image: "Tensor", label: "Tensor") -> "tuple[Tensor, Tensor]":
    """Return image and label as plain tensors, which are faster to index."""
    from torch import Tensor

    return image.as_subclass(Tensor), label.as_subclass(Tensor)


def as_pair(image: "Tensor", label: "Tensor") -> Pair:
    """Wrap image and label as tv_tensors for the next augmentation."""
    from torchvision import tv_tensors

    return tv_tensors.Image(image), tv_tensors.Mask(label)


def resized_pair(image: "Tensor", label: "Tensor", size: tuple[int, int]) -> Pair:
    """Resize image (C, H, W) bilinearly with antialiasing, label (H, W) with nearest."""
    return as_pair(*placement.resized(*plain(image, label), size))


def meeting(mine: "Tensor", theirs: "Tensor") -> tuple[Window, Window]:
    """Draw how labels (H, W) and (H', W') are aligned, as far as both extend.

    Returns:
        A window of each, of equal size. Labels of the same size are aligned exactly.
    """
    cuts = []
    for own, other in zip(mine.shape, theirs.shape, strict=True):
        side = min(own, other)
        starts = random_index(own - side + 1), random_index(other - side + 1)
        cuts.append([slice(start, start + side) for start in starts])
    (rows, their_rows), (columns, their_columns) = cuts
    return (rows, columns), (their_rows, their_columns)


def pasted(
    image: "Tensor", label: "Tensor", window: Window, over: "tuple[Tensor, Tensor]", where: "Tensor"
) -> Pair:
    """Paste a pair into a window of image (C, H, W) and label (H, W), which are not modified.

    Args:
        image: any memory format.
        label: uint8.
        window: where the other pair lies.
        over: image (C, h, w) and label (h, w) of the window's size.
        where: (h, w) bool, the pixels that are pasted.
    """
    import torch

    image, label = (one.clone() for one in plain(image, label))
    image[:, *window] = torch.where(where, over[0], image[:, *window])
    label[window] = torch.where(where, over[1], label[window])
    return as_pair(image, label)
