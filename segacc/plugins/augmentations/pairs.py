"""What several augmentations share: drawing, resizing and pasting image and label together."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from segacc.data import placement

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[Any, Any]
"""(image, label): tv_tensors Image (C, H, W) uint8 and Mask (H, W) uint8."""
Another = Callable[[], Pair]
"""Returns another pair of the training split."""
Window = tuple[slice, slice]
"""Rows and columns of a picture."""


def check_range(options: Any, name: str) -> None:
    """Refuse an empty range `<name>_min` to `<name>_max`.

    Raises:
        ValueError: the first is above the second.
    """
    low, high = getattr(options, f"{name}_min"), getattr(options, f"{name}_max")
    if low > high:
        raise ValueError(f"{name}_min {low} is above {name}_max {high}")


def uniform(low: float, high: float) -> float:
    """Draw a number between two, from torch's generator."""
    return between(low, high, *uniforms(1))


def uniforms(count: int) -> list[float]:
    """Draw numbers from 0 to below 1, from torch's generator, all by one call."""
    import torch

    drawn: list[float] = torch.rand(count).tolist()
    return drawn


def between(low: float, high: float, share: float) -> float:
    """Return what lies a share of the way from one number to another."""
    return low + (high - low) * share


def chance(p: float) -> bool:
    """Draw whether something of probability `p` happens; surely at 1, never at 0."""
    import torch

    return torch.rand(()).item() < p


def place(count: int) -> int:
    """Draw one of 0 ... count - 1."""
    import torch

    return int(torch.randint(count, ()))


def plain(image: "Tensor", label: "Tensor") -> "tuple[Tensor, Tensor]":
    """Return image and label as plain tensors, which cost less to index."""
    from torch import Tensor

    return image.as_subclass(Tensor), label.as_subclass(Tensor)


def as_pair(image: "Tensor", label: "Tensor") -> Pair:
    """Say which is the image and which the label, as the next augmentation needs it."""
    from torchvision import tv_tensors

    return tv_tensors.Image(image), tv_tensors.Mask(label)


def resized_pair(image: "Tensor", label: "Tensor", size: tuple[int, int]) -> Pair:
    """Resize image (C, H, W) bilinear, antialiased, and label (H, W) to its nearest pixels."""
    return as_pair(*placement.resized(*plain(image, label), size))


def meeting(mine: "Tensor", theirs: "Tensor") -> tuple[Window, Window]:
    """Draw where labels (H, W) and (H', W') lie upon each other, as far as both reach.

    Returns:
        A window of each, of one size. Labels of one size meet as they are.
    """
    cuts = []
    for own, other in zip(mine.shape, theirs.shape, strict=True):
        side = min(own, other)
        starts = place(own - side + 1), place(other - side + 1)
        cuts.append([slice(start, start + side) for start in starts])
    (rows, their_rows), (columns, their_columns) = cuts
    return (rows, columns), (their_rows, their_columns)


def paste(
    under: "tuple[Tensor, Tensor]", over: "tuple[Tensor, Tensor]", where: "Tensor"
) -> "tuple[Tensor, Tensor]":
    """Lay image and label over others of their size, at the pixels of `where` (H, W) bool."""
    import torch

    return torch.where(where, over[0], under[0]), torch.where(where, over[1], under[1])
