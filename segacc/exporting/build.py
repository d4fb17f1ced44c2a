"""Build the file of an export: choose sizes and protocol, trace, convert, quantize."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segacc.errors import OptionError, WeightsError
from segacc.evaluation.predict import predict
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.exporting import files
from segacc.exporting.graph import (
    ClassesGraph,
    LogitsGraph,
    least_side,
    one_size_reason,
    protocol_for,
    size_of,
    traced,
)
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.settings.commands import ExportConfig


@dataclass(frozen=True)
class Export:
    """An export whose sizes and protocol are chosen."""

    segmenter: Segmenter
    """The model, under the protocol of the file."""
    config: ExportConfig
    about: dict[str, Any]
    """The description in the file."""
    size: tuple[int, int] | None
    """The one (height, width) of the file's images; None if both may vary."""
    notes: tuple[str, ...]
    """Lines for the user."""
    where: str
    """The model, for errors."""

    def write(self, folder: Path, name: str, calibration: Sequence[Tensor]) -> Path:
        """Trace the network and write the file.

        Args:
            folder: an empty folder.
            name: the name of the file.
            calibration: images (C, H, W) uint8 for `--int8`.

        Raises:
            WeightsError: torch cannot trace or convert the network.
        """
        config, path = self.config, folder / name
        program, about = self.program()
        if config.format == "pt2":
            files.write_pt2(program, path, about)
            return path
        plain = config.format == "onnx" and not config.int8
        onnx = path if plain else folder / "whole.onnx"
        files.write_onnx(program, onnx, about, self.where)
        if config.int8:
            quantized = path if config.format == "onnx" else folder / "quantized.onnx"
            files.quantize(onnx, quantized, list(self.inputs(onnx, calibration)), about)
            onnx = quantized
        if config.format == "openvino":
            with files.quietly():
                files.write_openvino(onnx, path, about, half=config.half)
        for rest in folder.glob("*.onnx*"):
            if not rest.name.startswith(name):
                rest.unlink()
        return path

    def program(self) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
        """Trace the network; return the program and its description."""
        network, half = self.segmenter.network, torch.float32
        if self.config.half and self.config.format != "openvino":
            network, half = network.half(), torch.float16
        if self.config.argmax:
            graph: LogitsGraph = ClassesGraph(self.inside, network, half)
        else:
            graph = LogitsGraph(network, half)
        dtype = getattr(torch, self.about["file"]["input"]["dtype"])
        with files.quietly():
            program, count = traced(graph, self.size, dtype, self.where)
        about = copy.deepcopy(self.about)
        about["file"]["input"]["shape"][0] = count
        if self.size is None and self.config.format == "pt2":  # which refuses smaller images
            least = max(least_side(program), about["size_rule"]["minimum"])
            about["size_rule"]["minimum"] = least
        return program, about

    @property
    def inside(self) -> Protocol:
        """The protocol that a file which returns classes carries out."""
        return self.segmenter.protocol

    def inputs(self, onnx: Path, images: Sequence[Tensor]) -> Iterator[Any]:
        """Yield what a file gets to segment some images, as numpy arrays."""
        one = Segmenter.from_pretrained(onnx, "cpu")
        for image in images:
            seen = list[Any]()

            def forward(crop: Tensor, seen: list[Any] = seen) -> Logits:
                seen.append(one.network.pixels(crop).numpy())  # type: ignore[operator]
                found: Logits = one.network(crop)
                return found

            predict(forward, one.network, image, one.protocol)
            yield from seen


def planned(
    segmenter: Segmenter,
    side: dict[str, Any],
    facts: dict[str, Any],
    config: ExportConfig,
    where: Any,
    name: str,
) -> Export:
    """Choose the sizes and the protocol of a file.

    Args:
        segmenter: the model on the CPU, with the protocol that the user gave, if any.
        side: segacc.json of its folder; empty if it has none.
        facts: the facts of its run.
        config: the settings.
        where: says where a setting was typed.
        name: the model, for errors.

    Raises:
        OptionError: a setting does not fit the network.
        WeightsError: the network cannot be exported.
    """
    network, crop = segmenter.network, tuple(facts["crop_size"])
    if network.no_export:
        raise WeightsError(f"{name}: {segmenter.arch} cannot be exported: {network.no_export}.")
    notes = list[str]()
    if config.argmax:
        size = size_inside(segmenter, config, crop, where)
        protocol, rule = segmenter.protocol, SizeRule(fixed=size)
    else:
        size = size_of(segmenter, config.size, crop, where("size"))
        protocol = segmenter.protocol
        if config.protocol is None:
            protocol = protocol_for(protocol, network.size_rule, size)
        rule = replace(network.size_rule, fixed=size)
    if size:
        why = one_size_reason(network)
        told = f" ({why})" if why and config.size is None else ""
        notes.append(f"the file takes images of {size[0]}x{size[1]} only{told}")
    if protocol != segmenter.protocol:
        notes.append(f"its protocol is {protocol.text()}, not {segmenter.protocol.text()}")
    about = files.described(
        segmenter,
        side,
        facts=facts,
        protocol=protocol,
        size=size,
        rule=rule,
        dtype=config.input or ("float32" if protocol.pad and not config.argmax else "uint8"),
        precision=config.precision,
        classes=config.argmax,
    )
    segmenter = segmenter.with_protocol(protocol)
    return Export(segmenter, config, about, size, tuple(notes), name)


def size_inside(
    segmenter: Segmenter, config: ExportConfig, crop: tuple[int, ...], where: Any
) -> tuple[int, int] | None:
    """Return the one (height, width) of the images of a file that returns classes, or None.

    Raises:
        OptionError: the protocol has windows, views or a threshold, or the sizes do not fit.
    """
    protocol, network, asked = segmenter.protocol, segmenter.network, config.size
    if protocol.windows or len(protocol.views) > 1 or protocol.scales != (1.0,):
        raise OptionError(
            f"{where('argmax')}: the protocol {protocol.text()} needs several passes of the "
            "network, which a file that returns classes does not make. Give a protocol of whole "
            "images, such as --protocol whole:size=HEIGHTxWIDTH, or leave --argmax out."
        )
    if protocol.threshold != Protocol.threshold:
        raise OptionError(
            f"{where('argmax')}: the protocol {protocol.text()} has a threshold, which needs "
            "probabilities. Leave --argmax out."
        )
    reason = one_size_reason(network)
    varies = protocol.size is not None or not reason
    if asked is None:
        asked = "dynamic" if varies else network.size_rule.fit((crop[0], crop[1]))
    if asked == "dynamic":
        if not varies:
            raise OptionError(
                f"{where('size')}: dynamic: the network takes images of one size in a file: "
                f"{reason}. Give a size, or --protocol whole:size=HEIGHTxWIDTH."
            )
        resized = protocol.short_side and (protocol.pad or protocol.long_side)
        if resized or (protocol.pad and config.format == "pt2"):
            how = "resized and padded in a file" if resized else "padded in a pt2 file"
            raise OptionError(
                f"{where('argmax')}: images of any size cannot be {how} as {protocol.text()} does. "
                "Give one size with --size HEIGHTxWIDTH."
            )
    size = None if asked == "dynamic" else asked
    if size or protocol.size:
        refuse_inside(network, protocol, size or (1, 1), where)
    return size


def refuse_inside(
    network: SegmentationModel, protocol: Protocol, size: tuple[int, int], where: Any
) -> None:
    """Refuse a size whose images, resized and padded, do not fit the network.

    Raises:
        OptionError: they do not.
    """
    seen = protocol.padded(protocol.seen_size(size), network.size_rule)
    if complaint := network.size_rule.complaint(seen):
        height, width = network.size_rule.fit(seen)
        raise OptionError(
            f"{where('size')}: the network {complaint}, but the protocol {protocol.text()} gives "
            f"{seen[0]}x{seen[1]}. Use --protocol whole:size={height}x{width}."
        )
