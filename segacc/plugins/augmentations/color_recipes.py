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
    """Steps applied one by one, each clamped to 0..255, with saturation and hue of HSV."""

    def __init__(self, draw_steps: Callable[[], Sequence[Step]]) -> None:
        """Store the function that draws the steps of one image."""
        self.draw_steps = draw_steps

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8 with one or three channels, and its unchanged label."""
        from torch import Tensor

        pixels = image.as_subclass(Tensor).float()
        for name, amount in self.draw_steps():
            if image.shape[0] == 3 or name not in OF_COLORS:
                pixels = PIXELS[name](pixels, amount).clamp_(0, 255)
        return as_pair(pixels.round_().byte(), label)


def contrast_each(pixels: "Tensor", factor: float) -> "Tensor":
    """Scale each channel's difference to its own mean."""
    mean = pixels.double().mean((1, 2), keepdim=True).float()
    return (pixels - mean) * factor + mean


def hsv_saturation(pixels: "Tensor", factor: float) -> "Tensor":
    """Scale HSV's saturation, clipped at 1; the value (the largest channel) is unchanged."""
    most, least = pixels.amax(0), pixels.amin(0)
    # The factor that makes the smallest channel 0.
    most_factor = most / (most - least).clamp(min=1e-6)
    return most - (most - pixels) * most_factor.clamp(max=factor)


def hsv_hue(pixels: "Tensor", turn: float) -> "Tensor":
    """Shift HSV's hue by a fraction of the colour circle."""
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
"""Implementation of each step for pixels (C, H, W) float32 in 0..255."""


def build_steps(draw_steps: Callable[[], Sequence[Step]], exact: bool) -> Callable[..., Any]:
    """Build an augmentation from steps: one by one in the worker, or fused on the device."""
    return OnColors(ExactSteps(draw_steps)) if exact else FusedColors(draw_steps)


@dataclass(frozen=True, kw_only=True)
class PhotometricDistortionOptions:
    """Options of photometric_distortion."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of each of the four changes."""
    brightness: Annotated[float, Ge(0), Le(255)] = 32.0
    """Grey levels to add are drawn from -b to b."""
    contrast: Annotated[float, Ge(0), Le(1)] = 0.5
    """Factor of all channels is drawn from 1 - c to 1 + c; applied before or after hue and
    saturation."""
    saturation: Annotated[float, Ge(0), Le(1)] = 0.5
    """Saturation factor is drawn from 1 - s to 1 + s."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Hue shift is drawn from -h to h as a fraction of the colour circle: 0.1 is 36 degrees, or 18
    of mmsegmentation's 180 steps."""
    exact: bool = False
    """True: one by one in the worker, with saturation and hue of HSV as in mmsegmentation. False:
    fused to one change on the device; saturation and hue then keep the grey value."""


@dataclass(frozen=True)
class DistortionSteps:
    """Draws the steps of mmsegmentation's PhotoMetricDistortion.

    Its contrast multiplies the values themselves (without subtracting a mean), before or after
    saturation and hue with equal probability.
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
    """Brightness to add is drawn from -b to b, as a fraction of the full range."""
    contrast_min: Annotated[float, Ge(0)] = 0.5
    """Smallest contrast factor, applied to the difference to each channel's mean."""
    contrast_max: Annotated[float, Ge(0)] = 2.0
    """Largest contrast factor."""
    saturation_min: Annotated[float, Ge(0)] = 0.75
    """Smallest saturation factor."""
    saturation_max: Annotated[float, Ge(0)] = 1.25
    """Largest saturation factor."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Hue shift is drawn from -h to h as a fraction of the colour circle."""
    exact: bool = False
    """True: one by one in the worker, with saturation and hue of HSV as in TensorFlow. False: fused
    to one change on the device; saturation and hue then keep the grey value."""

    def __post_init__(self) -> None:
        """Reject empty ranges."""
        check_range(self, "contrast")
        check_range(self, "saturation")


@dataclass(frozen=True)
class TfColorSteps:
    """Draws the steps of Hugging Face's segmentation tutorial for TensorFlow.

    These are tf.image's random_brightness, random_contrast, random_saturation and random_hue,
    always in this order. The tutorial passes float pixels in 0..255 to random_brightness, so its
    0.25 is a quarter of one grey level; here 0.25 has the meaning that it has for integer images.
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
