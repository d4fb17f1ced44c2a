"""`photometric_distortion` (mmsegmentation's) and `tf_color` (TensorFlow's): fixed recipes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from segacc.contracts import Facts
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.color import (
    OF_COLORS,
    FusedColors,
    OnColors,
    Step,
    exact_in_worker,
)
from segacc.plugins.augmentations.pairs import Pair, as_pair, chance, check_range, uniform

if TYPE_CHECKING:
    from torch import Tensor


class ExactSteps:
    """The steps one after the other, each clamped to 0..255, saturation and hue those of HSV."""

    def __init__(self, draw_steps: Callable[[], Sequence[Step]]) -> None:
        """Keep what draws the steps of one picture."""
        self.draw_steps = draw_steps

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8, of one or three channels, and its label as it was."""
        from torch import Tensor

        pixels = image.as_subclass(Tensor).float()
        for name, amount in self.draw_steps():
            if image.shape[0] == 3 or name not in OF_COLORS:
                pixels = PIXELS[name](pixels, amount).clamp_(0, 255)
        return as_pair(pixels.round_().byte(), label)


def contrast_each(pixels: "Tensor", factor: float) -> "Tensor":
    """Multiply what each channel has above its own mean."""
    mean = pixels.double().mean((1, 2), keepdim=True).float()
    return (pixels - mean) * factor + mean


def hsv_saturation(pixels: "Tensor", factor: float) -> "Tensor":
    """Multiply HSV's saturation, at most to 1; its value, the largest channel, stays."""
    most, least = pixels.amax(0), pixels.amin(0)
    most_factor = most / (most - least).clamp(min=1e-6)  # that which makes the smallest channel 0
    return most - (most - pixels) * most_factor.clamp(max=factor)


def hsv_hue(pixels: "Tensor", turn: float) -> "Tensor":
    """Turn HSV's hue by a share of the circle."""
    from torchvision.transforms.v2 import functional as F

    turned: Tensor = F.adjust_hue(pixels / 255, turn) * 255
    return turned


PIXELS: dict[str, "Callable[[Tensor, float], Tensor]"] = {
    "brightness": lambda pixels, factor: pixels * factor,
    "offset": lambda pixels, levels: pixels + levels,
    "contrast_each": contrast_each,
    "saturation": hsv_saturation,
    "hue": hsv_hue,
}
"""What a step does to pixels (C, H, W) float32 in 0..255."""


def build_steps(draw_steps: Callable[[], Sequence[Step]], exact: bool) -> Callable[..., Any]:
    """Build the change of all steps: one by one in the worker, or fused on the device."""
    return OnColors(ExactSteps(draw_steps)) if exact else FusedColors(draw_steps)


@dataclass(frozen=True, kw_only=True)
class PhotometricDistortionOptions:
    """Options of photometric_distortion."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of each of the four changes."""
    brightness: Annotated[float, Ge(0), Le(255)] = 32.0
    """Grey levels that are added, drawn from -b to b."""
    contrast: Annotated[float, Ge(0), Le(1)] = 0.5
    """Factor of all channels, drawn from 1 - c to 1 + c; before or after hue and saturation."""
    saturation: Annotated[float, Ge(0), Le(1)] = 0.5
    """Factor drawn from 1 - s to 1 + s."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Turn of the colour circle, drawn from -h to h: 0.1 is 36 degrees, the 18 of mmsegmentation's
    180 steps."""
    exact: bool = False
    """True: one by one in the worker, saturation and hue those of HSV as in mmsegmentation. False:
    as one change on the device; saturation and hue keep the grey value instead."""


@dataclass(frozen=True)
class DistortionSteps:
    """Draws mmsegmentation's PhotoMetricDistortion.

    Its contrast multiplies, without regard to a mean, and comes before saturation and hue or after
    them, at even chances.
    """

    options: PhotometricDistortionOptions

    def __call__(self) -> list[Step]:
        """Draw up to four steps."""
        o, early = self.options, chance(0.5)
        amounts = {
            "offset": (-o.brightness, o.brightness),
            "brightness": (1 - o.contrast, 1 + o.contrast),
            "saturation": (1 - o.saturation, 1 + o.saturation),
            "hue": (-o.hue, o.hue),
        }
        drawn = {name: uniform(*ends) for name, ends in amounts.items() if chance(o.p)}
        late = ("offset", "saturation", "hue", "brightness")
        return [(name, drawn[name]) for name in (amounts if early else late) if name in drawn]


@dataclass(frozen=True, kw_only=True)
class TfColorOptions:
    """Options of tf_color."""

    brightness: Annotated[float, Ge(0), Le(1)] = 0.25
    """Share of the full range that is added, drawn from -b to b."""
    contrast_min: Annotated[float, Ge(0)] = 0.5
    """Smallest factor of what a channel has above its mean."""
    contrast_max: Annotated[float, Ge(0)] = 2.0
    """Largest factor of it."""
    saturation_min: Annotated[float, Ge(0)] = 0.75
    """Smallest factor of saturation."""
    saturation_max: Annotated[float, Ge(0)] = 1.25
    """Largest factor of saturation."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Turn of the colour circle, drawn from -h to h."""
    exact: bool = False
    """True: one by one in the worker, saturation and hue those of HSV as in TensorFlow. False: as
    one change on the device; saturation and hue keep the grey value instead."""

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        check_range(self, "contrast")
        check_range(self, "saturation")


@dataclass(frozen=True)
class TfColorSteps:
    """Draws the recipe of Hugging Face's segmentation tutorial for TensorFlow.

    tf.image's random_brightness, random_contrast, random_saturation and random_hue, always and in
    this order. The tutorial hands random_brightness pixels of 0..255 as floats, for which its 0.25
    is a quarter of one grey level; here it is what it is for pictures of integers.
    """

    options: TfColorOptions

    def __call__(self) -> list[Step]:
        """Draw four steps."""
        o = self.options
        return [
            ("offset", 255 * uniform(-o.brightness, o.brightness)),
            ("contrast_each", uniform(o.contrast_min, o.contrast_max)),
            ("saturation", uniform(o.saturation_min, o.saturation_max)),
            ("hue", uniform(-o.hue, o.hue)),
        ]


def build_distortion(options: PhotometricDistortionOptions, facts: Facts) -> Callable[..., Any]:
    """Build photometric_distortion."""
    return build_steps(DistortionSteps(options), options.exact)


def build_tf_color(options: TfColorOptions, facts: Facts) -> Callable[..., Any]:
    """Build tf_color."""
    return build_steps(TfColorSteps(options), options.exact)


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register photometric_distortion and tf_color."""
    return [
        Augmentation(
            name="photometric_distortion",
            summary="mmsegmentation's random brightness, contrast, saturation and hue",
            options=PhotometricDistortionOptions,
            build=build_distortion,
            on=exact_in_worker,
        ),
        Augmentation(
            name="tf_color",
            summary="brightness, contrast, saturation and hue as TensorFlow draws them",
            options=TfColorOptions,
            build=build_tf_color,
            on=exact_in_worker,
        ),
    ]
