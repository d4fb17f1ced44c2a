"""The geometry of a random crop (scale, pad, flip), applied in the worker or on the device.

A crop that is last in the worker, or followed by flips only, cuts its window there and defers the
rest to the device. The windows of a batch are copied to it concatenated, each with its Placement.
Scaling is most of a crop's cost, and the device does it while the worker decodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from segacc.contracts import IGNORE

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""
Box = tuple[slice, slice]
"""(rows, columns) of an image."""
KEPT = 4
"""A window is copied if its image is more than this many times as large."""


@dataclass(frozen=True)
class Placement:
    """The geometry that remains to be applied to a window of an image."""

    window: Size
    """Size of the window."""
    scaled: Size
    """Size that the window is scaled to, at the top left of the sample."""
    sample: Size
    """(H, W) of the sample; the rest is padding, which is ignored."""
    ignore: int = IGNORE
    mirrored: frozenset[int] = frozenset()
    """Axes along which the sample is finally flipped: -1 horizontally, -2 vertically."""

    @property
    def inside(self) -> Box | None:
        """The part of the sample that is not padding; None if there is no padding."""
        if self.scaled == self.sample:
            return None
        sides = zip(self.scaled, self.sample, (-2, -1), strict=True)
        rows, columns = (
            slice(whole - part, whole) if axis in self.mirrored else slice(0, part)
            for part, whole, axis in sides
        )
        return rows, columns

    def mirror(self, axis: int) -> "Placement":
        """Flip the sample along an axis; two flips cancel."""
        return replace(self, mirrored=self.mirrored ^ {axis})


class DeferrableCrop(Protocol):
    """What a record with `deferrable = "crop"` builds, beside being called.

    The crop is deferred if only deferrable flips follow it in the worker, and all BatchChanges have
    `draws_unseen`.
    """

    def deferred_crop(self, image: "Tensor", label: "Tensor") -> "tuple[Tensor, Tensor, Placement]":
        """Cut a window of image (C, H, W) and label (H, W), and return its geometry.

        All are plain uint8 tensors; the windows may be views of the arguments. `placed` must turn
        them into what `__call__` returns under the same seed.
        """


class DeferrableFlip(Protocol):
    """What a record with `deferrable = "flip"` builds, beside being called."""

    def deferred_flip(self, placement: Placement) -> Placement:
        """Draw what `__call__` would draw, and add it to the placement of a deferred crop."""


def copied(image: "Tensor") -> "Tensor":
    """Copy an image (C, H, W) or a window of one, keeping channels-last memory."""
    import torch

    order = torch.channels_last if image.stride(0) == 1 else torch.contiguous_format
    return image[None].clone(memory_format=order)[0]


def placed(image: "Tensor", label: "Tensor", to: Placement) -> "tuple[Tensor, Tensor]":
    """Apply the geometry: image (C, h, w) uint8 to (C, H, W), label (h, w) to (H, W)."""
    image, label = resized(image, label, to.scaled)
    if to.scaled != to.sample:
        image, label = padded(image, label, to.sample, to.ignore)
    if to.mirrored:
        image, label = image.flip(*to.mirrored), label.flip(*to.mirrored)
    return image, label


def packed(images: "Sequence[Tensor]", labels: "Sequence[Tensor]") -> "tuple[Tensor, Tensor]":
    """Concatenate windows (C, h, w) and (h, w): pixels (n, C) and classes (n,), uint8."""
    import torch

    counts = [label.numel() for label in labels]
    pixels = torch.empty((sum(counts), images[0].shape[0]), dtype=torch.uint8)
    classes = torch.empty(sum(counts), dtype=torch.uint8)
    parts = zip(
        images, labels, torch.split(pixels, counts), torch.split(classes, counts), strict=True
    )
    for image, label, rows, row in parts:  # numpy copies windows faster than torch
        rows.view(*label.shape, -1).numpy()[:] = image.permute(1, 2, 0).numpy()
        row.view(label.shape).numpy()[:] = label.numpy()
    return pixels, classes


def scatter(
    pixels: "Tensor", classes: "Tensor", placements: Sequence[Placement]
) -> "tuple[Tensor, Tensor]":
    """Build a batch (N, C, H, W) and (N, H, W) from pixels (n, C) and classes (n,) on any device.

    All are uint8. A sample does not depend on the others: on the CPU it is `placed` of its window.
    """
    import torch

    counts = [math.prod(one.window) for one in placements]
    channels, shape = pixels.shape[1], placements[0].sample
    images = pixels.new_empty((len(placements), channels, *shape))
    labels = classes.new_empty((len(placements), *shape))
    parts = zip(torch.split(pixels, counts), torch.split(classes, counts), placements, strict=True)
    for index, (rows, row, to) in enumerate(parts):
        window = rows.view(*to.window, channels).permute(2, 0, 1)
        images[index], labels[index] = placed(window, row.view(to.window), to)
    return images, labels


def resized(image: "Tensor", label: "Tensor", size: Size) -> "tuple[Tensor, Tensor]":
    """Resize image (C, H, W) uint8 bilinearly with antialiasing, label (H, W) with nearest."""
    from torch.nn import functional as F

    here = image.device.type == "cpu"
    if image.shape[-2:] != size:
        if here and size[1] > 1:  # torch is wrong for uint8 if a row is one pixel
            batch = image[None]
            if image.stride(0) == 1:  # with the strides of a channels-last batch, torch is faster
                batch = image.permute(1, 2, 0)[None].contiguous().permute(0, 3, 1, 2)
            image = F.interpolate(batch, size, mode="bilinear", antialias=True)[0]
        else:
            image = resized_as_floats(image, size)
    if label.shape != size:
        label = nearest_classes(label, size) if here else nearest_by_index(label, size)
    return image, label


def resized_as_floats(image: "Tensor", size: Size) -> "Tensor":
    """Resize an image (C, H, W) uint8, on any device; within one grey level of the uint8 result."""
    from torch.nn import functional as F

    pixels = image[None].float().contiguous()
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
    return pixels.round().clamp(0, 255).to(image.dtype)


def nearest_classes(label: "Tensor", size: Size) -> "Tensor":
    """Resize a label (H, W) uint8 on the CPU with nearest neighbour.

    torchvision's NEAREST rounds down, which shifts labels by half a pixel against the image. This
    is its NEAREST_EXACT in a third of the time, and exact even if a centre falls between two
    pixels.
    """
    import numpy as np
    import torch

    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for old, new in zip(label.shape, size, strict=True)
    )
    classes = label.numpy()
    if size[0] < label.shape[0]:
        classes = classes.take(rows, 0).take(columns, 1)
    else:  # repeating whole rows is faster
        classes = classes.take(columns, 1).take(rows, 0)
    return torch.from_numpy(classes)


def nearest_by_index(label: "Tensor", size: Size) -> "Tensor":
    """Resize a label (H, W) uint8 like `nearest_classes`, on any device.

    The indices are computed on the device, because copying them would synchronize.
    """
    import torch

    for axis, new in enumerate(size):
        middles = 2 * torch.arange(new, device=label.device) + 1  # in halves of new pixels
        label = label.index_select(axis, middles * label.shape[axis] // (2 * new))
    return label


def padded(image: "Tensor", label: "Tensor", size: Size, ignore: int) -> "tuple[Tensor, Tensor]":
    """Pad image (C, h, w) and label (h, w), uint8, at the right and bottom to a size."""
    channels, height, width = image.shape
    whole = image.new_empty((*size, channels)).permute(2, 0, 1)  # channels last, as decoded
    classes = label.new_full(size, ignore)
    whole[:, :height, :width] = image
    for plane, level in zip(whole, padding_color(channels), strict=True):
        plane[height:] = level
        plane[:height, width:] = level
    classes[:height, :width] = label
    return whole, classes


def inside_of(image: "Tensor", label: "Tensor") -> Box | None:
    """Find the part of image (C, H, W) and label (H, W), uint8 on the CPU, that is not padding.

    Padding are ignored rows and columns of the padding colour, from an edge on.

    Returns:
        None if there is no padding, or nothing else.
    """
    import numpy as np

    colors = padding_color(image.shape[0])

    def blank(rows: slice, columns: slice) -> "np.ndarray[Any, np.dtype[np.bool]]":
        found: np.ndarray[Any, Any] = label[rows, columns].numpy() == IGNORE
        for plane, level in zip(image, colors, strict=True):
            found &= plane[rows, columns].numpy() == level
        return found

    height, width = label.shape
    if not blank(slice(None, None, max(1, height - 1)), slice(None, None, max(1, width - 1))).any():
        return None  # the usual case: no corner is padding
    whole = blank(slice(None), slice(None))
    rows, columns = (np.flatnonzero(~whole.all(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return None if box == (slice(0, height), slice(0, width)) else box


def padding_color(num_channels: int) -> list[int]:
    """Return ImageNet's mean colour; grey for other numbers of channels than 3."""
    return [124, 116, 104] if num_channels == 3 else [116] * num_channels
