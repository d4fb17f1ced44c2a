"""`rare_class_crop` and `copy_paste`: show rare classes more often."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from segacc.contracts import Facts
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.geometry import RandomScaleCrop, RandomScaleCropOptions
from segacc.plugins.augmentations.pairs import (
    Another,
    Pair,
    RangeOptions,
    as_pair,
    chance,
    meeting,
    pasted,
    plain,
    resized_pair,
    uniform,
)

if TYPE_CHECKING:
    from torch import Tensor

    from segacc.plugins.augmentations.geometry import Counts


def shares_of(facts: Facts) -> tuple[float, ...]:
    """Return each class's fraction of the labelled pixels; equal fractions if unknown."""
    return facts.class_shares or (1 / facts.num_classes,) * facts.num_classes


def draw_classes(
    present: Sequence[int], shares: Sequence[float], temperature: float, count: int = 1
) -> list[int]:
    """Draw different classes by rarity: exp((1 - share) / temperature), as in DAFormer.

    Args:
        present: the classes to draw from.
        shares: (K,) fractions of all pixels.
        temperature: smaller values prefer the rarest classes more strongly.
        count: number of classes; all of them if there are fewer.
    """
    import torch

    scores = torch.tensor([1 - shares[k] for k in present], dtype=torch.float64) / temperature
    # The probability of frequent classes may underflow to 0, but they may have to be drawn.
    chances = scores.softmax(0).clamp(min=1e-30)
    drawn = torch.multinomial(chances, min(count, len(present)))
    return [present[index] for index in drawn.tolist()]


def classes_in(counts: "Tensor", num_classes: int) -> list[int]:
    """Return the classes with non-zero counts (256,)."""
    found: list[int] = counts[:num_classes].nonzero()[:, 0].tolist()
    return found


@dataclass(frozen=True, kw_only=True)
class RareClassCropOptions(RandomScaleCropOptions):
    """Options of rare_class_crop."""

    temperature: Annotated[float, Gt(0)] = 0.01
    """Smaller values show the rarest class of an image with higher probability."""
    min_pixels: Annotated[int, Ge(1)] = 1500
    """Minimum pixels of that class in a crop, for up to ten tries; at most half of its pixels in
    the scaled image, and at most half of the crop."""


class RareClassCrop(RandomScaleCrop):
    """Like random_scale_crop, but the crop shows a class that was drawn by rarity (DAFormer)."""

    counted = math.inf  # the rule needs exact pixel counts

    def __init__(self, options: RareClassCropOptions, facts: Facts) -> None:
        """Store the options."""
        super().__init__(options, facts)
        self.rare, self.shares = options, shares_of(facts)

    def rule(self, label: "Tensor", scaled: tuple[int, int]) -> "Callable[[Counts], bool]":
        """Draw the class; accept a crop with enough of it in which no class dominates."""
        import torch

        whole = torch.bincount(label.flatten(), minlength=256)
        present = classes_in(whole, len(self.shares))
        if not present:
            return self.varied
        [wanted] = draw_classes(present, self.shares, self.rare.temperature)
        growth = scaled[0] * scaled[1] / label.numel()
        half = min(int(whole[wanted]) * growth, self.crop[0] * self.crop[1]) / 2
        least = min(self.rare.min_pixels, half) / growth

        def shown(counts: "Counts") -> bool:
            return bool(counts[wanted] >= least) and self.varied(counts)

        return shown


@dataclass(frozen=True, kw_only=True)
class CopyPasteOptions(RangeOptions):
    """Options of copy_paste."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of pasting."""
    temperature: Annotated[float, Gt(0)] = 0.01
    """Smaller values paste the rarest class of the other sample with higher probability."""
    classes: Annotated[int, Ge(1)] = 1
    """Number of rare classes of the other sample to paste; a class is rare if its fraction of all
    pixels is at most 1 / K."""
    tries: Annotated[int, Ge(1), Le(20)] = 3
    """Maximum number of samples to read until one has a rare class."""
    flip: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of flipping the pasted pixels horizontally."""
    scale_min: Annotated[float, Gt(0)] = 0.75
    """Smallest scale factor of the pasted pixels."""
    scale_max: Annotated[float, Gt(0)] = 1.25
    """Largest scale factor of the pasted pixels."""


class CopyPaste:
    """Paste the pixels of rare classes of another sample, at a random position.

    Copy-paste (Ghiasi et al. 2021) with classes instead of objects, drawn by rarity as in DAFormer.
    """

    def __init__(self, options: CopyPasteOptions, facts: Facts) -> None:
        """Store the options; determine which classes are rare."""
        self.options, self.shares, self.ignore = options, shares_of(facts), facts.ignore_index
        self.rare = [k for k, share in enumerate(self.shares) if share <= 1 / len(self.shares)]

    def __call__(self, image: "Tensor", label: "Tensor", another: Another) -> Pair:
        """Return image (C, H, W) uint8 and label (H, W), with pasted pixels or unchanged."""
        if not chance(self.options.p) or (found := self._find(another)) is None:
            return image, label
        other, beside = self._varied(*found)
        mine, theirs = meeting(label, beside)
        over = other[:, *theirs], beside[theirs]
        return pasted(image, label, mine, over, over[1] != self.ignore)

    def _find(self, another: Another) -> "tuple[Tensor, Tensor] | None":
        """Return the bounding box of the drawn classes in a sample; the rest is ignored."""
        import torch

        for _ in range(self.options.tries):
            image, label = plain(*another())
            counts = torch.bincount(label.flatten(), minlength=256)
            present = [k for k in classes_in(counts, len(self.shares)) if k in self.rare]
            if not present:
                continue
            o = self.options
            drawn = draw_classes(present, self.shares, o.temperature, o.classes)
            kept = torch.isin(label, torch.tensor(drawn, dtype=label.dtype))
            box = span(kept.any(1)), span(kept.any(0))
            return image[:, *box], label.where(kept, self.ignore)[box]
        return None

    def _varied(self, image: "Tensor", label: "Tensor") -> "tuple[Tensor, Tensor]":
        """Flip and resize the pasted pixels at random."""
        if chance(self.options.flip):
            image, label = image.flip(-1), label.flip(-1)
        scale = uniform(self.options.scale_min, self.options.scale_max)
        tall, wide = (max(1, round(side * scale)) for side in label.shape)
        return plain(*resized_pair(*as_pair(image, label), (tall, wide)))


def span(marks: "Tensor") -> slice:
    """Return the slice from the first to the last mark of (L,) bool."""
    indices = marks.nonzero()[:, 0]
    return slice(int(indices[0]), int(indices[-1]) + 1)


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register rare_class_crop and copy_paste."""
    return [
        Augmentation(
            name="rare_class_crop",
            summary="like random_scale_crop, but shows a rare class of the image",
            options=RareClassCropOptions,
            build=RareClassCrop,
            deferrable="crop",
            wants_shares=True,
        ),
        Augmentation(
            name="copy_paste",
            summary="pastes rare classes of another sample at a random position",
            options=CopyPasteOptions,
            build=CopyPaste,
            partners=True,
            wants_shares=True,
        ),
    ]
