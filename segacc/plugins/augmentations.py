"""Built-in augmentations, on torchvision's v2 transforms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from segacc.hookspecs import Augmentation, Facts, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[Any, Any]
"""(image, label): tv_tensors Image (C, H, W) uint8 and Mask (H, W) uint8."""


@dataclass(frozen=True, kw_only=True)
class RandomScaleCropOptions:
    """Options of random_scale_crop."""

    scale_min: Annotated[float, Gt(0)] = 0.5
    """Smallest factor of the image's size."""
    scale_max: Annotated[float, Gt(0)] = 2.0
    """Largest factor of the image's size."""
    cat_max_ratio: Annotated[float, Gt(0), Le(1)] = 0.75
    """A crop in which one class has more of the labelled pixels is drawn again, up to ten times."""

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} is above scale_max {self.scale_max}")


def padding_color(num_channels: int) -> list[int]:
    """Return ImageNet's mean colour; channels that are not of RGB take its grey."""
    return [124, 116, 104] if num_channels == 3 else [116] * num_channels


class RandomScaleCrop:
    """Scale by a random factor, then take a random crop of `crop_size`; outside is ignored.

    The crop is cut from the source picture and only then resized, so the work does not grow with
    the scale.
    """

    def __init__(self, options: RandomScaleCropOptions, facts: Facts) -> None:
        """Keep the options."""
        self.options, self.crop, self.ignore = options, facts.crop_size, facts.ignore_index

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, h, w) and label (h, w) of the crop's size."""
        import torch
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        low, high = self.options.scale_min, self.options.scale_max
        scale = low + (high - low) * torch.rand(()).item()
        height, width = label.shape[-2:]
        scaled = max(1, round(height * scale)), max(1, round(width * scale))
        top, left, tall, wide = self._draw(label, scaled)
        # The crop in source pixels, whole pixels outward.
        y, x = int(top * height / scaled[0]), int(left * width / scaled[1])
        h = min(height, max(y + 1, round((top + tall) * height / scaled[0]))) - y
        w = min(width, max(x + 1, round((left + wide) * width / scaled[1]))) - x
        image, label = F.crop(image, y, x, h, w), F.crop(label, y, x, h, w)
        image = F.resize(image, [tall, wide], antialias=True)
        # torchvision's own nearest rounds down: labels would lie half a pixel beside their image.
        plain = label.as_subclass(torch.Tensor)[None]
        plain = F.resize(plain, [tall, wide], interpolation=InterpolationMode.NEAREST_EXACT)
        label = tv_tensors.Mask(plain[0])
        missing = [0, 0, self.crop[1] - wide, self.crop[0] - tall]
        return F.pad(image, missing, fill=padding_color(image.shape[0])), F.pad(
            label, missing, fill=self.ignore
        )

    def _draw(self, label: "Tensor", scaled: tuple[int, int]) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width) in scaled pixels; no class dominates if tries allow."""
        import torch

        tall, wide = min(self.crop[0], scaled[0]), min(self.crop[1], scaled[1])
        top = left = 0
        for _ in range(10):
            top = int(torch.randint(scaled[0] - tall + 1, ()))
            left = int(torch.randint(scaled[1] - wide + 1, ()))
            y, x = label.shape[-2] / scaled[0], label.shape[-1] / scaled[1]
            seen = label[
                int(top * y) : int((top + tall) * y) + 1, int(left * x) : int((left + wide) * x) + 1
            ]
            counts = torch.bincount(seen.flatten(), minlength=256)
            counts[self.ignore] = 0
            if counts.max() <= self.options.cat_max_ratio * counts.sum() and counts.sum():
                break
        return top, left, tall, wide


@dataclass(frozen=True, kw_only=True)
class FlipOptions:
    """Options of flip."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of mirroring left and right."""


@dataclass(frozen=True, kw_only=True)
class ColorJitterOptions:
    """Options of color_jitter."""

    brightness: Annotated[float, Ge(0)] = 0.25
    """Factor drawn from 1 - b to 1 + b."""
    contrast: Annotated[float, Ge(0)] = 0.25
    """Factor drawn from 1 - c to 1 + c."""
    saturation: Annotated[float, Ge(0)] = 0.25
    """Factor drawn from 1 - s to 1 + s."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Turn of the colour circle, drawn from -h to h; 0.5 is half a turn."""


def build_flip(options: FlipOptions, facts: Facts) -> Callable[..., Any]:
    """Build torchvision's RandomHorizontalFlip, which moves image and label together."""
    from torchvision.transforms import v2

    change: Callable[..., Any] = v2.RandomHorizontalFlip(options.p)
    return change


def build_color_jitter(options: ColorJitterOptions, facts: Facts) -> Callable[..., Any]:
    """Build torchvision's ColorJitter, which leaves the label and a fourth channel alone."""
    from torchvision.transforms import v2

    o = options
    change: Callable[..., Any] = v2.ColorJitter(o.brightness, o.contrast, o.saturation, o.hue)
    if facts.num_channels <= 3:
        return change

    def on_colors(image: "Tensor", label: "Tensor") -> Pair:
        import torch
        from torchvision import tv_tensors

        colors, _ = change(tv_tensors.Image(image[:3]), label)
        return tv_tensors.Image(torch.cat([colors, image[3:]])), label

    return on_colors


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register the built-in augmentations."""
    return [
        Augmentation(
            name="random_scale_crop",
            summary="random scale, then a random crop of crop_size that no class dominates",
            options=RandomScaleCropOptions,
            build=RandomScaleCrop,
        ),
        Augmentation(
            name="flip", summary="mirror left and right", options=FlipOptions, build=build_flip
        ),
        Augmentation(
            name="color_jitter",
            summary="random brightness, contrast, saturation and hue",
            options=ColorJitterOptions,
            build=build_color_jitter,
        ),
    ]
