"""A sample on its way from its files to the network, and the batch that samples are collated to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segacc.contracts import IGNORE
from segacc.data.placement import Box, Placement, packed, scatter
from segacc.errors import DataError, SegaccError


@dataclass(frozen=True)
class Item:
    """One sample: decoded and mapped; in training also augmented, as far as the worker does it."""

    image: Tensor
    """(C, H, W) uint8 RGB, in any memory format; or an unscaled crop, see `placement`."""
    label: Tensor
    """(H, W) uint8, 255 ignored."""
    id: str = ""
    seed: int = 0
    """Random seed of its augmentations."""
    padding: bool = False
    """True for padding that keeps the processes in step: it is excluded from scores and losses."""
    unreadable: str = ""
    """Error message if its files could not be read; the label is then 255 everywhere."""
    drawn: tuple[Tensor, ...] = ()
    """Parameters of each BatchChange on the device, float32."""
    placement: Placement | None = None
    """Geometry to apply on the device if image and label are an unscaled crop."""
    inside: Box | None = None
    """The part that is not padding of a crop, if there is padding and a BatchChange needs it."""
    share: float = 0.0
    """See `Pipeline.at`."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the sample in training."""
        height, width = self.placement.sample if self.placement else self.label.shape
        return height, width

    def blank(self, size: tuple[int, int]) -> "Item":
        """Return it with an empty image of a size (H, W) and a label that is all ignored."""
        image, label = nothing(self.image.shape[0], *size)
        whole = Placement(size, size, size) if self.placement else None
        return replace(self, image=image, label=label, placement=whole, inside=None)


@dataclass(frozen=True)
class Batch:
    """The N items of a micro-batch, which have the same size."""

    images: Tensor
    """(N, C, H, W) uint8, in any memory format; float32 in 0..255 after augmentations on the
    device. With `placements` (n, C): the pixels of the unscaled crops, concatenated."""
    labels: Tensor
    """(N, H, W) uint8; int64 for the network. With `placements` (n,)."""
    ids: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Error messages; empty for an item that was read."""
    drawn: tuple[Tensor, ...] = ()
    """(N, ...) float32 for each BatchChange on the device."""
    placements: tuple[Placement, ...] = ()
    """The geometry of N unscaled crops; otherwise empty."""
    inside: tuple[Box | None, ...] = ()
    """For each image the part that is not padding of a crop; None is all."""
    share: float = 0.0
    """See `Pipeline.at`."""
    position: Any = None
    """For a stream: the reader's position after this batch, as plain JSON."""

    def pin_memory(self) -> "Batch":
        """Copy to pinned memory (called by the DataLoader)."""
        return self.each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """Move to a device; asynchronously from pinned memory."""
        return self.each(lambda one: one.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to all tensors."""
        drawn = tuple(map(change, self.drawn))
        return replace(self, images=change(self.images), labels=change(self.labels), drawn=drawn)

    def split(self, parts: int) -> "list[Batch]":
        """Split images and labels into parts whose sizes differ by one image at most."""
        pairs = zip(self.images.tensor_split(parts), self.labels.tensor_split(parts), strict=True)
        return [Batch(*pair) for pair in pairs]

    def laid_out(self) -> "Batch":
        """Scale unscaled crops; a batch without placements is returned unchanged."""
        if not self.placements:
            return self
        images, labels = scatter(self.images, self.labels, self.placements)
        return replace(self, images=images, labels=labels, placements=())


def collate(items: Sequence[Item | SegaccError]) -> Batch | SegaccError:
    """Stack items of one size, or return the first error. Unreadable items get the others' size."""
    ready: list[Item] = []
    for item in items:
        if isinstance(item, SegaccError):
            return item
        ready.append(item)
    sizes = sorted({item.size for item in ready if not item.unreadable})
    if len(sizes) > 1:
        return DataError(
            "--aug: the images of a batch have different sizes after augmentation: "
            f"{', '.join(map(str, sizes))}. "
            "Add `--aug random_scale_crop` last, or use batch_size 1."
        )
    if sizes:
        ready = [item.blank(sizes[0]) if item.unreadable else item for item in ready]
    images, labels = [item.image for item in ready], [item.label for item in ready]
    placements = tuple(item.placement for item in ready if item.placement)
    return Batch(
        *(packed(images, labels) if placements else (stack(images), torch.stack(labels))),
        ids=tuple(item.id for item in ready),
        seeds=tuple(item.seed for item in ready),
        unreadable=tuple(item.unreadable for item in ready),
        drawn=tuple(map(torch.stack, zip(*(item.drawn for item in ready), strict=True))),
        placements=placements,
        inside=tuple(one.inside for one in placements or ready),
        share=ready[0].share,
    )


def stack(images: Sequence[Tensor]) -> Tensor:
    """Stack images (C, H, W) to (N, C, H, W) in the first one's memory format, which is faster."""
    side_by_side = images[0].stride(0) == 1  # the channels
    order = torch.channels_last if side_by_side else torch.contiguous_format
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, memory_format=order)
    for index, image in enumerate(images):
        batch[index] = image
    return batch


def nothing(num_channels: int, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """Return a blank image (C, H, W) uint8 and its label, which is all ignored."""
    label = torch.full((height, width), IGNORE, dtype=torch.uint8)
    return torch.zeros(num_channels, height, width, dtype=torch.uint8), label
