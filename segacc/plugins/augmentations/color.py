"""`color_jitter` and `grayscale`, and the basis of all colour augmentations.

A recipe is drawn as a list of steps (change, amount) in order. On the device they are fused to one
affine map per image; with `exact` they are applied one by one in the worker, each clamped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from segacc.contracts import Facts
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.pairs import Pair, as_pair, between, chance, uniforms

if TYPE_CHECKING:
    from torch import Tensor

Step = tuple[str, float]
"""(change, amount), see `segacc.kernels.color.fused`."""
OF_COLORS = ("saturation", "hue")
"""Steps that are skipped for grey images."""


class FusedColors:
    """A BatchChange that applies all steps of an image as one matrix, drawn in the worker.

    Differences to applying them one by one: values are clamped once, at the end; saturation keeps
    the grey value; hue rotates about the grey axis (YIQ). The mean for contrast is computed on the
    device, from the image as it arrives there.
    """

    takes_bytes = draws_unseen = True

    def __init__(self, draw_steps: Callable[[], Sequence[Step]]) -> None:
        """Store the function that draws the steps of one image."""
        self.draw_steps = draw_steps

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
        self, images: "Tensor", labels: "Tensor", drawn: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Transform images (N, C, H, W) uint8 or float32 by drawn (N, 3, 7) float32."""
        from segacc.kernels import color as color_kernel

        return color_kernel.apply(images, drawn), labels


class OnColors:
    """Apply a change to the colour channels of an image: the first three, or the only one."""

    def __init__(self, change: Callable[..., Any]) -> None:
        """Store a change for images with one or three channels."""
        self.change = change

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8; other channels and the label are unchanged."""
        import torch

        if image.shape[0] in (1, 3):
            changed: Pair = self.change(image, label)
            return changed
        count = 3 if image.shape[0] > 3 else 1
        colors, _ = self.change(as_pair(image[:count], label)[0], label)
        return as_pair(torch.cat([colors, image[count:]]), label)


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


class JitterSteps:
    """Draws the four changes of torchvision's ColorJitter: same ranges, random order."""

    def __init__(self, options: ColorJitterOptions) -> None:
        """Compute the ranges."""
        self.ranges = {
            "brightness": about_one(options.brightness),
            "contrast": about_one(options.contrast),
            "saturation": about_one(options.saturation),
            "hue": (-options.hue, options.hue),
        }

    def __call__(self) -> list[Step]:
        """Draw the order and the amounts of the four changes."""
        count = len(self.ranges)
        drawn = uniforms(2 * count)
        ends = zip(self.ranges.items(), drawn[count:], strict=True)
        steps = [(name, between(*limits, share)) for (name, limits), share in ends]
        return [step for _, step in sorted(zip(drawn[:count], steps, strict=True))]


def about_one(width: float) -> tuple[float, float]:
    """Return the range of a factor, which is never negative."""
    return max(0.0, 1 - width), 1 + width


def jitter_of(options: ColorJitterOptions) -> Any:
    """Build torchvision's ColorJitter."""
    from torchvision.transforms import v2

    return v2.ColorJitter(options.brightness, options.contrast, options.saturation, options.hue)


def build_color_jitter(options: ColorJitterOptions, facts: Facts) -> Callable[..., Any]:
    """Build the fused change, or torchvision's ColorJitter."""
    return OnColors(jitter_of(options)) if options.exact else FusedColors(JitterSteps(options))


@dataclass(frozen=True, kw_only=True)
class GrayscaleOptions:
    """Options of grayscale."""

    p: Annotated[float, Ge(0), Le(1)] = 0.1
    """Probability of removing the colours."""


@dataclass(frozen=True)
class GrayscaleSteps:
    """Draws whether to remove the colours."""

    p: float

    def __call__(self) -> list[Step]:
        """Draw one step or none."""
        return [("saturation", 0.0)] if chance(self.p) else []


def exact_in_worker(options: Any) -> str:
    """Return where a colour augmentation runs: in the worker if `exact` is set."""
    return "worker" if options.exact else "batch"


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register color_jitter and grayscale."""
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
            build=lambda options, facts: FusedColors(GrayscaleSteps(options.p)),
            on="batch",
        ),
    ]
