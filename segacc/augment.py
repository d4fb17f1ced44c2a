"""The row of augmentations: in the worker sample by sample, on the device in whole batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from segacc.hookspecs import Augmentation
from segacc.order import seeded
from segacc.placement import Placement, own

Pair = tuple[Tensor, Tensor]
"""Image (C, H, W) uint8 and label (H, W) uint8."""


@dataclass(frozen=True)
class Changed:
    """A sample as it leaves the worker."""

    image: Tensor
    """(C, h, w) uint8."""
    label: Tensor
    """(h, w) uint8, 255 ignored."""
    drawn: tuple[Tensor, ...] = ()
    """Parameters for each BatchChange, float32."""
    placement: Placement | None = None
    """Of a window that the device is to scale."""


@dataclass(frozen=True)
class Pipeline:
    """All augmentations of a run, in the order given, those of the worker first."""

    worker: tuple[tuple[Callable[..., Any], bool], ...] = ()
    """Each with whether it mixes in partners."""
    device: tuple[Callable[..., Any], ...] = field(default=())
    """Called picture by picture, or BatchChanges."""
    scales: bool = True
    """Whether the device scales the windows of crops that come last."""

    @classmethod
    def of(
        cls, chosen: Sequence[tuple[Augmentation, Any, Any]], *, scales: bool = True
    ) -> "Pipeline":
        """Sort (record, options, what it built) by where it runs."""
        worker, device = [], []
        for record, options, change in chosen:
            on = record.on(options) if callable(record.on) else record.on
            if on == "worker":
                worker.append((change, record.partners))
            else:
                device.append(change)
        return cls(tuple(worker), tuple(device), scales)

    def in_worker(self, image: Tensor, label: Tensor, fetch: Callable[[], Pair]) -> Changed:
        """Change one sample, and draw what the device will need.

        Args:
            image: (C, H, W) uint8.
            label: (H, W) uint8, 255 ignored.
            fetch: reads another sample of the split, as it is on disk.
        """
        placement: Placement | None = None
        at_once = len(self.worker) - len(self.late)
        if at_once:
            image, label = self._through(at_once, image, label, fetch)
        image, label = image.as_subclass(Tensor), label.as_subclass(Tensor)
        for change in self.late:
            if placement is None:
                image, label, placement = own(image, *change.late_cut(image, label))
            else:
                placement = change.late_flip(placement)
        drawn = [change.draw(image, label).float() for change in self.of_batches]
        return Changed(image, label, tuple(drawn), placement)

    @cached_property
    def of_batches(self) -> list[Any]:
        """The BatchChanges."""
        return [change for change in self.device if batched(change)]

    @cached_property
    def late(self) -> tuple[Any, ...]:
        """The LateCrop that leaves its scaling to the device, and the LateFlips after it, or none.

        They are the last of the worker's row, and no BatchChange looks at what they return.
        """
        unseen = all(getattr(change, "draws_unseen", False) for change in self.of_batches)
        if not self.scales or not unseen:
            return ()
        for place, (change, partners) in reversed(list(enumerate(self.worker))):
            if not partners and can_wait(change, "late_cut"):
                return tuple(change for change, _ in self.worker[place:])
            if partners or not can_wait(change, "late_flip"):
                break
        return ()

    def _through(self, end: int, image: Tensor, label: Tensor, fetch: Callable[[], Pair]) -> Pair:
        image, label = tv_tensors.Image(image), tv_tensors.Mask(label)
        for place, (change, partners) in enumerate(self.worker[:end]):
            if partners:
                image, label = change(image, label, self._another(place, fetch))
            else:
                image, label = change(image, label)
        return image, label

    def _another(self, end: int, fetch: Callable[[], Pair]) -> Callable[[], Pair]:
        return lambda: self._through(end, *fetch(), fetch)

    def on_device(
        self, images: Tensor, labels: Tensor, drawn: Sequence[Tensor], seeds: Sequence[int]
    ) -> Pair:
        """Change a batch: images (N, C, H, W) uint8 or float32 in 0..255, labels (N, H, W) uint8.

        Args:
            images: on the device, in any order in memory; the changes, and the network after them,
                are given whole planes.
            labels: beside them; 255 is ignored.
            drawn: (N, ...) float32 for each BatchChange.
            seeds: N seeds, of the changes that come picture by picture.
        """
        rest, images = iter(drawn), images.contiguous()
        for place, change in enumerate(self.device):
            if batched(change):
                given = images if getattr(change, "takes_bytes", False) else images.float()
                images, labels = change(given, labels, next(rest))
            else:
                own = [seed + 1 + place for seed in seeds]
                images, labels = one_by_one(change, images, labels, own)
        return images, labels


def can_wait(change: Any, way: str) -> bool:
    """Tell whether a change has this way of waiting, and no call of its own that is newer."""
    told = [kind for kind in type(change).__mro__ if {way, "__call__"} & vars(kind).keys()]
    return bool(told) and way in vars(told[0])


def batched(change: Any) -> bool:
    """Tell a BatchChange from a change of single pictures."""
    return hasattr(change, "draw")


def one_by_one(
    change: Callable[..., Any], images: Tensor, labels: Tensor, seeds: Sequence[int]
) -> Pair:
    """Call a change for each picture of a batch, under a seed of its own."""
    if images.dtype != torch.uint8:
        images = images.round().clamp(0, 255).to(torch.uint8)
    pairs = []
    for image, label, seed in zip(images, labels, seeds, strict=True):
        with seeded(seed, images.device):
            pairs.append(change(tv_tensors.Image(image), tv_tensors.Mask(label)))
    changed, moved = zip(*pairs, strict=True)
    stack = torch.stack([one.as_subclass(Tensor) for one in changed])
    return stack, torch.stack([one.as_subclass(Tensor) for one in moved])
