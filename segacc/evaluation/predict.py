"""Prediction under a protocol: whole images, sliding windows and test-time augmentation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.errors import OptionError
from segacc.evaluation.protocol import Protocol, Windows, fitting
from segacc.evaluation.protocol_options import EVEN
from segacc.evaluation.window_tiles import decide_windows
from segacc.evaluation.windows import (
    Grid,
    View,
    blended_bands,
    mean_decision,
    mean_probabilities,
)
from segacc.kernels import resize as resizing
from segacc.kernels.resize import Decided, Shares, decide
from segacc.model import Logits, SegmentationModel

Forward = Callable[[Tensor], Logits]
Pixels = tuple[int, int]


class Seen(Decided):
    """Predictions of whole images in one view, with the logits that they were made from."""

    logits: Tensor
    """(N, K, h, w)."""
    extent: tuple[float, float]
    """Height and width that the logits cover, in pixels of the predictions."""

    @classmethod
    def of(cls, found: Decided, logits: Tensor, extent: tuple[float, float]) -> "Seen":
        """Return predictions with their logits."""
        seen = cls(*found)
        seen.logits, seen.extent = logits, extent
        return seen

    def each(self) -> Iterator["Seen"]:
        """Yield the predictions image by image, N = 1."""
        for index, found in enumerate(super().each()):
            yield Seen.of(found, self.logits[index : index + 1], self.extent)

    def cut(self, threshold: float) -> "Seen":
        """Return the second of two classes where its probability is above a threshold."""
        return Seen.of(super().cut(threshold), self.logits, self.extent)


def predict(
    forward: Forward,
    network: SegmentationModel,
    image: Tensor,
    protocol: Protocol,
    most: Callable[[int], int] = int,
) -> Tensor:
    """Predict one image (C, H, W) uint8 at its original size: (H, W) uint8; see `decide_batch`."""
    return decide_batch(forward, network, image[None], protocol, most).classes[0]


@torch.no_grad()
def decide_batch(
    forward: Forward,
    network: SegmentationModel,
    images: Tensor,
    protocol: Protocol,
    most: Callable[[int], int] = int,
    *,
    confidence: bool = False,
    log_odds: bool = False,
    logits: bool = False,
) -> Decided:
    """Predict images of one size, at that size.

    Each view, and each window of it, is one forward call on all images.

    Args:
        forward: the network, possibly wrapped by accelerate.
        network: the same network, unwrapped, for normalization, size rule and kind of logits.
        images: (N, C, H, W) uint8 on the device.
        protocol: resizing, padding, windows and views.
        most: maps the number of windows of all views to the number of forward calls to make, which
            is not smaller: see `Scoring.most`. Called once, before the first forward call.
        confidence: whether to return the probability of each predicted class as well. It does not
            change the classes, and is always returned if probabilities are averaged.
        log_odds: whether to return the log-odds of the second of two classes as well.
        logits: whether to return a `Seen`; only for whole images in one view.

    Returns:
        Classes (N, H, W) uint8, their probabilities or None, and log-odds or None.

    Raises:
        OptionError: the size that the protocol gives does not fit the network.
    """
    size = (images.shape[-2], images.shape[-1])
    looks = list(_looks(forward, network, images, protocol))
    calls = sum(len(look.starts(protocol.windows)) for look in looks) if protocol.windows else 0
    wanted = most(calls) if protocol.windows else 0
    shares: Shares = "sum" if network.probabilities else "softmax"
    odds = log_odds or protocol.threshold != EVEN
    if len(looks) > 1:
        limit = resizing.CHUNK // (4 * len(looks))
        views = [look.view(size, limit) for look in looks]
        decided = mean_decision(views, size, shares, limit=limit, odds=odds)
    else:
        given = shares if confidence else None, shares if odds else None
        decided = looks[0].decide(size, *given, keep=logits)
    for _ in range(calls, wanted):
        looks[0].through(0, 0, looks[0].taken)
    return decided.cut(protocol.threshold) if protocol.threshold != EVEN else decided


@torch.no_grad()
def probability_bands(
    forward: Forward, network: SegmentationModel, image: Tensor, protocol: Protocol
) -> Iterator[Tensor]:
    """Predict the class probabilities of one image at its original size, a few rows at a time.

    With several views they are the mean over the views. The class with the highest probability is
    that of `predict`, unless several are equal after rounding or the protocol has a threshold.

    Args:
        forward: see `decide_batch`.
        network: see `decide_batch`.
        image: (C, H, W) uint8 on the device.
        protocol: resizing, padding, windows and views.

    Yields:
        (K, rows, W) float32 from top to bottom, H rows in all.

    Raises:
        OptionError: the size that the protocol gives does not fit the network.
    """
    size = (image.shape[-2], image.shape[-1])
    looks = list(_looks(forward, network, image[None], protocol))
    limit = resizing.CHUNK // (4 * len(looks))
    views = [look.view(size, limit) for look in looks]
    shares: Shares = "sum" if network.probabilities else "softmax"
    for band in mean_probabilities(views, size, shares, limit=limit):
        yield band[0]


def _looks(
    forward: Forward, network: SegmentationModel, images: Tensor, protocol: Protocol
) -> Iterator["Look"]:
    """Yield a Look for each of the protocol's views; views of one scale share their pixels.

    Raises:
        OptionError: the size of a view does not fit the network.
    """
    resized = {scale: protocol.resize(images, scale) for scale in protocol.scales}
    for scale, flipped in protocol.views:
        seen = (resized[scale].shape[-2], resized[scale].shape[-1])
        padded = protocol.padded(seen, network.size_rule)
        _check(protocol, network, seen, padded)
        yield Look(forward, network, resized[scale], padded, protocol.windows, flipped)


@dataclass(frozen=True)
class Look:
    """One view of N images: a scale, mirrored or not, whole or in windows."""

    forward: Forward
    network: SegmentationModel
    images: Tensor
    """(N, C, h, w) uint8, resized."""
    padded: Pixels
    """(height, width) after padding."""
    windows: Windows | None
    flipped: bool
    """Whether the network gets mirrored images; `images` are not mirrored."""

    @property
    def seen(self) -> Pixels:
        """(h, w) of the resized images."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def taken(self) -> Pixels:
        """(height, width) of the network's input."""
        return self.windows.crop if self.windows else self.padded

    def starts(self, windows: Windows) -> list[Pixels]:
        """Return (top, left) of all windows, row by row."""
        return list(product(*windows.starts(self.seen)))

    def cut(self, top: int, left: int, crop: Pixels) -> Tensor:
        """Return a normalized crop (N, C, *crop) of the images, padded with the mean colour."""
        height, width = self.seen
        bottom, right = min(top + crop[0], height), min(left + crop[1], width)
        columns = slice(width - right, width - left) if self.flipped else slice(left, right)
        part = self.images[..., top:bottom, columns]
        normalized = self.network.normalize(part.flip(-1) if self.flipped else part)
        padding = (0, crop[1] - (right - left), 0, crop[0] - (bottom - top))
        return F.pad(normalized, padding) if any(padding) else normalized

    def through(self, top: int, left: int, crop: Pixels) -> Tensor:
        """Return the logits (N, K, h, w) of one crop."""
        images = self.cut(top, left, crop).contiguous()
        with self.network.origin.doing(f"forward() of images {tuple(images.shape)}"):
            return self.forward(images).main

    def laid(self, windows: Windows) -> tuple[Iterator[Tensor], Grid]:
        """Return the logits (N, K, h, w) of each window, row by row, and their layout."""
        grid = Grid(*windows.starts(self.seen), windows.crop, self.seen, windows.blend)
        return (self.through(*start, windows.crop) for start in self.starts(windows)), grid

    def whole(self, size: Pixels) -> tuple[Tensor, tuple[float, float]]:
        """Return the logits (N, K, h, w) of whole images, and their extent at the original size."""
        logits = self.through(0, 0, self.padded)
        (height, width), seen = self.padded, self.seen
        return logits, (size[0] * height / seen[0], size[1] * width / seen[1])

    def decide(
        self, size: Pixels, shares: Shares | None, odds: Shares | None, *, keep: bool = False
    ) -> Decided:
        """Predict each pixel at the original size from this view alone; `keep` the logits."""
        if self.windows:
            return decide_windows(*self.laid(self.windows), size, shares, odds)
        logits, extent = self.whole(size)
        found = decide(logits, size, extent=extent, shares=shares, odds=odds)
        return Seen.of(found, logits, extent) if keep else found

    def view(self, size: Pixels, limit: int) -> View:
        """Return the logits in bands, for a mean over several views."""
        if self.windows:
            bands = blended_bands(*self.laid(self.windows), limit=limit)
            return View(bands, self.seen, size, self.flipped)
        logits, extent = self.whole(size)
        return View([logits], (logits.shape[2], logits.shape[3]), extent, self.flipped)


def _check(protocol: Protocol, network: SegmentationModel, seen: Pixels, padded: Pixels) -> None:
    """Refuse an input size that does not fit the network, and suggest a protocol that does.

    Raises:
        OptionError: the input size does not fit.
    """
    rule, windows = network.size_rule, protocol.windows
    taken = windows.crop if windows else padded
    if not (complaint := rule.complaint(taken)):
        return
    part = "a window" if windows else "an image"
    right = fitting(protocol, rule, windows.crop if windows else seen)
    effect = "uses sliding windows" if right.windows else "pads it"
    raise OptionError(
        f"--protocol {protocol.text()}: the network {complaint}, but {part} is "
        f"{taken[0]}x{taken[1]}. Use --protocol {right.text()}, which {effect}."
    )
