"""The augmentation pipeline: per sample in the worker, in whole batches on the device."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision import tv_tensors

from segacc.contracts import IGNORE, Facts
from segacc.data.items import Batch, Item, nothing
from segacc.data.order import seeded
from segacc.data.placement import KEPT, Placement, copied, inside_of
from segacc.errors import DataError, Origin, PluginError, SegaccError
from segacc.hookspecs import Augmentation, Chosen

Pair = tuple[Tensor, Tensor]
"""Image (C, H, W) uint8 and label (H, W) uint8."""
UNNAMED = Origin("augmentation")
PLACES = ("worker", "device", "batch")
LOOKS = 32
"""Number of batches in which the values returned by a device augmentation are checked; checking
synchronizes with the device."""


@dataclass(frozen=True)
class Stage:
    """A built augmentation, with what is needed of its record, which may not be picklable."""

    change: Any
    name: str = ""
    plugin: str = "its plugin"
    """Where it comes from, for messages."""
    partners: bool = False
    deferrable: Literal["crop", "flip"] | None = None
    origin: Origin = UNNAMED
    until: float = 1.0
    """Fraction of the run's steps after which it ends."""

    def __call__(self, image: Tensor, *more: Any) -> Any:
        """Call the augmentation.

        Raises:
            PluginError: it raised anything but a SegaccError.
        """
        with self.origin.doing(f"its call on {described(image)}"):
            return self.change(image, *more)

    def lasts(self, share: float) -> bool:
        """Return whether it is applied after this fraction of the run's steps."""
        return share < self.until or self.until == 1

    @property
    def batched(self) -> bool:
        """Whether it is a BatchChange."""
        return hasattr(self.change, "draw")

    @property
    def knows_padding(self) -> bool:
        """Whether it is a BatchChange that is told what is padding."""
        return getattr(self.change, "knows_padding", False)

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        """Draw the parameters of a BatchChange for one sample: float32.

        Raises:
            PluginError: `draw` raised anything but a SegaccError.
        """
        with self.origin.doing(f"draw() for {described(image)}"):
            drawn: Tensor = self.change.draw(image, label).float()
        return drawn


def place_of(one: Chosen) -> str:
    """Return where an augmentation runs: `worker`, `device` or `batch`.

    Raises:
        PluginError: its record gives none of these.
    """
    place = one.record.on
    with one.doing("on"):
        place = place(one.options) if callable(place) else place
    if place not in PLACES:
        raise PluginError(f"{one.origin}: `on` is {place!r}; expected one of {', '.join(PLACES)}.")
    return str(place)


def stage_of(one: Chosen, facts: Facts) -> Stage:
    """Build an augmentation."""
    record: Augmentation = one.record
    about = record.name, one.plugin, record.partners, record.deferrable, one.origin
    return Stage(one.build(facts), *about, until=getattr(one.common, "until", 1.0))


@dataclass(frozen=True)
class Pipeline:
    """All augmentations of a run in the given order, those in the worker first."""

    worker: tuple[Stage, ...] = ()
    device: tuple[Stage, ...] = ()
    """Called per image, or BatchChanges."""
    defers: bool = True
    """Whether the device applies the geometry of crops at the end of the worker's."""
    num_classes: int = IGNORE
    """K; labels must be below K or 255."""
    looks: Counter[int] = field(default_factory=Counter, compare=False)
    """Number of batches of each device augmentation whose values were checked."""
    share: float = 0.0
    """Fraction of the run's steps before those of its samples; see `at`."""

    @classmethod
    def of(cls, chosen: Sequence[Chosen], facts: Facts, *, defers: bool = True) -> "Pipeline":
        """Build augmentations, and assign each to the worker or the device."""
        worker: list[Stage] = []
        device: list[Stage] = []
        for one in chosen:
            (worker if place_of(one) == "worker" else device).append(stage_of(one, facts))
        return cls(tuple(worker), tuple(device), defers, facts.num_classes)

    def at(self, share: float) -> "Pipeline":
        """Return the pipeline without the augmentations that have ended.

        Args:
            share: fraction of the run's steps before that of a sample, which decides, as workers
                read ahead.
        """
        if all(one.lasts(share) for one in (*self.worker, *self.device)):
            return self
        worker, device = (
            tuple(one for one in stages if one.lasts(share))
            for stages in (self.worker, self.device)
        )
        return replace(self, worker=worker, device=device, share=share)

    def in_worker(self, item: Item, fetch: Callable[[], Pair]) -> Item:
        """Augment one sample, and draw the parameters of the batch augmentations.

        Args:
            item: decoded and mapped.
            fetch: reads another sample of the split, without augmentation.

        Raises:
            PluginError: an augmentation returned an invalid sample.
        """
        image, label, placement = item.image, item.label, None
        if end := len(self.worker) - len(self.deferred):
            image, label = self._through(end, image, label, fetch)
            image, label = image.as_subclass(Tensor), label.as_subclass(Tensor)
        for stage in self.deferred:
            if placement is None:
                image, label, placement = self._cut(stage, image, label)
            else:
                placement = stage.change.deferred_flip(placement)
        drawn = tuple(stage.draw(image, label) for stage in self.of_batches)
        padded = placement is None and any(stage.knows_padding for stage in self.of_batches)
        inside = inside_of(image, label) if padded else None
        found = replace(item, image=image, label=label, placement=placement)
        return replace(found, drawn=drawn, inside=inside, share=self.share)

    @cached_property
    def of_batches(self) -> list[Stage]:
        """The stages of the BatchChanges."""
        return [stage for stage in self.device if stage.batched]

    @cached_property
    def deferred(self) -> tuple[Stage, ...]:
        """The worker's last crop and the flips after it, if their geometry is left to the device.

        Nothing else follows them in the worker, and no BatchChange depends on their result.
        """
        kinds = [None if stage.partners else stage.deferrable for stage in self.worker]
        unseen = all(getattr(one.change, "draws_unseen", False) for one in self.of_batches)
        if not self.defers or not unseen or "crop" not in kinds:
            return ()
        crop = len(kinds) - 1 - kinds[::-1].index("crop")
        return self.worker[crop:] if set(kinds[crop + 1 :]) <= {"flip"} else ()

    def _through(self, end: int, image: Tensor, label: Tensor, fetch: Callable[[], Pair]) -> Pair:
        image, label = tv_tensors.Image(image), tv_tensors.Mask(label)
        for index, stage in enumerate(self.worker[:end]):
            more = [self._another(index, fetch)] if stage.partners else []
            found, moved = self._checked(stage, stage(image, label, *more), image)
            image, label = tv_tensors.Image(found), tv_tensors.Mask(moved)
        return image, label

    def _another(self, end: int, fetch: Callable[[], Pair]) -> Callable[[], Pair]:
        return lambda: self._through(end, *fetch(), fetch)

    def _cut(self, stage: Stage, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Placement]:
        """Cut the window of a deferred crop.

        A small one is copied, so that a worker does not keep all images of a batch in memory.
        """
        with stage.origin.doing("deferred_crop()"):
            *pair, placement = stage.change.deferred_crop(image, label)
        window, classes = self._checked(stage, pair, image)
        if window.numel() * KEPT < image.numel():
            window, classes = copied(window), classes.clone()
        return window, classes, placement

    def on_device(self, batch: Batch) -> Batch:
        """Apply what the worker left to the device: deferred geometry, then the augmentations.

        Args:
            batch: on the device; labels are uint8.

        Returns:
            Contiguous images (N, C, H, W), uint8 or float32 in 0..255, and labels (N, H, W) uint8.

        Raises:
            PluginError: an augmentation returned an invalid batch.
        """
        batch, stages = batch.laid_out(), self.at(batch.share).device
        rest, images, labels = iter(batch.drawn), batch.images.contiguous(), batch.labels
        inside = batch.inside
        for index, stage in enumerate(stages):
            look = self.looks[index] < LOOKS
            self.looks[index] += 1
            if stage.batched:
                given = images if getattr(stage.change, "takes_bytes", False) else images.float()
                brightest = float(given.max()) if look else 0.0
                more = (inside,) if stage.knows_padding else ()
                found = stage(given, labels, next(rest), *more)
                images, labels = self._checked(stage, found, given, fixed=True, look=look)
                if look:
                    check_range(stage, images, brightest)
            else:
                own = [seed + 1 + index for seed in batch.seeds]
                given = bytes_of(images)
                pairs = [
                    self._checked(stage, pair, given[0], fixed=True, look=look)
                    for pair in one_by_one(stage, given, labels, own)
                ]
                images, labels = (torch.stack(many) for many in zip(*pairs, strict=True))
            inside = inside if stage.knows_padding else ()  # others may move the pixels
        return replace(batch, images=images, labels=labels, drawn=())

    def _checked(
        self, stage: Stage, found: Any, given: Tensor, *, fixed: bool = False, look: bool = True
    ) -> Pair:
        image, label = returned(stage, found, given, fixed=fixed)
        if look:
            check_classes(stage, label, self.num_classes)
        return image, label


def returned(stage: Stage, found: Any, given: Tensor, *, fixed: bool) -> Pair:
    """Return the pair that an augmentation returned, as plain tensors.

    Args:
        stage: the augmentation.
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
        f"--aug {stage.name}: the augmentation returned {described(found)}; expected an image of "
        f"{' or '.join(dtypes)} in 0..255, ({', '.join(sizes)}), and its label of uint8, "
        f"({', '.join([*sizes[:-3], *sizes[-2:]])}). This is a bug in {stage.plugin}."
    )


def described(found: Any) -> str:
    """Describe a value: a tensor by dtype and shape, a pair by its parts."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
    if isinstance(found, tuple | list):
        return f"({', '.join(map(described, found))})"
    return type(found).__name__


def check_classes(stage: Stage, label: Tensor, num_classes: int) -> None:
    """Reject a label (..., H, W) uint8 with values that are neither a class nor 255.

    Raises:
        PluginError: the label has such a value.
    """
    strange = int((label + 1).max()) - 1  # uint8: 255 wraps to 0
    if strange >= num_classes:
        raise PluginError(
            f"--aug {stage.name}: the augmentation returned a label with the value {strange}; "
            f"expected classes 0..{num_classes - 1} and {IGNORE}, which is ignored. This is a bug "
            f"in {stage.plugin}: resize labels with nearest neighbour, fill with 255."
        )


def check_range(stage: Stage, images: Tensor, brightest: float) -> None:
    """Reject images (N, C, H, W) outside 0..255, or in 0..1 although the input was brighter.

    Raises:
        PluginError: the images are out of range.
    """
    low, high = (float(one) for one in images.aminmax())
    if not (low >= -0.5 and high <= 255.5) or 0 < high <= 1 < brightest:  # also true for nan
        raise PluginError(
            f"--aug {stage.name}: the augmentation returned images whose values are {low:.4g} to "
            f"{high:.4g}; expected values in 0..255, like its input. This is a bug in "
            f"{stage.plugin}."
        )


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


def augmented(
    name: str,
    read: Callable[[], Pair],
    pipeline: Pipeline,
    seed: int,
    *,
    fetch: Callable[[], Pair],
    num_channels: int,
) -> Item | SegaccError:
    """Read a sample and apply the worker's augmentations, under its own random seed.

    Args:
        name: the sample's id.
        read: returns image and label, or raises SegaccError.
        pipeline: the run's augmentations.
        seed: seed of all random draws.
        fetch: reads another sample, for augmentations that mix several.
        num_channels: channels of the image that replaces an unreadable one.
    """
    try:
        with seeded(seed):
            return pipeline.in_worker(Item(*read(), name, seed), fetch)
    except DataError as error:
        item = Item(*nothing(num_channels), name, seed, unreadable=str(error))
        with seeded(seed):
            return pipeline.in_worker(item, lambda: nothing(num_channels))
    except SegaccError as error:
        return error
