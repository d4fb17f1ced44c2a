"""`gaussian_blur` and `random_erasing`: augmentations that remove information."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from segacc.contracts import Facts
from segacc.data.placement import padding_color
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.pairs import (
    Pair,
    RangeOptions,
    as_pair,
    chance,
    plain,
    random_index,
    uniform,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GaussianBlurOptions(RangeOptions):
    """Options of gaussian_blur."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of blurring."""
    sigma_min: Annotated[float, Gt(0), Le(20)] = 0.1
    """Smallest standard deviation in pixels."""
    sigma_max: Annotated[float, Gt(0), Le(20)] = 2.0
    """Largest standard deviation in pixels."""


class GaussianBlur:
    """Blur all channels with a Gaussian that is truncated at three standard deviations."""

    def __init__(self, options: GaussianBlurOptions, facts: Facts) -> None:
        """Store the options."""
        self.options = options

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8, blurred or unchanged, and its unchanged label."""
        from torchvision.transforms.v2 import functional as F

        if not chance(self.options.p):
            return image, label
        sigma = uniform(self.options.sigma_min, self.options.sigma_max)
        pixels, label = plain(image, label)
        pixels = pixels.float()
        # Columns, then rows: two 1D kernels are faster than torchvision's square one. It pads by
        # reflection, so a kernel must not extend beyond the image.
        for side, axis in zip(pixels.shape[-2:], (1, 0), strict=True):
            size = [1, 1]
            size[axis] = 1 + 2 * min(math.ceil(3 * sigma), side - 1)
            pixels = F.gaussian_blur(pixels, size, [sigma, sigma])
        return as_pair(pixels.round_().byte(), label)


@dataclass(frozen=True, kw_only=True)
class RandomErasingOptions(RangeOptions):
    """Options of random_erasing."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of erasing a rectangle."""
    area_min: Annotated[float, Gt(0), Lt(1)] = 0.02
    """Smallest fraction of the image to erase."""
    area_max: Annotated[float, Gt(0), Lt(1)] = 0.33
    """Largest fraction of the image to erase."""
    ratio_min: Annotated[float, Gt(0)] = 0.3
    """Smallest ratio of height to width of the rectangle."""
    ratio_max: Annotated[float, Gt(0)] = 3.3
    """Largest ratio of height to width of the rectangle."""
    fill: Literal["noise", "mean"] = "noise"
    """Fill value: a random colour for each pixel, or ImageNet's mean colour."""


class RandomErasing:
    """Erase a rectangle (Zhong et al. 2017), whose pixels are then ignored."""

    def __init__(self, options: RandomErasingOptions, facts: Facts) -> None:
        """Store the options."""
        self.options, self.ignore = options, facts.ignore_index

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8 and label (H, W), partly erased or unchanged."""
        import torch

        if not chance(self.options.p) or (box := self._box(*label.shape)) is None:
            return image, label
        image, label = (one.clone() for one in plain(image, label))
        rows, columns = box
        label[rows, columns] = self.ignore
        hole = image[:, rows, columns]
        if self.options.fill == "noise":
            hole.copy_(torch.randint(256, hole.shape, dtype=torch.uint8))
        else:
            color = torch.tensor(padding_color(image.shape[0]), dtype=torch.uint8)
            hole.copy_(color[:, None, None])
        return as_pair(image, label)

    def _box(self, height: int, width: int) -> tuple[slice, slice] | None:
        """Draw rows and columns; None if ten rectangles did not fit into the image."""
        o = self.options
        for _ in range(10):
            area = height * width * uniform(o.area_min, o.area_max)
            ratio = math.exp(uniform(math.log(o.ratio_min), math.log(o.ratio_max)))
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < tall < height and 0 < wide < width:
                top, left = random_index(height - tall + 1), random_index(width - wide + 1)
                return slice(top, top + tall), slice(left, left + wide)
        return None


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register gaussian_blur and random_erasing."""
    return [
        Augmentation(
            name="gaussian_blur",
            summary="random Gaussian blur",
            options=GaussianBlurOptions,
            build=GaussianBlur,
        ),
        Augmentation(
            name="random_erasing",
            summary="fills a random rectangle with noise and ignores it",
            options=RandomErasingOptions,
            build=RandomErasing,
        ),
    ]
