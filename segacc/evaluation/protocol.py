"""Protocols: how a network sees an image whose scores are reported, and how that is typed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Gt
from pydantic import AllowInfNan, PositiveInt
from torch import Tensor

from segacc.errors import OptionError
from segacc.evaluation.windows import Blend
from segacc.model import SegmentationModel, SizeRule
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


@dataclass(frozen=True)
class Windows:
    """Windows of one size that slide over an image."""

    crop: tuple[int, int]
    """(height, width) of each window."""
    stride: tuple[int, int]
    """(down, right) from window to window, at most `crop`."""
    blend: Blend = "even"
    """How much a pixel counts where windows overlap."""

    @classmethod
    def of(
        cls, crop: tuple[int, int], stride: tuple[int, int] | None = None, blend: Blend = "even"
    ) -> "Windows":
        """Make windows that overlap by a third unless a stride is given."""
        thirds = (round(crop[0] * 2 / 3), round(crop[1] * 2 / 3))
        return cls(crop, stride or thirds, blend)

    def starts(self, size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """List the first rows and first columns of the windows over (height, width).

        The last window in each direction is shifted back inside; a side shorter than the window
        has one, which starts at 0.
        """
        firsts = []
        for side, window, step in zip(size, self.crop, self.stride, strict=True):
            last = max(side - window, 0)
            firsts.append([*range(0, last, step), last])
        return firsts[0], firsts[1]

    def options(self) -> list[str]:
        """Tell them as they are typed."""
        blend = [f"blend={self.blend}"] if self.blend != "even" else []
        return [f"crop={side_text(self.crop)}", f"stride={side_text(self.stride)}", *blend]


@dataclass(frozen=True)
class Protocol:
    """How the network sees an image; the prediction is always taken at the image's original size.

    At most one of `short_side` and `size`, and at most one of `pad` and `windows`, is given; none
    of all means the image as it is.
    """

    short_side: int | None = None
    """Resize so that the shorter side has this many pixels."""
    size: tuple[int, int] | None = None
    """Resize to (height, width), not keeping the shape."""
    pad: int | None = None
    """Then pad at right and bottom with the mean colour, to multiples of so many pixels. An image
    below the least size that the network takes is padded to that under any protocol."""
    windows: Windows | None = None
    """Then look through these windows."""
    long_side: int | None = None
    """Pixels that the longer side has at most where `short_side` is given."""
    antialias: bool = True
    """Smooth what is made smaller."""
    scales: tuple[float, ...] = (1.0,)
    """Look at the resized image at each of these scales; probabilities are averaged."""
    flip: bool = False
    """At each scale, look at the mirrored image, too."""
    preset: str = ""
    """The name, and the options that went over it, of which all this is what they stand for."""

    @property
    def views(self) -> list[tuple[float, bool]]:
        """List scale, and whether it is mirrored, of each look at an image."""
        return [(scale, flip) for scale in self.scales for flip in (False, True)[: 1 + self.flip]]

    @property
    def resizes(self) -> bool:
        """Tell whether any image is seen at another size than its own."""
        return bool(self.short_side or self.size) or self.scales != (1.0,)

    def text(self) -> str:
        """Tell it as it is typed: `whole:short_side=512,pad=14`, `slide:crop=512,stride=341`.

        What stands for a preset comes after it: `voc (whole:short_side=512,...)`.
        """
        tta = len(self.views) > 1 or self.scales != (1.0,)
        options = [f"scales={'/'.join(map(_number, self.scales))}"] if tta else []
        options += [f"flip={str(self.flip).lower()}"] if tta else []
        options += self.windows.options() if self.windows else []
        options += [f"short_side={self.short_side}"] if self.short_side else []
        options += [f"long_side={self.long_side}"] if self.long_side else []
        options += [f"size={self.size[0]}x{self.size[1]}"] if self.size else []
        options += ["antialias=false"] if not self.antialias else []
        options += [f"pad={self.pad}"] if self.pad else []
        name = "tta" if tta else "slide" if self.windows else "whole"
        text = f"{name}:{','.join(options)}" if options else name
        return f"{self.preset} ({text})" if self.preset else text

    @classmethod
    def parse(cls, text: str, where: str) -> "Protocol":
        """Read what is typed, or what `text` wrote.

        Raises:
            OptionError: an unknown name, an unknown or wrong option, options that do not go
                together, or a preset with what it does not stand for.
        """
        text = text.strip()
        typed = text.partition(" (")[0]
        given, preset = read_options(typed, where)
        crop = given.get("crop")
        found = cls(
            given["short_side"],
            given.get("size"),
            given.get("pad"),
            Windows.of(crop, given["stride"], given["blend"]) if crop else None,
            given["long_side"],
            given["antialias"],
            given.get("scales", (1.0,)),
            given.get("flip", False),
            typed if preset else "",
        )
        if typed != text != found.text():
            stands = replace(found, preset="").text()
            raise OptionError(f"{where}: {typed} stands for {stands}; got {text!r}.")
        return found

    def seen_size(self, size: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
        """Return (height, width) that an image of some size is resized to."""
        short, long = min(size), max(size)
        if self.size:
            size = self.size
        elif self.short_side and self.long_side:
            size = _scaled(size, min(self.short_side / short, self.long_side / long))
        elif self.short_side:
            longer = int(self.short_side * long / short)  # as torchvision and image processors
            size = (self.short_side, longer) if size[0] <= size[1] else (longer, self.short_side)
        return _scaled(size, scale) if scale != 1 else size

    def resize(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Resize images (..., C, H, W) uint8."""
        from torchvision.transforms.v2 import functional

        size = self.seen_size((images.shape[-2], images.shape[-1]), scale)
        resized: Tensor = functional.resize(images, list(size), antialias=self.antialias)
        return resized

    def padded(self, size: tuple[int, int], rule: SizeRule) -> tuple[int, int]:
        """Return (height, width) of a resized image after padding."""
        if self.windows:
            return max(size[0], self.windows.crop[0]), max(size[1], self.windows.crop[1])
        return _round_up(size, self.pad or 1, rule.minimum)


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Scale both sides, rounded to the nearest pixel as mmcv does."""
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def _round_up(size: tuple[int, int], multiple: int, minimum: int) -> tuple[int, int]:
    height, width = (-(-max(side, minimum) // multiple) * multiple for side in size)
    return height, width


def default_protocol(network: SegmentationModel, crop_size: tuple[int, int]) -> Protocol:
    """Choose how a network sees images of any size without stretching them.

    Args:
        network: its size rule decides: `whole` where it takes any size, `whole:pad=M` where it
            takes multiples of M, and `slide` where it takes one size or squares only.
        crop_size: (height, width) that it was trained at, which it takes.
    """
    rule = network.size_rule
    if rule.fixed or rule.square:
        return Protocol(windows=Windows.of(rule.fixed or crop_size))
    return Protocol(pad=rule.multiple) if rule.multiple > 1 else Protocol()


def fitting(protocol: Protocol, rule: SizeRule, size: tuple[int, int]) -> Protocol:
    """Change a protocol so that an image or window of (height, width) fits the rule."""
    plain = replace(protocol, preset="")
    if not (protocol.windows or rule.fixed or rule.square):
        return replace(plain, pad=rule.multiple)
    if rule.square:
        size = (min(size), min(size))
    crop = rule.fixed or _round_up(size, rule.multiple, rule.minimum)
    blend = protocol.windows.blend if protocol.windows else "even"
    unsized = replace(plain, size=None, pad=None, windows=Windows.of(crop, blend=blend))
    return unsized if unsized.resizes else replace(unsized, antialias=True)
