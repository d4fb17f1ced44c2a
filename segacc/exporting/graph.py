"""The exported graph: normalization, the network, and on request the class of each pixel."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segacc.errors import OptionError, WeightsError
from segacc.evaluation.protocol import Protocol, fitting
from segacc.evaluation.segmenter import Segmenter
from segacc.kernels.resize import resize_and_cut
from segacc.model import SegmentationModel, SizeRule

EXAMPLE = 3
"""Sides of the traced example image, in multiples of the size rule; the width is one more."""


class LogitsGraph(nn.Module):
    """Maps images (N, C, H, W) of 0..255, RGB, to logits (N, K, h, w) float32.

    Args:
        network: the network.
        dtype: that of its weights.
    """

    def __init__(self, network: SegmentationModel, dtype: torch.dtype = torch.float32) -> None:
        """Keep the network and its normalization; see the class."""
        super().__init__()
        device = next(network.parameters()).device
        mean, std = network._mean_and_std(device, network.num_channels)
        self.bgr, self.dtype = network.channel_order == "bgr", dtype
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.network = network

    def normalized(self, images: Tensor) -> Tensor:
        """Normalize images as `SegmentationModel.normalize` does."""
        if self.bgr:
            images = torch.cat([images[:, :3].flip(1), images[:, 3:]], dim=1)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images.to(torch.float32) - mean) / std

    def logits(self, normalized: Tensor) -> Tensor:
        """Return the network's logits as float32."""
        found: Tensor = self.network(normalized.to(self.dtype)).main
        return found.to(torch.float32)

    def forward(self, images: Tensor) -> Tensor:
        """Run the graph; see the class."""
        return self.logits(self.normalized(images))


class ClassesGraph(LogitsGraph):
    """Maps images (N, C, H, W) of 0..255, RGB, to the class of each pixel, (N, H, W) uint8.

    Args:
        protocol: a protocol `whole`, which the graph carries out.
        network: see LogitsGraph.
        dtype: see LogitsGraph.
    """

    def __init__(
        self, protocol: Protocol, network: SegmentationModel, dtype: torch.dtype = torch.float32
    ) -> None:
        """Keep the protocol too; see the class."""
        super().__init__(network, dtype)
        self.protocol = protocol

    def forward(self, images: Tensor) -> Tensor:
        """Run the graph; see the class.

        Sizes may be symbols, which must not be compared: that would fix them.
        """
        size = (images.shape[-2], images.shape[-1])
        resizes = bool(self.protocol.short_side or self.protocol.size)
        seen = self.seen(size) if resizes else size
        images = self.resized(images, seen) if resizes else images
        padded, pads = self.padded(seen)
        normalized = self.normalized(images)
        if pads:
            padding = (0, padded[1] - seen[1], 0, padded[0] - seen[0])
            normalized = F.pad(normalized, padding)
        logits = self.logits(normalized)
        if resizes and pads:
            sides = zip(size, padded, seen, strict=True)
            height, width = (own * whole / part for own, whole, part in sides)
            found = resize_and_cut(logits, size, (height, width))
        else:
            extent = size if resizes else padded
            found = F.interpolate(logits, size=extent, mode="bilinear", align_corners=False)
            found = found[..., : size[0], : size[1]]
        return found.argmax(dim=1).to(torch.uint8)

    def seen(self, size: tuple[int, int]) -> Any:
        """Return `Protocol.seen_size`, without a branch on sizes that may be symbols."""
        short = self.protocol.short_side
        if self.protocol.size or not short or self.protocol.long_side:
            return self.protocol.seen_size(size)
        height, width = size
        return (
            torch.sym_max(short, short * height // width),
            torch.sym_max(short, short * width // height),
        )

    def padded(self, size: tuple[int, int]) -> tuple[Any, bool]:
        """Return `Protocol.padded`, likewise, and whether there may be padding.

        Symbols are not padded to the network's minimum.
        """
        if all(isinstance(side, int) for side in size):
            found = self.protocol.padded(size, self.network.size_rule)
            return found, found != size
        multiple = self.protocol.pad or 1
        height, width = ((side + multiple - 1) // multiple * multiple for side in size)
        return (height, width), multiple > 1

    def resized(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize images to pixels of 0..255 as `Protocol.resize`, which rounds to 8 bits."""
        mode = self.protocol.interpolation
        smooth = mode in ("bilinear", "bicubic")
        found = F.interpolate(
            images.to(torch.float32),
            size=size,
            mode=mode if smooth else "nearest-exact",
            align_corners=False if smooth else None,
            antialias=self.protocol.antialias and smooth,
        )
        return found.round().clamp(0, 255)


def traced(
    graph: LogitsGraph, size: tuple[int, int] | None, dtype: torch.dtype, where: str
) -> tuple[torch.export.ExportedProgram, int | str]:
    """Trace a graph with torch.export, for any number of images if the network allows it.

    Args:
        graph: the graph.
        size: the (height, width) of all images; None if both may vary.
        dtype: that of the images.
        where: the model, for errors.

    Returns:
        The program, and the number of images that it takes: `N` for any, or 1.

    Raises:
        WeightsError: torch cannot trace it.
    """
    rule, varies = graph.network.size_rule, torch.export.Dim.DYNAMIC
    step = max(rule.multiple, -(-32 // rule.multiple) * rule.multiple)
    example = size or (EXAMPLE * step, (EXAMPLE + 1) * step)
    images = torch.zeros(2, graph.network.num_channels, *example, dtype=dtype)
    images = images.to(graph.get_buffer("mean").device)
    dims = {0: varies} if size else {0: varies, 2: varies, 3: varies}
    with torch.no_grad():
        try:
            return torch.export.export(graph.eval(), (images,), dynamic_shapes=(dims,)), "N"
        except Exception as error:  # torch and the network's code may raise anything
            reason = error
        if size:
            with suppress(Exception):  # the first error is told
                return torch.export.export(graph, (images[:1],)), 1
    told = "" if size else " Give --size HxW for a file of images of one size."
    raise WeightsError(
        f"{where}: torch.export cannot trace the network: {first_words(reason)}.{told}"
    ) from reason


def first_words(error: BaseException) -> str:
    """Return the first sentence or so of an error of torch, in one line."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    return f"{type(error).__name__}: {text[:300]}".rstrip(".: ")


def least_side(program: torch.export.ExportedProgram) -> int:
    """Return the smallest height and width that a traced graph takes, by its constraints."""
    images = next(node.meta["val"] for node in program.graph.nodes if node.name == "images")
    lower = [1]
    for side in images.shape[-2:]:
        side_as: Any = getattr(getattr(side, "node", None), "expr", None)
        for symbol in side_as.free_symbols if side_as is not None else ():
            if symbol in program.range_constraints:
                low = int(program.range_constraints[symbol].lower)
                lower.append(int(side_as.subs(symbol, low)))
    return max(lower)


def size_of(
    segmenter: Segmenter, asked: tuple[int, int] | str | None, crop: tuple[int, int], where: str
) -> tuple[int, int] | None:
    """Return the one (height, width) that the file takes; None if both may vary.

    Args:
        segmenter: the model.
        asked: a size, `dynamic`, or None for the default.
        crop: (height, width) of the training crops.
        where: where it was typed.

    Raises:
        OptionError: the network cannot take it.
    """
    rule, network = segmenter.network.size_rule, segmenter.network
    reason = one_size_reason(network)
    if asked == "dynamic" and reason:
        fits = "x".join(map(str, rule.fit(crop)))
        raise OptionError(
            f"{where}: dynamic: a file of {segmenter.arch} takes images of one size: {reason}. "
            f"Give a size, such as {fits}, or leave it out; larger images are segmented in windows."
        )
    if isinstance(asked, tuple):
        if complaint := rule.complaint(asked):
            height, width = rule.fit(asked)
            raise OptionError(
                f"{where}: {asked[0]}x{asked[1]}: the network {complaint}; {height}x{width} fits."
            )
        return asked
    return rule.fit(crop) if reason else None


def one_size_reason(network: SegmentationModel) -> str:
    """Return why a file can take images of one size only; empty if it need not."""
    rule = network.size_rule
    if rule.fixed:
        return f"the network takes only {rule.fixed[0]}x{rule.fixed[1]}"
    return "the network takes squares only" if rule.square else network.one_size


def protocol_for(protocol: Protocol, rule: SizeRule, size: tuple[int, int] | None) -> Protocol:
    """Return the protocol, or one with windows if it gives other sizes than a file's only one."""
    if size is None or (protocol.size == size and not protocol.windows):
        return protocol
    if protocol.windows and protocol.windows.crop == size:
        return protocol
    return fitting(protocol, replace(rule, fixed=size), size)


def settled(values: Sequence[Any]) -> list[float]:
    """Return the numbers of a tensor or list as floats for JSON."""
    return [float(value) for value in values]
