"""What a protocol is typed as: its options, and the names of the field's own protocols."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt
from pydantic import AllowInfNan, PositiveInt

from segacc.errors import OptionError
from segacc.protocols.blending import Blend
from segacc.settings.options import Component, Size, decode, parse_component

MMSEG = "short_side=512,long_side=2048,antialias=false"
PRESETS: Mapping[str, str] = {
    "mmseg-ade20k": f"whole:{MMSEG}",
    "mmseg-cityscapes": "whole:short_side=1024,long_side=2048,antialias=false",
    "voc": f"whole:{MMSEG}",
}
"""Protocols of published scores: the test pipelines of mmsegmentation 1.2.2 (configs/_base_/
datasets/ade20k.py, cityscapes.py, pascal_voc12.py), seen whole; options go over them. Cityscapes'
pictures of 1024x2048 stay as they are; SegFormer's scores there are those of
`mmseg-cityscapes:crop=1024,stride=768` (configs/segformer). A name never changes its meaning.

Left are two differences: OpenCV may round a resized pixel otherwise by a grey level, and mmseg
enlarges logits twice, to the resized picture and then to the original, segacc once. Its test-time
augmentation resizes the original picture:
`tta:scales=0.5/0.75/1/1.25/1.5/1.75,antialias=false`."""


@dataclass(frozen=True, kw_only=True)
class ResizeOptions:
    """How an image is resized."""

    short_side: PositiveInt | None = None
    """Pixels of the shorter side; the longer one is rounded down, as by image processors."""
    long_side: PositiveInt | None = None
    """Pixels that the longer side has at most; with it sides are rounded to the nearest pixel, as
    by mmcv."""
    antialias: bool = True
    """Smooth what is made smaller, as Pillow and image processors do; false is OpenCV's way."""


@dataclass(frozen=True, kw_only=True)
class WholeOptions(ResizeOptions):
    """Options of the protocol `whole`."""

    size: Size | None = None
    """(height, width) in pixels."""
    pad: PositiveInt | None = None
    """Pad at right and bottom, after the resize, to multiples of so many pixels."""


@dataclass(frozen=True, kw_only=True)
class StrideOptions:
    """How windows follow each other."""

    stride: Size | None = None
    """(down, right) from window to window in pixels; default two thirds of `crop`."""
    blend: Blend = "even"
    """How much a pixel of a window counts where windows overlap: `even`, or `gaussian`, of an
    eighth of the window's side."""


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """Windows, in any case."""

    crop: Size
    """(height, width) of a window in pixels."""


@dataclass(frozen=True, kw_only=True)
class SlideOptions(ResizeOptions, StrideOptions, CropOptions):
    """Options of the protocol `slide`."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """What is looked at, again and again."""

    scales: tuple[Annotated[float, Gt(0), AllowInfNan(False)], ...] = (1.0,)
    """Factors on both sides of the resized image, as in 0.5/0.75/1.0/1.25/1.5."""
    flip: bool = True
    """Look at the mirrored image, too."""
    crop: Size | None = None
    """(height, width) of a window in pixels; default: no windows."""


@dataclass(frozen=True, kw_only=True)
class TtaOptions(WholeOptions, StrideOptions, ViewOptions):
    """Options of the protocol `tta`, test-time augmentation: the mean of several views."""


KINDS: Mapping[str, type[WholeOptions | SlideOptions | TtaOptions]] = {
    "whole": WholeOptions,
    "slide": SlideOptions,
    "tta": TtaOptions,
}


def read_options(text: str, where: str) -> tuple[dict[str, Any], bool]:
    """Read the options of a protocol by name, those left out too, and whether a preset gave some.

    Raises:
        OptionError: an unknown name, an unknown or wrong option, or options that do not go
            together.
    """
    given = parse_component(text, where)
    component = _plain(given)
    if component.name not in KINDS:
        known = ", ".join([*KINDS, *PRESETS])
        raise OptionError(f'{where}: unknown protocol "{component.name}". Known: {known}.')
    options = vars(decode(KINDS[component.name], component.values, where))
    if complaint := _complaint(component.values, options):
        raise OptionError(f"{where}: {complaint}.")
    return options, given.name in PRESETS


def _plain(given: Component) -> Component:
    """Put what a preset stands for, with the options that go over it, in its place."""
    if given.name not in PRESETS:
        return given
    base = parse_component(PRESETS[given.name], given.where)
    values = {**base.values, **given.values}
    views = "tta" if {"scales", "flip"} & set(values) else base.name
    name = "slide" if views == "whole" and "crop" in values else views
    return Component(name, values, given.where)


def _complaint(typed: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Say which options do not go together, or have no effect; empty where all is well."""
    short, long, size = options["short_side"], options["long_side"], options.get("size")
    crop, stride, scales = options.get("crop"), options.get("stride"), options.get("scales", ())
    alone = len(scales) == 1 and not options.get("flip")
    if short and size:
        return "short_side and size exclude each other"
    if long and (not short or long < short):
        return "long_side is a limit on what short_side asks for: give a smaller short_side, too"
    if "antialias" in typed and not (short or size or set(scales) - {1.0}):
        return "antialias is for images that are resized, which nothing here asks for"
    if (stride or "blend" in typed) and not crop:
        return "stride and blend are for windows: give their crop, too"
    if crop and options.get("pad"):
        return "crop and pad exclude each other: a small image is padded to a window in any case"
    if crop and stride and (stride[0] > crop[0] or stride[1] > crop[1]):
        return (
            f"the stride {side_text(stride)} is larger than the crop {side_text(crop)}: pixels "
            "between the windows would have no prediction"
        )
    if "scales" in options and (not scales or len(set(scales)) < len(scales)):
        return "scales are one or more, each once"
    if alone and scales == (1.0,):
        return "one look at the image as it is is whole or slide: give scales, or flip=true"
    return ""


def side_text(size: tuple[int, int]) -> str:
    """Tell (height, width) as it is typed: `512`, or `512x683`."""
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
