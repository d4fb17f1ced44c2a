"""`trivial_augment`: TrivialAugmentWide (Mueller and Hutter 2021), for image and label.

torchvision's class of that name does not support labels, so its functions are called here one by
one, with the same operations, ranges and order of draws.
"""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Le

from segacc.contracts import Facts
from segacc.data.placement import padding_color
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.color import OnColors
from segacc.plugins.augmentations.pairs import Pair, random_index

if TYPE_CHECKING:
    from torch import Tensor

BINS = 31
"""Number of amounts per operation, evenly spaced from none to the maximum."""
SPACE: dict[str, tuple[float, float, bool]] = {
    "identity": (0, 0, False),
    "shear_x": (0, 0.99, True),
    "shear_y": (0, 0.99, True),
    "translate_x": (0, 32, True),
    "translate_y": (0, 32, True),
    "rotate": (0, 135, True),
    "brightness": (0, 0.99, True),
    "color": (0, 0.99, True),
    "contrast": (0, 0.99, True),
    "sharpness": (0, 0.99, True),
    "posterize": (8, 2, False),
    "solarize": (1, 0, False),
    "autocontrast": (0, 0, False),
    "equalize": (0, 0, False),
}
"""Amount of each operation at zero and at full strength, and whether half of them are negative."""


@dataclass(frozen=True, kw_only=True)
class TrivialAugmentOptions:
    """Options of trivial_augment."""

    strength: Annotated[float, Gt(0), Le(1)] = 1.0
    """Fraction of the paper's ranges to use. At 1: shear up to 0.99, translation up to 32 pixels,
    rotation up to 135 degrees, brightness, colour, contrast and sharpness factors from 0.01 to
    1.99, posterize down to 2 bits, solarize from any grey level."""


class TrivialAugment:
    """One of fourteen operations with a random amount."""

    def __init__(self, options: TrivialAugmentOptions, facts: Facts) -> None:
        """Store the options."""
        self.strength, self.ignore = options.strength, facts.ignore_index

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8 and label (H, W); areas from outside are ignored."""
        name = tuple(SPACE)[random_index(len(SPACE))]
        amount = self._amount(*SPACE[name])
        if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
            fill = padding_color(image.shape[0])
            return moved(image, name, amount, fill), moved(label, name, amount, self.ignore)
        return OnColors(functools.partial(recolored, name, amount))(image, label)

    def _amount(self, none: float, most: float, signed: bool) -> float:
        """Draw the amount."""
        import torch

        if none == most:
            return 0.0
        amounts = torch.linspace(none, none + self.strength * (most - none), BINS)
        amount = float(amounts[random_index(BINS)])
        return -amount if signed and torch.rand(()) <= 0.5 else amount


def moved(one: "Tensor", name: str, amount: float, fill: Any) -> Any:
    """Shear about the top left corner, translate, or rotate: Image bilinear, Mask nearest."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    given: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": fill}
    if name == "rotate":
        return F.rotate(one, amount, **given)
    kind, axis = name.split("_")
    along = [0.0, 0.0]
    if kind == "shear":
        along["xy".index(axis)] = math.degrees(math.atan(amount))
        return F.affine(one, 0.0, [0, 0], 1.0, along, center=[0, 0], **given)
    along["xy".index(axis)] = int(amount)
    return F.affine(one, 0.0, along, 1.0, [0.0, 0.0], **given)


def recolored(name: str, amount: float, image: "Tensor", label: "Tensor") -> Pair:
    """Change the colours of image (1 or 3, H, W) uint8."""
    from torchvision.transforms.v2 import functional as F

    factor = 1.0 + amount
    changes: dict[str, Any] = {
        "identity": lambda: image,
        "brightness": lambda: F.adjust_brightness(image, factor),
        "color": lambda: F.adjust_saturation(image, factor),
        "contrast": lambda: F.adjust_contrast(image, factor),
        "sharpness": lambda: F.adjust_sharpness(image, factor),
        "posterize": lambda: F.posterize(image, round(amount)),
        "solarize": lambda: F.solarize(image, 255.0 * amount),
        "autocontrast": lambda: F.autocontrast(image),
        "equalize": lambda: F.equalize(image),
    }
    return changes[name](), label


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register trivial_augment."""
    return [
        Augmentation(
            name="trivial_augment",
            summary="TrivialAugmentWide: one of fourteen operations with a random amount",
            options=TrivialAugmentOptions,
            build=TrivialAugment,
        )
    ]
