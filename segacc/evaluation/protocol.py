"""Protocols of evaluation: resizing, padding, sliding windows and test-time augmentation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Gt
from pydantic import AllowInfNan, PositiveInt
from torch import Tensor

from segacc.errors import OptionError, unknown
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
datasets/ade20k.py, cityscapes.py, pascal_voc12.py) on whole images. Options override them.
Cityscapes' images of 1024x2048 keep their size; SegFormer's published scores there use
`mmseg-cityscapes:crop=1024,stride=768` (configs/segformer). The meaning of a name never changes.

Two differences remain: OpenCV may round a resized pixel differently by one grey level; and mmseg
resizes logits twice, to the resized image and then to the original, segacc once. mmseg's test-time
augmentation resizes the original image:
`tta:scales=0.5/0.75/1/1.25/1.5/1.75,antialias=false`."""


@dataclass(frozen=True, kw_only=True)
class ResizeOptions:
    """Options of resizing an image."""

    short_side: PositiveInt | None = None
    """Length of the shorter side in pixels; the longer one is rounded down, as by transformers'
    image processors."""
    long_side: PositiveInt | None = None
    """Maximum length of the longer side in pixels; with it both sides are rounded to the nearest
    pixel, as by mmcv."""
    antialias: bool = True
    """Use antialiasing when downscaling, as Pillow and image processors do; false resizes as
    OpenCV."""


@dataclass(frozen=True, kw_only=True)
class WholeOptions(ResizeOptions):
    """Options of the protocol `whole`."""

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
class SlideOptions(ResizeOptions, StrideOptions, CropOptions):
    """Options of the protocol `slide`."""


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
    """Options of the protocol `tta`, test-time augmentation: mean probabilities over views."""


KINDS: Mapping[str, type[WholeOptions | SlideOptions | TtaOptions]] = {
    "whole": WholeOptions,
    "slide": SlideOptions,
    "tta": TtaOptions,
}


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
    if "antialias" in typed and not (short or size or set(scales) - {1.0}):
        return "antialias has no effect, as images are not resized"
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


@dataclass(frozen=True)
class Windows:
    """Windows of one size that slide over an image."""

    crop: tuple[int, int]
    """(height, width) of each window."""
    stride: tuple[int, int]
    """(down, right) from window to window in pixels, at most `crop`."""
    blend: Blend = "even"
    """Weights of a window's pixels where windows overlap."""

    @classmethod
    def of(
        cls, crop: tuple[int, int], stride: tuple[int, int] | None = None, blend: Blend = "even"
    ) -> "Windows":
        """Return windows that overlap by a third unless a stride is given."""
        thirds = (round(crop[0] * 2 / 3), round(crop[1] * 2 / 3))
        return cls(crop, stride or thirds, blend)

    def starts(self, size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """Return the first rows and first columns of the windows over (height, width).

        The last window in each direction is shifted back inside the image. A side shorter than the
        window has one window, which starts at 0.
        """
        firsts = []
        for side, window, step in zip(size, self.crop, self.stride, strict=True):
            last = max(side - window, 0)
            firsts.append([*range(0, last, step), last])
        return firsts[0], firsts[1]

    def options(self) -> list[str]:
        """Return the options of the windows as text."""
        blend = [f"blend={self.blend}"] if self.blend != "even" else []
        return [f"crop={side_text(self.crop)}", f"stride={side_text(self.stride)}", *blend]


@dataclass(frozen=True)
class Protocol:
    """How an image becomes the network's input; predictions are made at the image's original size.

    At most one of `short_side` and `size`, and at most one of `pad` and `windows`, is set. By
    default the image is used as it is.
    """

    short_side: int | None = None
    """Resize so that the shorter side has this many pixels."""
    size: tuple[int, int] | None = None
    """Resize to (height, width), ignoring the aspect ratio."""
    pad: int | None = None
    """Then pad at right and bottom with the mean colour, to a multiple of this many pixels. Images
    smaller than the network's minimum size are padded to it under any protocol."""
    windows: Windows | None = None
    """Then predict in these sliding windows."""
    long_side: int | None = None
    """Maximum length of the longer side in pixels, with `short_side`."""
    antialias: bool = True
    """Use antialiasing when downscaling."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the resized image, over which probabilities are averaged."""
    flip: bool = False
    """Whether to add the horizontally flipped image at each scale."""
    preset: str = ""
    """Name and options of the preset that this protocol was given as; empty if it was not one."""

    @property
    def views(self) -> list[tuple[float, bool]]:
        """List (scale, whether it is mirrored) of each view."""
        return [(scale, flip) for scale in self.scales for flip in (False, True)[: 1 + self.flip]]

    @property
    def resizes(self) -> bool:
        """Return whether images are resized."""
        return bool(self.short_side or self.size) or self.scales != (1.0,)

    def text(self) -> str:
        """Return the text of it: `whole:short_side=512,pad=14`, `slide:crop=512,stride=341`.

        A preset is followed by its protocol: `voc (whole:short_side=512,...)`.
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
        """Parse a protocol, as given by the user or written by `text`.

        Raises:
            OptionError: the name or an option is unknown, options are invalid or exclude each
                other, or the text after a preset is not its protocol.
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
        """Return the (height, width) to which an image of (height, width) is resized."""
        short, long = min(size), max(size)
        if self.size:
            size = self.size
        elif self.short_side and self.long_side:
            size = _scaled(size, min(self.short_side / short, self.long_side / long))
        elif self.short_side:
            longer = int(self.short_side * long / short)  # rounded down, as by torchvision
            size = (self.short_side, longer) if size[0] <= size[1] else (longer, self.short_side)
        return _scaled(size, scale) if scale != 1 else size

    def resize(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Resize images (..., C, H, W) uint8."""
        from torchvision.transforms.v2 import functional

        size = self.seen_size((images.shape[-2], images.shape[-1]), scale)
        resized: Tensor = functional.resize(images, list(size), antialias=self.antialias)
        return resized

    def padded(self, size: tuple[int, int], rule: SizeRule) -> tuple[int, int]:
        """Return the (height, width) of a resized image after padding."""
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
    """Choose the protocol for images of any size, without changing their aspect ratio.

    Args:
        network: its size rule decides: `whole` for any size, `whole:pad=M` for multiples of M, and
            `slide` for one fixed size or squares only.
        crop_size: (height, width) of the training crops.
    """
    rule = network.size_rule
    if rule.fixed or rule.square:
        return Protocol(windows=Windows.of(rule.fixed or crop_size))
    return Protocol(pad=rule.multiple) if rule.multiple > 1 else Protocol()


def fitting(protocol: Protocol, rule: SizeRule, size: tuple[int, int]) -> Protocol:
    """Return the protocol changed so that an image or window of (height, width) fits the rule."""
    plain = replace(protocol, preset="")
    if not (protocol.windows or rule.fixed or rule.square):
        return replace(plain, pad=rule.multiple)
    if rule.square:
        size = (min(size), min(size))
    crop = rule.fixed or _round_up(size, rule.multiple, rule.minimum)
    blend = protocol.windows.blend if protocol.windows else "even"
    unsized = replace(plain, size=None, pad=None, windows=Windows.of(crop, blend=blend))
    return unsized if unsized.resizes else replace(unsized, antialias=True)
