"""`v2:NAME`: any transform of torchvision.transforms.v2, image and label together; `elastic`."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from segacc.contracts import Facts
from segacc.data.placement import padding_color
from segacc.errors import OptionError, cut, unknown
from segacc.hookspecs import Augmentation, hookimpl
from segacc.plugins.augmentations.pairs import Pair, chance

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "--aug v2"
TRIAL = (64, 96)
"""(H, W) of the sample that a transform is tried on."""


@dataclass(frozen=True, kw_only=True)
class V2Options:
    """Options of v2."""

    transform: str
    """Name of a class of torchvision.transforms.v2, e.g. `RandomPerspective`."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Its arguments, e.g. `kwargs={distortion_scale: 0.3, p: 0.5}`."""
    p: Annotated[float, Ge(0), Le(1)] = 1.0
    """Probability that it is applied; many transforms have a `p` of their own, too."""


class TransformV2:
    """A transform of torchvision, with the padding colour and 255 as fill values if it has any."""

    def __init__(self, options: V2Options, facts: Facts) -> None:
        """Create the transform and try it on a sample.

        Raises:
            OptionError: there is no such transform, its arguments are wrong, or it does not return
                an image and a label of one size with the classes from before.
        """
        self.p, self.name = options.p, options.transform
        kind = transform_class(self.name)
        fill = {} if "fill" in options.kwargs else fills(kind, facts)
        try:
            self.transform = kind(**{**fill, **options.kwargs})
            self._try_out(facts)
        except OptionError:
            raise
        except Exception as error:  # its own complaint about its arguments
            raise OptionError(
                f"{WHERE}: {self.name}{inspect.signature(kind)} fails: "
                f"{cut(' '.join(str(error).split())).rstrip('.')}. Its arguments are given as "
                "kwargs={name: value}."
            ) from error

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W) uint8 and label (H, W), transformed together or unchanged."""
        if not chance(self.p):
            return image, label
        found: Pair = self.transform(image, label)
        return found

    def _try_out(self, facts: Facts) -> None:
        import torch
        from torchvision import tv_tensors

        with torch.random.fork_rng(devices=[]):
            shape = (facts.num_channels, *TRIAL)
            image = tv_tensors.Image(torch.randint(256, shape, dtype=torch.uint8))
            label = tv_tensors.Mask(torch.randint(facts.num_classes, TRIAL).to(torch.uint8))
            found = self.transform(image, label)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            raise OptionError(f"{WHERE}: {self.name} does not return an image and a label.")
        moved, classes = found
        same = tuple(getattr(one, "dtype", None) for one in found) == (torch.uint8,) * 2
        if not same or moved.shape[:1] != shape[:1] or moved.shape[1:] != classes.shape:
            told = " and ".join(f"{tuple(one.shape)} {one.dtype}" for one in found)
            raise OptionError(
                f"{WHERE}: {self.name} turns image {shape} and label {TRIAL}, both uint8, into "
                f"{told}; an augmentation returns uint8 of one height and width. segacc normalizes "
                "by itself."
            )
        if new := sorted(set(classes.unique().tolist()) - {*range(facts.num_classes), 255}):
            raise OptionError(f"{WHERE}: {self.name} puts the values {new} into the label.")


def transform_class(name: str) -> type[Any]:
    """Return a class of torchvision.transforms.v2 by its name.

    Raises:
        OptionError: there is none.
    """
    from torchvision.transforms import v2

    known = {
        key: one
        for key, one in vars(v2).items()
        if inspect.isclass(one) and issubclass(one, v2.Transform) and one is not v2.Transform
    }
    if name not in known:
        raise OptionError(f"{WHERE}: {unknown('transform', name, known)}.")
    return known[name]


def fills(kind: type[Any], facts: Facts) -> Mapping[str, Any]:
    """Return `fill` for a transform that has it: areas from outside are ignored in the label."""
    from torchvision import tv_tensors

    if "fill" not in inspect.signature(kind).parameters:
        return {}
    colors = {
        tv_tensors.Image: padding_color(facts.num_channels),
        tv_tensors.Mask: facts.ignore_index,
    }
    return {"fill": colors}


@dataclass(frozen=True, kw_only=True)
class ElasticOptions:
    """Options of elastic."""

    p: Annotated[float, Ge(0), Le(1)] = 0.5
    """Probability of a deformation."""
    alpha: Annotated[float, Gt(0)] = 50.0
    """Strength of the displacements, as in torchvision's ElasticTransform."""
    sigma: Annotated[float, Gt(0)] = 5.0
    """Smoothness: standard deviation of the noise's Gaussian filter, in pixels."""


class Elastic:
    """Move each pixel by smoothed noise; areas from outside are ignored in the label.

    torchvision's ElasticTransform does the same, but mirrors the noise at the borders, for which
    small images lack the pixels.
    """

    def __init__(self, options: ElasticOptions, facts: Facts) -> None:
        """Store the options."""
        self.options, self.ignore = options, facts.ignore_index

    def __call__(self, image: "Tensor", label: "Tensor") -> Pair:
        """Return image (C, H, W), bilinear, and label (H, W), nearest; or both unchanged."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        if not chance(self.options.p):
            return image, label
        moves = self.displacement(*label.shape)
        fill = padding_color(image.shape[0])
        moved = F.elastic(image, moves, InterpolationMode.BILINEAR, fill)
        return moved, F.elastic(label, moves, InterpolationMode.NEAREST, self.ignore)

    def displacement(self, height: int, width: int) -> "Tensor":
        """Draw by what share of half the image each pixel moves: (1, H, W, 2) float32."""
        import torch
        from torchvision.transforms.v2 import functional as F

        around = math.ceil(4 * self.options.sigma)
        noise = torch.rand(2, height + 2 * around, width + 2 * around) * 2 - 1
        smooth = F.gaussian_blur(noise, [2 * around + 1] * 2, [self.options.sigma] * 2)
        smooth = smooth[:, around : around + height, around : around + width].permute(1, 2, 0)
        moves: Tensor = smooth * self.options.alpha / torch.tensor([width, height])
        return moves[None]


@hookimpl
def segacc_augmentations() -> list[Augmentation]:
    """Register v2 and elastic."""
    return [
        Augmentation(
            name="v2",
            summary="any transform of torchvision.transforms.v2, as v2:RandomPerspective",
            options=V2Options,
            build=TransformV2,
        ),
        Augmentation(
            name="elastic",
            summary="elastic deformation (Simard et al. 2003); areas from outside are ignored",
            options=ElasticOptions,
            build=Elastic,
        ),
    ]
