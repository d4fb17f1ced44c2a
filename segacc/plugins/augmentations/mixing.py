"""`cutmix`, `class_mix`, `mosaic`: augmentations that mix several samples."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from segacc.contracts import Facts
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.pairs import (
    Another,
    Pair,
    RangeOptions,
    as_pair,
    chance,
    meeting,
    pasted,
    plain,
    random_index,
    resized_pair,
    uniform,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CutMixOptions(RangeOptions):
    """Options of cutmix."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of mixing."""
    area_min: Annotated[float, Gt(0), Le(1)] = 0.1
    """Smallest fraction of the image that the rectangle covers."""
    area_max: Annotated[float, Gt(0), Le(1)] = 0.5
    """Largest fraction of the image that the rectangle covers."""


class CutMix:
    """Paste a rectangle of another sample (Yun et al. 2019; French et al. 2020).

    It keeps its position; if the samples differ in size, they are aligned at random. The aspect
    ratio is between 1/2 and 2.
    """

    def __init__(self, options: CutMixOptions, facts: Facts) -> None:
        """Store the options."""
        self.options = options

    def __call__(self, image: "Tensor", label: "Tensor", another: Another) -> Pair:
        """Return image (C, H, W) uint8 and label (H, W) with the rectangle."""
        if not chance(self.options.p):
            return image, label
        image, label = (one.clone() for one in plain(image, label))
        other, beside = plain(*another())
        mine, theirs = meeting(label, beside)
        tall, wide = label[mine].shape
        area = label.numel() * uniform(self.options.area_min, self.options.area_max)
        ratio = math.exp(uniform(-math.log(2), math.log(2)))
        rows = self._side(math.sqrt(area * ratio), tall)
        columns = self._side(math.sqrt(area / ratio), wide)
        image[:, *mine][:, rows, columns] = other[:, *theirs][:, rows, columns]
        label[mine][rows, columns] = beside[theirs][rows, columns]
        return as_pair(image, label)

    def _side(self, length: float, limit: int) -> slice:
        """Draw the position of a side within a limit, both in pixels."""
        side = min(limit, max(1, round(length)))
        start = random_index(limit - side + 1)
        return slice(start, start + side)


@dataclass(frozen=True, kw_only=True)
class ClassMixOptions:
    """Options of class_mix."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of mixing."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Fraction of the other sample's classes to paste, rounded up."""


class ClassMix:
    """Paste half of the classes of another sample (Olsson et al. 2021)."""

    def __init__(self, options: ClassMixOptions, facts: Facts) -> None:
        """Store the options."""
        self.options, self.ignore = options, facts.ignore_index

    def __call__(self, image: "Tensor", label: "Tensor", another: Another) -> Pair:
        """Return image (C, H, W) uint8 and label (H, W) with the other's pixels."""
        import torch

        if not chance(self.options.p):
            return image, label
        other, beside = plain(*another())
        mine, theirs = meeting(label, beside)
        over = other[:, *theirs], beside[theirs]
        found = torch.bincount(over[1].flatten(), minlength=256)
        found[self.ignore] = 0
        classes = found.nonzero()[:, 0]
        kept = classes[torch.randperm(len(classes))[: math.ceil(len(classes) * self.options.share)]]
        chosen = torch.zeros(256, dtype=torch.bool).index_fill_(0, kept, True)
        return pasted(image, label, mine, over, chosen[over[1].int()])


@dataclass(frozen=True, kw_only=True)
class MosaicOptions:
    """Options of mosaic."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of mixing; otherwise the sample is unchanged and keeps its size."""
    margin: Annotated[float, Ge(0), Le(0.5)] = 0.25
    """Minimum distance of the common corner from the border, as a fraction of the side; 0.5:
    centre."""


class Mosaic:
    """Combine this and three other samples around a random point in an image of `crop_size`.

    A random piece of each is cut at its own resolution; a sample that is smaller than its quarter
    is first enlarged to fill it.
    """

    def __init__(self, options: MosaicOptions, facts: Facts) -> None:
        """Store the options."""
        self.options, self.crop = options, facts.crop_size

    def __call__(self, image: "Tensor", label: "Tensor", another: Another) -> Pair:
        """Return image (C, h, w) uint8 and label (h, w) of the crop size, or unchanged."""
        if not chance(self.options.p):
            return image, label
        low, high = self.options.margin, 1 - self.options.margin
        centre = [round(side * uniform(low, high)) for side in self.crop]
        rows, columns = (
            (slice(0, middle), slice(middle, side))
            for middle, side in zip(centre, self.crop, strict=True)
        )
        whole, classes = image.new_empty(image.shape[0], *self.crop), label.new_empty(self.crop)
        own: Pair | None = (image, label)
        for quarter in [(row, column) for row in rows for column in columns]:
            tall, wide = classes[quarter].shape
            if tall and wide:
                whole[:, *quarter], classes[quarter] = piece(*(own or another()), (tall, wide))
                own = None
        return as_pair(whole, classes)


def piece(image: "Tensor", label: "Tensor", size: tuple[int, int]) -> "tuple[Tensor, Tensor]":
    """Cut a random piece of (height, width) pixels, enlarging the image if necessary."""
    tall, wide = label.shape
    factor = max(1.0, size[0] / tall, size[1] / wide)
    if factor > 1:
        new = max(size[0], round(tall * factor)), max(size[1], round(wide * factor))
        image, label = resized_pair(image, label, new)
    image, label = plain(image, label)
    top, left = (
        random_index(side - part + 1) for side, part in zip(label.shape, size, strict=True)
    )
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return image[:, *window], label[window]


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register cutmix, class_mix and mosaic."""
    return [
        Augmentation(
            name="cutmix",
            summary="pastes a rectangle of another sample",
            options=CutMixOptions,
            build=CutMix,
            partners=True,
        ),
        Augmentation(
            name="class_mix",
            summary="pastes half of the classes of another sample",
            options=ClassMixOptions,
            build=ClassMix,
            partners=True,
        ),
        Augmentation(
            name="mosaic",
            summary="combines four samples to one of crop_size; use it before random_scale_crop",
            options=MosaicOptions,
            build=Mosaic,
            partners=True,
        ),
    ]
