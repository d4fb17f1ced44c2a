"""The row of augmentations: in the worker sample by sample, on the device in whole batches."""

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
"""Batches in which the values that a change of the device returns are looked at; it has to wait."""


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
    names: tuple[str, ...] = ()
    """Of all, the worker's first, for errors."""
    num_classes: int = IGNORE
    """K; no label has a higher class."""
    looks: Counter[int] = field(default_factory=Counter, compare=False)
    """Batches of each change of the device whose values were looked at."""

    @classmethod
    def of(
        cls,
        chosen: Sequence[tuple[Augmentation, Any, Any]],
        *,
        scales: bool = True,
        num_classes: int = IGNORE,
    ) -> "Pipeline":
        """Sort (record, options, what it built) by where it runs."""
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
        """Change one sample, and draw what the device will need.

        Args:
            image: (C, H, W) uint8.
            label: (H, W) uint8, 255 ignored.
            fetch: reads another sample of the split, as it is on disk.

        Raises:
            PluginError: one of them returned what is no sample.
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
            more = [self._another(place, fetch)] if partners else []
            found, moved = self._checked(place, change(image, label, *more), image)
            image, label = tv_tensors.Image(found), tv_tensors.Mask(moved)
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

        Raises:
            PluginError: one of them returned what is no batch.
        """
        rest, images = iter(drawn), images.contiguous()
        for place, change in enumerate(self.device, len(self.worker)):
            look = self.looks[place] < LOOKS
            self.looks[place] += 1
            if batched(change):
                given = images if getattr(change, "takes_bytes", False) else images.float()
                brightest = float(given.max()) if look else 0.0
                found = change(given, labels, next(rest))
                images, labels = self._checked(place, found, given, fixed=True, look=look)
                if look:
                    check_range(self.name(place), images, brightest)
            else:
                own = [seed + 1 + place - len(self.worker) for seed in seeds]
                given = bytes_of(images)
                pairs = [
                    self._checked(place, pair, given[0], fixed=True, look=look)
                    for pair in one_by_one(change, given, labels, own)
                ]
                images, labels = (torch.stack(many) for many in zip(*pairs, strict=True))
        return images, labels

    def name(self, place: int) -> str:
        """Return the name of a change, by its place in the whole row."""
        return self.names[place] if self.names else f"number {place + 1}"

    def _checked(
        self, place: int, found: Any, given: Tensor, *, fixed: bool = False, look: bool = True
    ) -> Pair:
        name = self.name(place)
        image, label = returned(name, found, given, fixed=fixed)
        if look:
            check_classes(name, label, self.num_classes)
        return image, label


def returned(name: str, found: Any, given: Tensor, *, fixed: bool) -> Pair:
    """Return the pair that a change returned, as plain tensors.

    Args:
        name: of the augmentation.
        found: what it returned.
        given: the image (C, H, W), or the images (N, C, H, W), that it was given.
        fixed: whether height and width must stay, too.

    Raises:
        PluginError: it is not what the hook promises.
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
        f"--aug {name}: the augmentation returned {described(found)}; expected is an image of "
        f"{' or '.join(dtypes)} in 0..255, ({', '.join(sizes)}), and its label of uint8, "
        f"({', '.join([*sizes[:-3], *sizes[-2:]])}). That is a fault of its plugin."
    )


def described(found: Any) -> str:
    """Tell what something is: a tensor by dtype and shape, a pair by its parts."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
    if isinstance(found, tuple | list):
        return f"({', '.join(map(described, found))})"
    return type(found).__name__


def check_classes(name: str, label: Tensor, num_classes: int) -> None:
    """Refuse a label (..., H, W) uint8 with values that are neither a class nor 255.

    Raises:
        PluginError: so.
    """
    strange = int((label + 1).max()) - 1  # uint8: what is ignored has become 0
    if strange >= num_classes:
        raise PluginError(
            f"--aug {name}: the augmentation returned a label with the value {strange}; expected "
            f"are classes 0..{num_classes - 1} and {IGNORE}, which is ignored. That is a fault of "
            "its plugin: resize labels with nearest neighbour, fill with 255."
        )


def check_range(name: str, images: Tensor, brightest: float) -> None:
    """Refuse images (N, C, H, W) out of 0..255, or in 0..1 where those given had a brighter pixel.

    Raises:
        PluginError: so.
    """
    low, high = (float(one) for one in images.aminmax())
    if not (low >= -0.5 and high <= 255.5) or 0 < high <= 1 < brightest:  # nan too
        raise PluginError(
            f"--aug {name}: the augmentation returned images whose values are {low:.4g} to "
            f"{high:.4g}; expected are values in 0..255, as it was given. That is a fault of its "
            "plugin."
        )


def can_wait(change: Any, way: str) -> bool:
    """Tell whether a change has this way of waiting, and no call of its own that is newer."""
    told = [kind for kind in type(change).__mro__ if {way, "__call__"} & vars(kind).keys()]
    return bool(told) and way in vars(told[0])


def batched(change: Any) -> bool:
    """Tell a BatchChange from a change of single pictures."""
    return hasattr(change, "draw")


def bytes_of(images: Tensor) -> Tensor:
    """Return images of 0..255 as uint8."""
    return images if images.dtype == torch.uint8 else images.round().clamp(0, 255).to(torch.uint8)


def one_by_one(
    change: Callable[..., Any], images: Tensor, labels: Tensor, seeds: Sequence[int]
) -> Iterator[Any]:
    """Call a change for each picture (C, H, W) uint8 of a batch, under a seed of its own."""
    for image, label, seed in zip(images, labels, seeds, strict=True):
        with seeded(seed, images.device):
            pair = change(tv_tensors.Image(image), tv_tensors.Mask(label))
        yield pair
