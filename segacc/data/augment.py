"""The augmentation pipeline: per sample in the worker, in whole batches on the device."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from segacc.contracts import IGNORE
from segacc.data.order import seeded
from segacc.data.placement import Placement, own
from segacc.errors import PluginError
from segacc.hookspecs import Augmentation

Pair = tuple[Tensor, Tensor]
"""Image (C, H, W) uint8 and label (H, W) uint8."""
LOOKS = 32
"""Number of batches in which the values returned by a device augmentation are checked; checking
synchronizes with the device."""


@dataclass(frozen=True)
class Changed:
    """A sample as it leaves the worker."""

    image: Tensor
    """(C, h, w) uint8."""
    label: Tensor
    """(h, w) uint8, 255 ignored."""
    drawn: tuple[Tensor, ...] = ()
    """Parameters of each BatchChange, float32."""
    placement: Placement | None = None
    """The geometry of a window that the device has to scale."""


@dataclass(frozen=True)
class Pipeline:
    """All augmentations of a run in the given order, those in the worker first."""

    worker: tuple[tuple[Callable[..., Any], bool], ...] = ()
    """Each with a flag whether it takes partners."""
    device: tuple[Callable[..., Any], ...] = field(default=())
    """Called per image, or BatchChanges."""
    scales: bool = True
    """Whether scaling of crops at the end is deferred to the device."""
    names: tuple[str, ...] = ()
    """Names of all augmentations, the worker's first, for errors."""
    num_classes: int = IGNORE
    """K; labels must be below K or 255."""
    looks: Counter[int] = field(default_factory=Counter, compare=False)
    """Number of batches of each device augmentation whose values were checked."""

    @classmethod
    def of(
        cls,
        chosen: Sequence[tuple[Augmentation, Any, Any]],
        *,
        scales: bool = True,
        num_classes: int = IGNORE,
    ) -> "Pipeline":
        """Assign (record, options, built augmentation) to worker or device."""
        worker, device = [], []
        names: tuple[list[str], list[str]] = [], []
        for record, options, change in chosen:
            on = record.on(options) if callable(record.on) else record.on
            if on == "worker":
                worker.append((change, record.partners))
            else:
                device.append(change)
            names[on != "worker"].append(record.name)
        told = (*names[0], *names[1])
        return cls(tuple(worker), tuple(device), scales, told, num_classes)

    def in_worker(self, image: Tensor, label: Tensor, fetch: Callable[[], Pair]) -> Changed:
        """Augment one sample, and draw the parameters of the batch augmentations.

        Args:
            image: (C, H, W) uint8.
            label: (H, W) uint8, 255 ignored.
            fetch: reads another sample of the split, without augmentation.

        Raises:
            PluginError: an augmentation returned an invalid sample.
        """
        placement: Placement | None = None
        at_once = len(self.worker) - len(self.late)
        if at_once:
            image, label = self._through(at_once, image, label, fetch)
        image, label = image.as_subclass(Tensor), label.as_subclass(Tensor)
        whole = image
        for change in self.late:
            if placement is None:
                *pair, placement = change.late_cut(image, label)
                image, label = self._checked(at_once, pair, whole)
                image, label, placement = own(whole, image, label, placement)
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
        """The LateCrop that is deferred to the device and the LateFlips after it, or none.

        They are the last in the worker, and no BatchChange depends on their result.
        """
        unseen = all(getattr(change, "draws_unseen", False) for change in self.of_batches)
        if not self.scales or not unseen:
            return ()
        for index, (change, partners) in reversed(list(enumerate(self.worker))):
            if not partners and can_wait(change, "late_cut"):
                return tuple(change for change, _ in self.worker[index:])
            if partners or not can_wait(change, "late_flip"):
                break
        return ()

    def _through(self, end: int, image: Tensor, label: Tensor, fetch: Callable[[], Pair]) -> Pair:
        image, label = tv_tensors.Image(image), tv_tensors.Mask(label)
        for index, (change, partners) in enumerate(self.worker[:end]):
            more = [self._another(index, fetch)] if partners else []
            found, moved = self._checked(index, change(image, label, *more), image)
            image, label = tv_tensors.Image(found), tv_tensors.Mask(moved)
        return image, label

    def _another(self, end: int, fetch: Callable[[], Pair]) -> Callable[[], Pair]:
        return lambda: self._through(end, *fetch(), fetch)

    def on_device(
        self, images: Tensor, labels: Tensor, drawn: Sequence[Tensor], seeds: Sequence[int]
    ) -> Pair:
        """Augment a batch: images (N, C, H, W) uint8 or float32 in 0..255, labels (N, H, W) uint8.

        Args:
            images: on the device, in any memory format; augmentations and network get contiguous
                tensors.
            labels: on the same device; 255 is ignored.
            drawn: (N, ...) float32 for each BatchChange.
            seeds: N seeds for the augmentations that are called per image.

        Raises:
            PluginError: an augmentation returned an invalid batch.
        """
        rest, images = iter(drawn), images.contiguous()
        for index, change in enumerate(self.device, len(self.worker)):
            look = self.looks[index] < LOOKS
            self.looks[index] += 1
            if batched(change):
                given = images if getattr(change, "takes_bytes", False) else images.float()
                brightest = float(given.max()) if look else 0.0
                found = change(given, labels, next(rest))
                images, labels = self._checked(index, found, given, fixed=True, look=look)
                if look:
                    check_range(self.name(index), images, brightest)
            else:
                own = [seed + 1 + index - len(self.worker) for seed in seeds]
                given = bytes_of(images)
                pairs = [
                    self._checked(index, pair, given[0], fixed=True, look=look)
                    for pair in one_by_one(change, given, labels, own)
                ]
                images, labels = (torch.stack(many) for many in zip(*pairs, strict=True))
        return images, labels

    def name(self, index: int) -> str:
        """Return the name of an augmentation by its index in the pipeline."""
        return self.names[index] if self.names else f"number {index + 1}"

    def _checked(
        self, index: int, found: Any, given: Tensor, *, fixed: bool = False, look: bool = True
    ) -> Pair:
        name = self.name(index)
        image, label = returned(name, found, given, fixed=fixed)
        if look:
            check_classes(name, label, self.num_classes)
        return image, label


def returned(name: str, found: Any, given: Tensor, *, fixed: bool) -> Pair:
    """Return the pair that an augmentation returned, as plain tensors.

    Args:
        name: name of the augmentation.
        found: its return value.
        given: the image (C, H, W), or images (N, C, H, W), that was passed to it.
        fixed: whether height and width must be unchanged.

    Raises:
        PluginError: the return value does not follow the interface.
    """
    image, label = found if isinstance(found, tuple | list) and len(found) == 2 else (found, None)
    batch, same = given.ndim == 4, given.shape if fixed else given.shape[:-2]
    dtypes = ("uint8", "float32") if batch else ("uint8",)
    if (
        isinstance(image, Tensor)
        and isinstance(label, Tensor)
        and str(image.dtype).removeprefix("torch.") in dtypes
        and label.dtype == torch.uint8
        and (image.ndim, image.shape[: len(same)]) == (given.ndim, same)
        and label.shape == (*image.shape[:-3], *image.shape[-2:])
        and image.numel()
    ):
        return image.as_subclass(Tensor), label.as_subclass(Tensor)
    sizes = [*map(str, given.shape[:-2]), *(map(str, given.shape[-2:]) if fixed else "HW")]
    raise PluginError(
        f"--aug {name}: the augmentation returned {described(found)}; expected an image of "
        f"{' or '.join(dtypes)} in 0..255, ({', '.join(sizes)}), and its label of uint8, "
        f"({', '.join([*sizes[:-3], *sizes[-2:]])}). This is a bug in its plugin."
    )


def described(found: Any) -> str:
    """Describe a value: a tensor by dtype and shape, a pair by its parts."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
    if isinstance(found, tuple | list):
        return f"({', '.join(map(described, found))})"
    return type(found).__name__


def check_classes(name: str, label: Tensor, num_classes: int) -> None:
    """Reject a label (..., H, W) uint8 with values that are neither a class nor 255.

    Raises:
        PluginError: the label has such a value.
    """
    strange = int((label + 1).max()) - 1  # uint8: 255 wraps to 0
    if strange >= num_classes:
        raise PluginError(
            f"--aug {name}: the augmentation returned a label with the value {strange}; expected "
            f"classes 0..{num_classes - 1} and {IGNORE}, which is ignored. This is a bug in "
            "its plugin: resize labels with nearest neighbour, fill with 255."
        )


def check_range(name: str, images: Tensor, brightest: float) -> None:
    """Reject images (N, C, H, W) outside 0..255, or in 0..1 although the input was brighter.

    Raises:
        PluginError: the images are out of range.
    """
    low, high = (float(one) for one in images.aminmax())
    if not (low >= -0.5 and high <= 255.5) or 0 < high <= 1 < brightest:  # also true for nan
        raise PluginError(
            f"--aug {name}: the augmentation returned images whose values are {low:.4g} to "
            f"{high:.4g}; expected values in 0..255, like its input. This is a bug in its "
            "plugin."
        )


def can_wait(change: Any, way: str) -> bool:
    """True if a change has this method of deferring, and no subclass overrides only `__call__`."""
    told = [kind for kind in type(change).__mro__ if {way, "__call__"} & vars(kind).keys()]
    return bool(told) and way in vars(told[0])


def batched(change: Any) -> bool:
    """True for a BatchChange, false for an augmentation of single images."""
    return hasattr(change, "draw")


def bytes_of(images: Tensor) -> Tensor:
    """Convert images in 0..255 to uint8."""
    return images if images.dtype == torch.uint8 else images.round().clamp(0, 255).to(torch.uint8)


def one_by_one(
    change: Callable[..., Any], images: Tensor, labels: Tensor, seeds: Sequence[int]
) -> Iterator[Any]:
    """Call an augmentation for each image (C, H, W) uint8 of a batch, each under its own seed."""
    for image, label, seed in zip(images, labels, seeds, strict=True):
        with seeded(seed, images.device):
            pair = change(tv_tensors.Image(image), tv_tensors.Mask(label))
        yield pair
