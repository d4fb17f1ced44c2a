"""`random_scale_crop`, `resize`, `flip`, `vertical_flip`, `rotate`: geometric augmentations."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import PositiveInt

from segacc.contracts import Facts
from segacc.data.placement import Placement, padding_color, placed, resized
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.pairs import (
    Pair,
    RangeOptions,
    as_pair,
    between,
    chance,
    plain,
    resized_pair,
    uniform,
    uniforms,
)
from segacc.settings.options import Size

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Counts = np.ndarray[Any, np.dtype[np.int64]]

TRIES = 10
"""Maximum number of crops drawn until one is accepted; the last one is used in any case."""
SHRUNK = 0.5
"""Below this scale the worker resizes, because the window would be large compared to the sample."""


@dataclass(frozen=True, kw_only=True)
class RandomScaleCropOptions(RangeOptions):
    """Options of random_scale_crop."""

    scale_min: Annotated[float, Gt(0)] = 0.5
    """Smallest scale factor."""
    scale_max: Annotated[float, Gt(0)] = 2.0
    """Largest scale factor."""
    cat_max_ratio: Annotated[float, Gt(0), Le(1)] = 0.75
    """Maximum fraction of one class in the labelled pixels of a crop; otherwise it is drawn again,
    up to ten times."""
    short_side: PositiveInt | None = None
    """Resize the shorter side to this many pixels before scaling, as in mmsegmentation's
    RandomResize; default: the image's own size."""


class RandomScaleCrop:
    """Scale by a random factor, then take a random crop of `crop_size`; padding is ignored.

    The crop is cut from the original image before it is resized, so the cost does not grow with the
    scale. If it is last in the worker, or followed by flips only, resizing is deferred to the
    device.
    """

    counted: float = 64
    """`rule` counts at least this many evenly spaced pixels of a crop per axis, at most twice as
    many."""

    def __init__(self, options: RandomScaleCropOptions, facts: Facts) -> None:
        """Store the options."""
        self.options, self.crop, self.ignore = options, facts.crop_size, facts.ignore_index

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, h, w) and label (h, w) of the crop size."""
        return as_pair(*placed(*self.deferred_crop(image, label)))

    def deferred_crop(self, image: "Tensor", label: "Tensor") -> "tuple[Tensor, Tensor, Placement]":
        """Draw a crop; return its unscaled window of image and label, and its geometry."""
        first, *positions = uniforms(1 + 2 * TRIES)
        scale = between(self.options.scale_min, self.options.scale_max, first)
        height, width = label.shape[-2:]
        scale *= (self.options.short_side or min(height, width)) / min(height, width)
        scaled = max(1, round(height * scale)), max(1, round(width * scale))
        top, left, tall, wide = self._draw(
            label,
            scaled,
            self.rule(label, scaled),
            zip(positions[::2], positions[1::2], strict=True),
        )
        # The crop in original pixels, rounded outward.
        y, x = int(top * height / scaled[0]), int(left * width / scaled[1])
        h = min(height, max(y + 1, round((top + tall) * height / scaled[0]))) - y
        w = min(width, max(x + 1, round((left + wide) * width / scaled[1]))) - x
        image, label = plain(image, label)
        image, label = image[:, y : y + h, x : x + w], label[y : y + h, x : x + w]
        if scale < SHRUNK:
            image, label = resized(image, label, (tall, wide))
            h, w = tall, wide
        return image, label, Placement((h, w), (tall, wide), self.crop, self.ignore)

    def rule(self, label: "Tensor", scaled: tuple[int, int]) -> "Callable[[Counts], bool]":
        """Return a function that accepts a crop by its class counts (256,) int64, without ignored.

        Args:
            label: (H, W), the whole label; its pixels are counted before scaling.
            scaled: the size that the image is scaled to.
        """
        return self.varied

    def varied(self, counts: "Counts") -> bool:
        """True if some pixels are labelled and no class dominates."""
        most, total = counts.max(), counts.sum()
        return bool(most <= self.options.cat_max_ratio * total and total)

    def _draw(
        self,
        label: "Tensor",
        scaled: tuple[int, int],
        accepts: "Callable[[Counts], bool]",
        positions: Iterable[tuple[float, float]],
    ) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) in scaled pixels at the first accepted position."""
        import numpy as np

        classes = label.numpy()  # torch is several times slower for small arrays
        tall, wide = min(self.crop[0], scaled[0]), min(self.crop[1], scaled[1])
        y, x = label.shape[-2] / scaled[0], label.shape[-1] / scaled[1]
        top = left = 0
        refused: tuple[int, int] | None = None
        for down, right in positions:
            top = int(down * (scaled[0] - tall + 1))
            left = int(right * (scaled[1] - wide + 1))
            if (top, left) == refused:  # always the case if a small image has only one crop
                continue
            seen = classes[
                int(top * y) : int((top + tall) * y) + 1, int(left * x) : int((left + wide) * x) + 1
            ]
            rows, columns = (max(1, int(side // self.counted)) for side in seen.shape)
            seen = seen[::rows, ::columns]
            counts = np.bincount(seen.ravel(), minlength=256)
            counts[self.ignore] = 0
            if accepts(counts):
                break
            refused = top, left
        return top, left, tall, wide


@dataclass(frozen=True, kw_only=True)
class ResizeOptions:
    """Options of resize."""

    size: Size | None = None
    """Height and width, e.g. `512` or `512x768`; the aspect ratio may change."""
    short_side: PositiveInt | None = None
    """Length of the shorter side; the aspect ratio is kept."""

    def __post_init__(self) -> None:
        """Refuse both and neither."""
        if (self.size is None) == (self.short_side is None):
            raise ValueError("needs one of size and short_side")


class Resize:
    """Resize to a fixed size, or to a shorter side of fixed length."""

    def __init__(self, options: ResizeOptions, facts: Facts) -> None:
        """Store the options."""
        self.options = options

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, h, w), bilinear with antialiasing, and label (h, w), nearest."""
        size, short = self.options.size, self.options.short_side
        if size is None:
            height, width = label.shape[-2:]
            scale = (short or 0) / min(height, width)
            size = round(height * scale), round(width * scale)
        return resized_pair(image, label, size)


@dataclass(frozen=True, kw_only=True)
class FlipOptions:
    """Options of flip."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of a horizontal flip."""


@dataclass(frozen=True, kw_only=True)
class VerticalFlipOptions:
    """Options of vertical_flip."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of a vertical flip."""


@dataclass(frozen=True)
class Mirror:
    """Random flip along one axis."""

    p: float
    axis: int
    """-1: horizontally; -2: vertically."""

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) and label (H, W), flipped or unchanged."""
        if not chance(self.p):
            return image, label
        image, label = plain(image, label)
        return as_pair(image.flip(self.axis), label.flip(self.axis))

    def deferred_flip(self, placement: Placement) -> Placement:
        """Draw the flip, and add it to the placement."""
        return placement.mirror(self.axis) if chance(self.p) else placement


@dataclass(frozen=True, kw_only=True)
class RotateOptions:
    """Options of rotate."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of a rotation."""
    degrees: Annotated[float, Ge(0), Le(180)] = 10.0
    """Angle drawn from -degrees to degrees."""


class Rotate:
    """Rotate about the centre: images bilinearly, labels with nearest.

    The size is unchanged; areas from outside get the padding colour and are ignored.
    """

    def __init__(self, options: RotateOptions, facts: Facts) -> None:
        """Store the options."""
        self.options, self.ignore = options, facts.ignore_index

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) and label (H, W), rotated or unchanged."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        if not chance(self.options.p):
            return image, label
        angle = uniform(-self.options.degrees, self.options.degrees)
        fill = padding_color(image.shape[0])
        turned = F.rotate(image, angle, interpolation=InterpolationMode.BILINEAR, fill=fill)
        return turned, F.rotate(label, angle, fill=self.ignore)


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register random_scale_crop, resize, flip, vertical_flip and rotate."""
    return [
        Augmentation(
            name="random_scale_crop",
            summary="random scale, then a random crop of crop_size that no class dominates",
            options=RandomScaleCropOptions,
            build=RandomScaleCrop,
            deferrable="crop",
        ),
        Augmentation(
            name="resize",
            summary="resize to a fixed size, or to a shorter side of fixed length",
            options=ResizeOptions,
            build=Resize,
        ),
        Augmentation(
            name="flip",
            summary="random horizontal flip",
            options=FlipOptions,
            build=lambda options, facts: Mirror(options.p, -1),
            deferrable="flip",
        ),
        Augmentation(
            name="vertical_flip",
            summary="random vertical flip",
            options=VerticalFlipOptions,
            build=lambda options, facts: Mirror(options.p, -2),
            deferrable="flip",
        ),
        Augmentation(
            name="rotate",
            summary="rotation by a random angle; same size, corners are ignored",
            options=RotateOptions,
            build=Rotate,
        ),
    ]
