"""Protocols of evaluation: resizing, padding, sliding windows and test-time augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

from torch import Tensor

from segacc.errors import OptionError
from segacc.evaluation.protocol_options import EVEN, Blend, Interpolation, read_options, side_text
from segacc.evaluation.scores import classes_in
from segacc.model import SegmentationModel, SizeRule


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
    interpolation: Interpolation = "bilinear"
    """Interpolation of resized images."""
    threshold: float = EVEN
    """Probability above which a pixel is of the second of two classes."""
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
        other = self.interpolation != "bilinear"
        options += [f"interpolation={self.interpolation}"] if other else []
        options += ["antialias=false"] if not self.antialias else []
        options += [f"pad={self.pad}"] if self.pad else []
        options += [f"threshold={self.threshold!r}"] if self.threshold != EVEN else []
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
            given["interpolation"],
            given["threshold"],
            typed if preset else "",
        )
        if typed != text != found.text():
            stands = replace(found, preset="").text()
            raise OptionError(f"{where}: {typed} stands for {stands}; got {text!r}.")
        return found

    def with_threshold(self, threshold: float, where: str) -> "Protocol":
        """Return the protocol with another threshold.

        Raises:
            OptionError: it is not between 0 and 1; the message begins with `where` it was given.
        """
        if not isinstance(threshold, Real) or not 0 < threshold < 1:
            raise OptionError(
                f"{where}: expected a probability > 0 and < 1 above which a pixel is of the second "
                f"class; found {threshold!r}."
            )
        threshold = float(threshold)  # of numpy, too
        preset = self.preset if self.threshold == EVEN else ""  # its options name the threshold
        if preset and threshold != EVEN:
            preset += f"{',' if ':' in preset else ':'}threshold={threshold!r}"
        return replace(self, threshold=threshold, preset=preset)

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
        from torchvision.transforms.v2 import InterpolationMode, functional

        # torch's "nearest" takes the pixel to the upper left, Pillow's the nearest one
        name = "nearest-exact" if self.interpolation == "nearest" else self.interpolation
        size = self.seen_size((images.shape[-2], images.shape[-1]), scale)
        resized: Tensor = functional.resize(
            images, list(size), InterpolationMode(name), antialias=self.antialias
        )
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


def refuse_threshold(protocol: Protocol, names: Sequence[str], where: str) -> None:
    """Refuse a threshold unless the K class names are two.

    Raises:
        OptionError: there is a threshold, and there are not two classes.
    """
    if protocol.threshold != EVEN and len(names) != 2:
        raise OptionError(
            f"{where}: a threshold of {protocol.threshold!r} needs 2 classes, but there are "
            f"{classes_in(tuple(names))}. With more classes the most probable one is predicted; "
            "leave it out."
        )


def refuse_one_hot(network: SegmentationModel, where: str) -> None:
    """Refuse what needs logits if the network is in a file that returns classes.

    Raises:
        OptionError: it is; the message begins with `where` the logits were asked for.
    """
    if network.one_hot:
        raise OptionError(
            f"{where}: the file returns the class of each pixel and no logits, which this needs. "
            "Export the model without --argmax."
        )


def refuse_views(protocol: Protocol, network: SegmentationModel, where: str) -> None:
    """Refuse any protocol but `whole` for a file that returns classes, as it resizes itself.

    Raises:
        OptionError: it is another one; the message begins with `where` it was given.
    """
    if protocol != Protocol():
        refuse_one_hot(network, f"{where}: protocol {protocol.text()}")


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
    return (
        unsized if unsized.resizes else replace(unsized, antialias=True, interpolation="bilinear")
    )
