"""Protocols by name and their options, checked without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt
from pydantic import AllowInfNan, PositiveInt

from segacc.errors import OptionError, unknown
from segacc.settings.config import Fraction
from segacc.settings.options import Component, Listed, Size, decode, describe, parse_component

Blend = Literal["even", "gaussian"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
EVEN = 0.5
"""The threshold at which the more probable one of two classes is predicted."""
MMSEG = "short_side=512,long_side=2048,antialias=false"
PRESETS: Mapping[str, str] = {
    "mmseg-ade20k": f"whole:{MMSEG}",
    "mmseg-cityscapes": "whole:short_side=1024,long_side=2048,antialias=false",
    "voc": f"whole:{MMSEG}",
}
"""Protocols of published scores: the test pipelines of mmsegmentation 1.2.2 (configs/_base_/
datasets/ade20k.py, cityscapes.py, pascal_voc12.py) on whole images. Options override them.
Cityscapes' images of 1024x2048 keep their size; SegFormer's published scores there use
`mmseg-cityscapes:crop=1024,stride=768` (configs/segformer). The meaning of a name never changes.

Two differences remain: OpenCV may round a resized pixel differently by one grey level; and mmseg
resizes logits twice, to the resized image and then to the original, segacc once. mmseg's test-time
augmentation resizes the original image:
`tta:scales=0.5/0.75/1/1.25/1.5/1.75,antialias=false`."""


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options of every protocol: how an image is resized, and how two classes are decided."""

    short_side: PositiveInt | None = None
    """Length of the shorter side in pixels; the longer one is rounded down, as by transformers'
    image processors."""
    long_side: PositiveInt | None = None
    """Maximum length of the longer side in pixels; with it both sides are rounded to the nearest
    pixel, as by mmcv."""
    antialias: bool = True
    """Use antialiasing when downscaling, as Pillow and image processors do; false resizes as
    OpenCV."""
    interpolation: Interpolation = "bilinear"
    """How pixels are interpolated, as `resample` of transformers' image processors."""
    threshold: Fraction = EVEN
    """Probability above which a pixel is of the second class, for models with two classes."""


@dataclass(frozen=True, kw_only=True)
class WholeOptions(CommonOptions):
    """Options of the protocol `whole`."""

    summary: ClassVar[str] = "whole images, resized or padded if asked for"
    size: Size | None = None
    """(height, width) in pixels."""
    pad: PositiveInt | None = None
    """Pad at right and bottom, after resizing, to a multiple of this many pixels."""


@dataclass(frozen=True, kw_only=True)
class StrideOptions:
    """Options of stride and blending of windows."""

    stride: Size | None = None
    """(down, right) from window to window in pixels; default two thirds of `crop`."""
    blend: Blend = "even"
    """Weights of a window's pixels where windows overlap: `even`, or `gaussian` with a standard
    deviation of an eighth of the window's side."""


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """The required window size."""

    crop: Size
    """(height, width) of a window in pixels."""


@dataclass(frozen=True, kw_only=True)
class SlideOptions(CommonOptions, StrideOptions, CropOptions):
    """Options of the protocol `slide`."""

    summary: ClassVar[str] = "windows that slide over the image; their logits are averaged"


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Options of the views of test-time augmentation."""

    scales: tuple[Annotated[float, Gt(0), AllowInfNan(False)], ...] = (1.0,)
    """Factors on both sides of the resized image, as in 0.5/0.75/1.0/1.25/1.5."""
    flip: bool = True
    """Add the horizontally flipped image at each scale."""
    crop: Size | None = None
    """(height, width) of a window in pixels; default: no windows."""


@dataclass(frozen=True, kw_only=True)
class TtaOptions(WholeOptions, StrideOptions, ViewOptions):
    """Options of the protocol `tta`, test-time augmentation."""

    summary: ClassVar[str] = "mean probabilities over scaled and flipped images, or their windows"


KINDS: Mapping[str, type[WholeOptions | SlideOptions | TtaOptions]] = {
    "whole": WholeOptions,
    "slide": SlideOptions,
    "tta": TtaOptions,
}


def listed() -> list[Listed]:
    """Describe all protocols; the options of a preset have its values as defaults."""
    kinds = [Listed(name, cls.summary, describe(cls)) for name, cls in KINDS.items()]
    return kinds + [_listed_preset(name, text) for name, text in PRESETS.items()]


def _listed_preset(name: str, text: str) -> Listed:
    cls, values = KINDS[text.partition(":")[0]], read_options(text, name)[0]
    options = [replace(one, default=values[one.name]) for one in describe(cls)]
    told = text.replace(",", ", ")
    return Listed(name, f"{told}; add crop for windows, scales for several views", options)


def check_protocol(text: str, where: str) -> None:
    """Raise OptionError if a protocol, as typed or as `Protocol.text` wrote it, is invalid."""
    read_options(text.strip().partition(" (")[0], where)


def read_options(text: str, where: str) -> tuple[dict[str, Any], bool]:
    """Return the options of a protocol by name, defaults included, and whether it is a preset.

    Raises:
        OptionError: the name or an option is unknown, or options are invalid or exclude each other.
    """
    given = parse_component(text, where)
    component = _plain(given)
    if component.name not in KINDS:
        text = unknown("protocol", component.name, (*KINDS, *PRESETS))
        raise OptionError(f"{where}: {text}.")
    options = vars(decode(KINDS[component.name], component.values, where))
    if complaint := _complaint(component.values, options):
        raise OptionError(f"{where}: {complaint}.")
    return options, given.name in PRESETS


def _plain(given: Component) -> Component:
    """Replace a preset with its protocol, with the given options overriding the preset's."""
    if given.name not in PRESETS:
        return given
    base = parse_component(PRESETS[given.name], given.where)
    values = {**base.values, **given.values}
    views = "tta" if {"scales", "flip"} & set(values) else base.name
    name = "slide" if views == "whole" and "crop" in values else views
    return Component(name, values, given.where)


def _complaint(typed: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return which options exclude each other or have no effect; an empty string if none."""
    short, long, size = options["short_side"], options["long_side"], options.get("size")
    crop, stride, scales = options.get("crop"), options.get("stride"), options.get("scales", ())
    alone = len(scales) == 1 and not options.get("flip")
    if short and size:
        return "short_side and size exclude each other"
    if long and (not short or long < short):
        return "long_side limits the result of short_side: give a smaller short_side as well"
    resizes = short or size or set(scales) - {1.0}
    if unused := [key for key in ("antialias", "interpolation") if key in typed and not resizes]:
        return f"{unused[0]} has no effect, as images are not resized"
    if (stride or "blend" in typed) and not crop:
        return "stride and blend are options of windows: give their crop as well"
    if crop and options.get("pad"):
        return "crop and pad exclude each other: a small image is always padded to a window"
    if crop and stride and (stride[0] > crop[0] or stride[1] > crop[1]):
        return (
            f"the stride {side_text(stride)} is larger than the crop {side_text(crop)}, so pixels "
            "between the windows would have no prediction"
        )
    if "scales" in options and (not scales or len(set(scales)) < len(scales)):
        return "give one or more scales, each once"
    if alone and scales == (1.0,):
        return "tta needs several views: give scales or flip=true, or use whole or slide"
    return ""


def side_text(size: tuple[int, int]) -> str:
    """Format (height, width) as an option value: `512`, or `512x683`."""
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
