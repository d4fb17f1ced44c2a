"""What several augmentations share: drawing, resizing and pasting image and label together."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[Any, Any]
"""(image, label): tv_tensors Image (C, H, W) uint8 and Mask (H, W) uint8."""
Another = Callable[[], Pair]
"""Returns another pair of the training split."""
Window = tuple[slice, slice]
"""Rows and columns of a picture."""


def padding_color(num_channels: int) -> list[int]:
    """Return ImageNet's mean colour; channels that are not of RGB take its grey."""
    return [124, 116, 104] if num_channels == 3 else [116] * num_channels


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
    import torch

    return low + (high - low) * torch.rand(()).item()


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


def resized(image: "Tensor", label: "Tensor", size: tuple[int, int]) -> Pair:
    """Resize image (C, H, W) bilinear, antialiased, and label (H, W) to its nearest pixels."""
    import torch
    from torch.nn import functional as F

    image, label = plain(image, label)
    if image.shape[-2:] != size:
        image = F.interpolate(alone(image), size, mode="bilinear", antialias=True)[0]
    # torchvision's own nearest rounds down: labels would lie half a pixel beside their image. This
    # is its NEAREST_EXACT, in a third of the time.
    rows, columns = (nearest(old, new) for old, new in zip(label.shape, size, strict=True))
    classes = label.numpy()
    if size[0] < label.shape[0]:
        classes = classes.take(rows, 0).take(columns, 1)
    else:  # whole rows are the quicker to repeat
        classes = classes.take(columns, 1).take(rows, 0)
    return as_pair(image, torch.from_numpy(classes))


def alone(image: "Tensor") -> "Tensor":
    """Make a batch (1, C, H, W) of an image, or of a window of one.

    Channels that lie side by side stay so, in whole rows and with the strides of such a batch:
    torch resizes that in a third of the time, to the same pixels.
    """
    if image.stride(0) != 1:
        return image[None]
    return image.permute(1, 2, 0)[None].contiguous().permute(0, 3, 1, 2)


def padded(image: "Tensor", label: "Tensor", size: tuple[int, int], ignore: int) -> Pair:
    """Fill image (C, h, w) and label (h, w) up to a size at the right and at the bottom."""
    import torch

    image, label = plain(image, label)
    channels, height, width = image.shape
    color = torch.tensor(padding_color(channels), dtype=image.dtype)[:, None, None]
    whole = image.new_empty((*size, channels)).permute(2, 0, 1)  # as decoders and resizing leave it
    classes = label.new_full(size, ignore)
    whole[:, :height, :width] = image
    whole[:, height:] = color
    whole[:, :height, width:] = color
    classes[:height, :width] = label
    return as_pair(whole, classes)


def nearest(old: int, new: int) -> Any:
    """Return for each of `new` pixels the one of `old` that its middle falls into: (new,) int."""
    import numpy as np

    return np.minimum((np.arange(new) + 0.5) * (old / new), old - 1).astype(np.intp)


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
