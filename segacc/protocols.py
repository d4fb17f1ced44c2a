"""How the network sees an image: whole, resized or padded, or through windows that slide over it.

A prediction is always taken at the image's original size. What a network cannot take is padded or
seen through windows where the protocol says so, and refused otherwise; it is stretched only where
the protocol names a size, as the image processors of some downloaded folders do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from segacc.errors import OptionError
from segacc.functional import blended_bands, resized_argmax, resized_bands_argmax
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.options import Size, decode, parse_component

Forward = Callable[[Tensor], Logits]


@dataclass(frozen=True, kw_only=True)
class WholeOptions:
    """Options of the protocol `whole`."""

    short_side: PositiveInt | None = None
    """Pixels of the shorter side."""
    size: Size | None = None
    """(height, width) in pixels."""
    pad: PositiveInt | None = None
    """Pad at right and bottom, after the resize, to multiples of so many pixels."""


@dataclass(frozen=True, kw_only=True)
class SlideOptions:
    """Options of the protocol `slide`."""

    crop: Size
    """(height, width) of a window in pixels."""
    stride: Size | None = None
    """(down, right) from window to window in pixels; default two thirds of `crop`."""
    short_side: PositiveInt | None = None
    """Pixels of the shorter side."""

    def __post_init__(self) -> None:
        """Refuse gaps between windows."""
        if self.stride and (self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]):
            raise ValueError(
                f"the stride {_side(self.stride)} is larger than the crop {_side(self.crop)}: "
                "pixels between the windows would have no prediction"
            )


@dataclass(frozen=True)
class Windows:
    """Windows of one size that slide over an image."""

    crop: tuple[int, int]
    """(height, width) of each window."""
    stride: tuple[int, int]
    """(down, right) from window to window, at most `crop`."""

    @classmethod
    def of(cls, crop: tuple[int, int], stride: tuple[int, int] | None = None) -> "Windows":
        """Make windows that overlap by a third unless a stride is given."""
        thirds = (round(crop[0] * 2 / 3), round(crop[1] * 2 / 3))
        return cls(crop, stride or thirds)

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

    def text(self) -> str:
        """Tell it as it is typed: `whole:short_side=512,pad=14`, `slide:crop=512,stride=341`."""
        options = []
        if self.windows:
            options += [f"crop={_side(self.windows.crop)}", f"stride={_side(self.windows.stride)}"]
        if self.short_side:
            options.append(f"short_side={self.short_side}")
        if self.size:
            options.append(f"size={self.size[0]}x{self.size[1]}")
        if self.pad:
            options.append(f"pad={self.pad}")
        name = "slide" if self.windows else "whole"
        return f"{name}:{','.join(options)}" if options else name

    @classmethod
    def parse(cls, text: str, where: str) -> "Protocol":
        """Read what `text` wrote.

        Raises:
            OptionError: another name than `whole` or `slide`, or an unknown or wrong option.
        """
        named = parse_component(text, where)
        if named.name == "whole":
            whole = decode(WholeOptions, named.values, where)
            if whole.short_side and whole.size:
                raise OptionError(f"{where}: short_side and size exclude each other in {text!r}.")
            return cls(whole.short_side, whole.size, whole.pad)
        if named.name == "slide":
            slide = decode(SlideOptions, named.values, where)
            return cls(slide.short_side, windows=Windows.of(slide.crop, slide.stride))
        raise OptionError(f'{where}: unknown protocol "{named.name}". Known: whole, slide.')

    def resize(self, image: Tensor) -> Tensor:
        """Resize an image (C, H, W) uint8, with antialiasing, as image processors do."""
        from torchvision.transforms.v2 import functional

        if self.short_side is None and self.size is None:
            return image
        size = list(self.size) if self.size else [self.short_side]
        resized: Tensor = functional.resize(image, size, antialias=True)
        return resized

    def padded(self, size: tuple[int, int], rule: SizeRule) -> tuple[int, int]:
        """Return (height, width) of a resized image after padding."""
        if self.windows:
            return max(size[0], self.windows.crop[0]), max(size[1], self.windows.crop[1])
        return _round_up(size, self.pad or 1, rule.minimum)


def _side(size: tuple[int, int]) -> str:
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"


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


@torch.no_grad()
def predict(
    forward: Forward,
    network: SegmentationModel,
    image: Tensor,
    protocol: Protocol,
    most: Callable[[int], int] = int,
) -> Tensor:
    """Predict one image at its original size.

    One image and one window at a time, so that a prediction never depends on what else is in a
    batch.

    Args:
        forward: the network, perhaps wrapped by accelerate.
        network: the same network, bare; it says how images are normalized and which sizes fit.
        image: (C, H, W) uint8 on the device.
        protocol: how the network sees it.
        most: given the number of windows, returns how many forward calls to make, not fewer: see
            `Scoring.most`. Called once, before the first forward call.

    Returns:
        (H, W) uint8 classes.

    Raises:
        OptionError: the network does not take the size that the protocol makes.
    """
    resized = protocol.resize(image)
    size, seen = (image.shape[-2], image.shape[-1]), (resized.shape[-2], resized.shape[-1])
    height, width = protocol.padded(seen, network.size_rule)
    _check(protocol, network, seen, (height, width))
    padding = (0, width - seen[1], 0, height - seen[0])
    images = F.pad(network.normalize(resized[None]), padding)  # (1, C, height, width)
    if protocol.windows:
        return _slide(forward, images, protocol.windows, seen, size, most)
    extent = (size[0] * height / seen[0], size[1] * width / seen[1])
    return resized_argmax(forward(images).main, size, extent=extent)[0]


def _slide(
    forward: Forward,
    images: Tensor,
    windows: Windows,
    seen: tuple[int, int],
    size: tuple[int, int],
    most: Callable[[int], int],
) -> Tensor:
    """Predict (H, W) at `size` from windows over (1, C, ...), of which `seen` is not padding."""
    height, width = windows.crop
    tops, lefts = windows.starts(seen)
    starts = list(product(tops, lefts))
    calls = most(len(starts))

    def look(top: int, left: int) -> Tensor:
        window = images[..., top : top + height, left : left + width]
        return forward(window.contiguous()).main

    logits = (look(*start) for start in starts)
    bands = blended_bands(logits, tops, lefts, windows.crop, seen)
    prediction = resized_bands_argmax(bands, seen, size)
    for _ in range(len(starts), calls):
        look(0, 0)
    return prediction


def _check(
    protocol: Protocol, network: SegmentationModel, seen: tuple[int, int], padded: tuple[int, int]
) -> None:
    """Refuse what the network does not take, and say which protocol makes it fit.

    Raises:
        OptionError: so.
    """
    rule, windows = network.size_rule, protocol.windows
    taken = windows.crop if windows else padded
    if not (complaint := rule.complaint(taken)):
        return
    comes = "a window" if windows else "an image"
    right = _fitting(protocol, rule, windows.crop if windows else seen)
    does = "sees it through windows" if right.windows else "pads it"
    raise OptionError(
        f"--protocol {protocol.text()}: the network {complaint}, {comes} comes as "
        f"{taken[0]}x{taken[1]}. Choose --protocol {right.text()}, which {does}."
    )


def _fitting(protocol: Protocol, rule: SizeRule, size: tuple[int, int]) -> Protocol:
    """Change a protocol so that an image or window of (height, width) fits the rule."""
    if not (protocol.windows or rule.fixed or rule.square):
        return replace(protocol, pad=rule.multiple)
    if rule.square:
        size = (min(size), min(size))
    crop = rule.fixed or _round_up(size, rule.multiple, rule.minimum)
    return Protocol(protocol.short_side, windows=Windows.of(crop))
