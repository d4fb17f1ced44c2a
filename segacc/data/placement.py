"""Where a picture comes to lie in a sample: scaled, filled up, mirrored, at once or on the device.

A crop that comes last in the worker, but for flips, cuts its window and leaves the rest to the
device: the windows of a batch go there in one row, each with its Placement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from segacc.contracts import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""
KEPT = 4
"""A picture is kept until its batch is made where it is up to so many times its window."""


@dataclass(frozen=True)
class Placement:
    """What is still to be done with a window of a picture."""

    window: Size
    """Its own size."""
    scaled: Size
    """The size that it is scaled to; then it lies at the sample's top left."""
    sample: Size
    """(H, W); what is not covered has the padding's colour and is ignored."""
    ignore: int = IGNORE
    mirrored: frozenset[int] = frozenset()
    """Axes that the sample is mirrored along at the end: -1 left and right, -2 top and bottom."""

    def mirror(self, axis: int) -> "Placement":
        """Mirror the sample along an axis; twice is not at all."""
        return replace(self, mirrored=self.mirrored ^ {axis})


class LateCrop(Protocol):
    """A crop of the worker that can leave its scaling to the device.

    It does where only LateFlips come after it in the worker, and all BatchChanges draw unseen; a
    subclass that has a call of its own needs a `late_cut` of its own. The same holds of flips.
    """

    def late_cut(self, image: "Tensor", label: "Tensor") -> "tuple[Tensor, Tensor, Placement]":
        """Cut a window of image (C, H, W) and label (H, W), and tell where it is to lie.

        All are plain uint8 tensors; the windows may be views of what is given.
        `placed` must make of it what a call returns under the same seed.
        """


class LateFlip(Protocol):
    """A flip that can be left to the device, after a LateCrop."""

    def late_flip(self, placement: Placement) -> Placement:
        """Draw what a call would draw, and put it into the placement."""


def own(
    whole: "Tensor", image: "Tensor", label: "Tensor", placement: Placement
) -> "tuple[Tensor, Tensor, Placement]":
    """Copy a small window, so that a worker does not hold all pictures of a batch whole."""
    if image.numel() * KEPT < whole.numel():
        image, label = copied(image), label.clone()
    return image, label, placement


def copied(image: "Tensor") -> "Tensor":
    """Copy an image (C, H, W), or a window of one; channels that lie side by side stay so."""
    import torch

    if image.stride(0) != 1:
        return image.clone(memory_format=torch.contiguous_format)
    beside = image.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    return beside.permute(2, 0, 1)


def placed(image: "Tensor", label: "Tensor", to: Placement) -> "tuple[Tensor, Tensor]":
    """Make a sample of a window: image (C, h, w) uint8 to (C, H, W), label (h, w) to (H, W)."""
    image, label = resized(image, label, to.scaled)
    if to.scaled != to.sample:
        image, label = padded(image, label, to.sample, to.ignore)
    if to.mirrored:
        image, label = image.flip(*to.mirrored), label.flip(*to.mirrored)
    return image, label


def packed(images: "Sequence[Tensor]", labels: "Sequence[Tensor]") -> "tuple[Tensor, Tensor]":
    """Put windows (C, h, w) and (h, w) in a row: pixels (n, C) and classes (n,), uint8."""
    import numpy as np
    import torch

    sides = [label.shape for label in labels]
    counts, channels = [height * width for height, width in sides], images[0].shape[0]
    pixels = np.empty((sum(counts), channels), np.uint8)  # numpy copies windows faster than torch
    classes = np.empty(sum(counts), np.uint8)
    start = 0
    for image, label, (height, width) in zip(images, labels, sides, strict=True):
        part = slice(start, start + height * width)
        pixels[part].reshape(height, width, channels)[:] = image.permute(1, 2, 0).numpy()
        classes[part].reshape(height, width)[:] = label.numpy()
        start = part.stop
    return torch.from_numpy(pixels), torch.from_numpy(classes)


def scatter(
    pixels: "Tensor", classes: "Tensor", placements: Sequence[Placement]
) -> "tuple[Tensor, Tensor]":
    """Make a batch of pixels (n, C) and classes (n,), where they are: (N, C, H, W) and (N, H, W).

    All are uint8.

    A sample does not depend on the others; on the CPU it is what `placed` makes of its window.
    """
    counts = [height * width for height, width in (one.window for one in placements)]
    channels, shape = pixels.shape[1], placements[0].sample
    images = pixels.new_empty((len(placements), channels, *shape))
    labels = classes.new_empty((len(placements), *shape))
    start = 0
    for place, (count, to) in enumerate(zip(counts, placements, strict=True)):
        window = pixels[start : start + count].view(*to.window, channels).permute(2, 0, 1)
        label = classes[start : start + count].view(to.window)
        images[place], labels[place] = placed(window, label, to)
        start += count
    return images, labels


def resized(image: "Tensor", label: "Tensor", size: Size) -> "tuple[Tensor, Tensor]":
    """Resize image (C, H, W) uint8 bilinear, antialiased, and label (H, W) to its nearest."""
    from torch.nn import functional as F

    here = image.device.type == "cpu"
    if image.shape[-2:] != size:
        if here and size[1] > 1:  # on bytes torch errs where a row is one pixel
            image = F.interpolate(alone(image), size, mode="bilinear", antialias=True)[0]
        else:
            image = resized_as_floats(image, size)
    if label.shape != size:
        label = nearest_classes(label, size) if here else nearest_by_index(label, size)
    return image, label


def resized_as_floats(image: "Tensor", size: Size) -> "Tensor":
    """Resize an image (C, H, W) uint8, on any device: within a grey level of what bytes give."""
    from torch.nn import functional as F

    pixels = image[None].float().contiguous()
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
    return pixels.round().clamp(0, 255).to(image.dtype)


def alone(image: "Tensor") -> "Tensor":
    """Make a batch (1, C, H, W) of an image, or of a window of one.

    Channels that lie side by side stay so, in whole rows and with the strides of such a batch:
    torch resizes that in a third of the time, to the same pixels.
    """
    if image.stride(0) != 1:
        return image[None]
    return image.permute(1, 2, 0)[None].contiguous().permute(0, 3, 1, 2)


def nearest_classes(label: "Tensor", size: Size) -> "Tensor":
    """Resize a label (H, W) uint8 on the CPU to its nearest pixels.

    torchvision's own nearest rounds down: labels would lie half a pixel beside their image. This is
    its NEAREST_EXACT, in a third of the time, and exact also where a middle falls between pixels.
    """
    import torch

    rows, columns = (nearest(old, new) for old, new in zip(label.shape, size, strict=True))
    classes = label.numpy()
    if size[0] < label.shape[0]:
        classes = classes.take(rows, 0).take(columns, 1)
    else:  # whole rows are the quicker to repeat
        classes = classes.take(columns, 1).take(rows, 0)
    return torch.from_numpy(classes)


def nearest_by_index(label: "Tensor", size: Size) -> "Tensor":
    """Resize a label (H, W) uint8 as `nearest_classes`, on any device.

    The places are worked out there, as a copy of them would wait for the device.
    """
    import torch

    for axis, new in enumerate(size):
        middles = 2 * torch.arange(new, device=label.device) + 1  # in halves of new pixels
        label = label.index_select(axis, middles * label.shape[axis] // (2 * new))
    return label


def nearest(old: int, new: int) -> Any:
    """Return for each of `new` pixels the one of `old` that its middle falls into: (new,) int."""
    import numpy as np

    return (2 * np.arange(new) + 1) * old // (2 * new)


def padded(image: "Tensor", label: "Tensor", size: Size, ignore: int) -> "tuple[Tensor, Tensor]":
    """Fill image (C, h, w) and label (h, w), uint8, up to a size at the right and the bottom."""
    channels, height, width = image.shape
    whole = image.new_empty((*size, channels)).permute(2, 0, 1)  # as decoders and resizing leave it
    classes = label.new_full(size, ignore)
    whole[:, :height, :width] = image
    for plane, level in zip(whole, padding_color(channels), strict=True):
        plane[height:] = level
        plane[:height, width:] = level
    classes[:height, :width] = label
    return whole, classes


def padding_color(num_channels: int) -> list[int]:
    """Return ImageNet's mean colour; channels that are not of RGB take its grey."""
    return [124, 116, 104] if num_channels == 3 else [116] * num_channels
