"""`color_jitter`, `grayscale`, `photometric_distortion` (mmsegmentation's), `tf_color`: colours.

An augmentation draws a list of steps (change, amount) in order. On the device they are fused to one
affine map per image; with `exact` they are applied one by one in the worker, each clamped.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from segacc.contracts import Facts
from segacc.data.placement import Box, inside_of
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.pairs import (
    Pair,
    RangeOptions,
    as_pair,
    between,
    chance,
    plain,
    uniform,
    uniforms,
)

if TYPE_CHECKING:
    from torch import Tensor

Step = tuple[str, float]
"""(change, amount), see `segacc.kernels.color.fused`."""
DrawSteps = Callable[[], Sequence[Step]]
"""Draws the steps of one image."""
OF_COLORS = ("saturation", "hue")
"""Steps that are skipped for grey images."""


@dataclass(frozen=True)
class FusedColors:
    """A BatchChange that applies all steps of an image as one matrix, drawn in the worker.

    Differences to applying them one by one: values are clamped once, at the end; saturation keeps
    the grey value; hue rotates about the grey axis (YIQ). The mean for contrast is computed on the
    device, from the image as it arrives there. The padding of a crop is left out and unchanged.
    """

    draw_steps: DrawSteps
    takes_bytes = draws_unseen = knows_padding = True

    def draw(self, image: "Tensor", label: "Tensor") -> "Tensor":
        """Draw the matrix (3, 7) float32 for image (C, H, W) uint8."""
        import numpy as np
        import torch

        from segacc.kernels import color as color_kernel

        steps = self.draw_steps()
        if image.shape[0] < 3:
            steps = [step for step in steps if step[0] not in OF_COLORS]
        return torch.from_numpy(color_kernel.fused(steps).astype(np.float32))

    def __call__(
        self,
        images: "Tensor",
        labels: "Tensor",
        drawn: "Tensor",
        inside: Sequence[Box | None] = (),
    ) -> "tuple[Tensor, Tensor]":
        """Transform images (N, C, H, W) uint8 or float32 by drawn (N, 3, 7) float32."""
        from segacc.kernels import color as color_kernel

        return color_kernel.apply_inside(images, drawn, inside), labels


@dataclass(frozen=True)
class OnColors:
    """Apply a change to the colour channels of an image: the first three, or the only one."""

    change: Callable[..., Any]
    """Takes images with one or three channels."""

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8; other channels, padding and the label are unchanged."""
        pixels, classes = plain(image, label)
        inside = inside_of(pixels, classes)
        if inside is None:
            return self._changed(image, label)
        whole, box = pixels.clone(), (slice(None), *inside)
        part, _ = self._changed(*as_pair(pixels[box], classes[inside]))
        whole[box], _ = plain(part, classes)
        return as_pair(whole, label)

    def _changed(self, image: "Tensor", label: "Tensor") -> Pair:
        import torch

        if image.shape[0] in (1, 3):
            changed: Pair = self.change(image, label)
            return changed
        count = 3 if image.shape[0] > 3 else 1
        colors, _ = self.change(as_pair(image[:count], label)[0], label)
        return as_pair(torch.cat([colors, image[count:]]), label)


def one_by_one(draw_steps: DrawSteps, image: "Tensor", label: "Tensor") -> Pair:
    """Apply steps to image (1 or 3, H, W) uint8, with saturation and hue of HSV; clamp after each.

    The label is unchanged.
    """
    from torch import Tensor

    pixels = image.as_subclass(Tensor).float()
    for name, amount in draw_steps():
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


@dataclass(frozen=True, kw_only=True)
class ColorJitterOptions:
    """Options of color_jitter."""

    brightness: Annotated[float, Ge(0)] = 0.25
    """Brightness factor is drawn from 1 - b to 1 + b."""
    contrast: Annotated[float, Ge(0)] = 0.25
    """Contrast factor is drawn from 1 - c to 1 + c."""
    saturation: Annotated[float, Ge(0)] = 0.25
    """Saturation factor is drawn from 1 - s to 1 + s."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Hue shift is drawn from -h to h; 0.5 is half a turn of the colour circle."""
    exact: bool = False
    """True: torchvision's ColorJitter, in the worker. False: its four changes fused to one, on the
    device; results differ if intermediate values leave 0..255, and hue keeps the grey value."""


def jitter_steps(options: ColorJitterOptions) -> list[Step]:
    """Draw the four changes of torchvision's ColorJitter: same ranges, random order."""
    o = options
    widths = {"brightness": o.brightness, "contrast": o.contrast, "saturation": o.saturation}
    ranges = {name: (max(0.0, 1 - width), 1 + width) for name, width in widths.items()}
    ranges["hue"] = -o.hue, o.hue
    count = len(ranges)
    drawn = uniforms(2 * count)
    ends = zip(ranges.items(), drawn[count:], strict=True)
    steps = [(name, between(*limits, share)) for (name, limits), share in ends]
    return [step for _, step in sorted(zip(drawn[:count], steps, strict=True))]


def build_color_jitter(options: ColorJitterOptions, facts: Facts) -> Callable[..., Any]:
    """Build the fused change, or torchvision's ColorJitter."""
    if not options.exact:
        return FusedColors(functools.partial(jitter_steps, options))
    from torchvision.transforms import v2

    o = options
    return OnColors(v2.ColorJitter(o.brightness, o.contrast, o.saturation, o.hue))


@dataclass(frozen=True, kw_only=True)
class GrayscaleOptions:
    """Options of grayscale."""

    p: Annotated[float, Ge(0), Le(1)] = 0.1
    """Probability of removing the colours."""


def grayscale_steps(options: GrayscaleOptions) -> list[Step]:
    """Draw whether to remove the colours: one step or none."""
    return [("saturation", 0.0)] if chance(options.p) else []


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


def distortion_steps(options: PhotometricDistortionOptions) -> list[Step]:
    """Draw up to four steps as mmsegmentation's PhotoMetricDistortion does.

    Its contrast multiplies the values themselves (without subtracting a mean), before or after
    saturation and hue with equal probability.
    """
    o, early = options, chance(0.5)
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
class TfColorOptions(RangeOptions):
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


def tf_color_steps(options: TfColorOptions) -> list[Step]:
    """Draw the four steps of Hugging Face's segmentation tutorial for TensorFlow.

    These are tf.image's random_brightness, random_contrast, random_saturation and random_hue,
    always in this order. The tutorial passes float pixels in 0..255 to random_brightness, so its
    0.25 is a quarter of one grey level; here 0.25 has the meaning that it has for integer images.
    """
    o = options
    return [
        ("offset", 255 * uniform(-o.brightness, o.brightness)),
        ("contrast_each", uniform(o.contrast_min, o.contrast_max)),
        ("saturation", uniform(o.saturation_min, o.saturation_max)),
        ("hue", uniform(-o.hue, o.hue)),
    ]


def build_steps(
    draw_steps: Callable[[Any], list[Step]], options: Any, facts: Facts
) -> Callable[..., Any]:
    """Build an augmentation from steps: fused on the device, or with `exact` one by one."""
    draw = functools.partial(draw_steps, options)
    return OnColors(functools.partial(one_by_one, draw)) if options.exact else FusedColors(draw)


def exact_in_worker(options: Any) -> str:
    """Return where a colour augmentation runs: in the worker if `exact` is set."""
    return "worker" if options.exact else "batch"


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register the augmentations of colours."""
    return [
        Augmentation(
            name="color_jitter",
            summary="random brightness, contrast, saturation and hue",
            options=ColorJitterOptions,
            build=build_color_jitter,
            on=exact_in_worker,
        ),
        Augmentation(
            name="grayscale",
            summary="random conversion to grey; the number of channels is unchanged",
            options=GrayscaleOptions,
            build=lambda options, facts: FusedColors(functools.partial(grayscale_steps, options)),
            on="batch",
        ),
        Augmentation(
            name="photometric_distortion",
            summary="mmsegmentation's random brightness, contrast, saturation and hue",
            options=PhotometricDistortionOptions,
            build=functools.partial(build_steps, distortion_steps),
            on=exact_in_worker,
        ),
        Augmentation(
            name="tf_color",
            summary="brightness, contrast, saturation and hue as TensorFlow draws them",
            options=TfColorOptions,
            build=functools.partial(build_steps, tf_color_steps),
            on=exact_in_worker,
        ),
    ]
