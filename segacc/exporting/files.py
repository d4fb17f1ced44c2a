"""Write traced graphs as ONNX, OpenVINO and torch files, with their description inside."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from segacc.contracts import VERSION
from segacc.errors import WeightsError
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.exporting.graph import first_words, settled
from segacc.model import SizeRule
from segacc.model.exported import SIDE_FILE
from segacc.model.transfer import extend

IMAGES, LOGITS, CLASSES = "images", "logits", "classes"
"""Names of the input and of the two kinds of output."""


def described(
    segmenter: Segmenter,
    side: dict[str, Any],
    *,
    facts: dict[str, Any],
    protocol: Protocol,
    size: tuple[int, int] | None,
    rule: SizeRule,
    dtype: str,
    precision: str,
    classes: bool,
) -> dict[str, Any]:
    """Return what a file says of itself: the content of segacc.json, and `file`.

    Segmenter, side and facts are those of `planned`; the rest is that of the file, where `size` is
    None if height and width may vary, and `classes` means that it returns classes, not logits.
    """
    network, labels = segmenter.network, segmenter.labels
    channels = network.num_channels
    mean, std = (settled(extend(one, channels)) for one in (network.mean, network.std))
    color = (torch.tensor(mean) * 255).tolist()
    if network.channel_order == "bgr":
        color = [*color[:3][::-1], *color[3:]]
    meaning = {
        CLASSES: "(N, H, W) uint8: index of the class of each pixel, at the size of the images",
        LOGITS: "(N, K, h, w) float32: resize to the size of the images, then argmax over K",
    }
    shape = ["N", channels, *(size or ("H", "W"))]
    return {
        **{key: side[key] for key in ("step", "plugin", "terms", "scores") if key in side},
        "segacc_version": VERSION,
        "architecture": side.get("architecture", {"name": segmenter.arch}),
        "facts": facts,
        "labels": labels.to_dict(),
        "bits": segmenter.reading.bits,
        "protocol": (Protocol() if classes else protocol).text(),
        "size_rule": asdict(rule),
        "normalization": {"mean": mean, "std": std, "channel_order": network.channel_order},
        "file": {
            "input": {
                "name": IMAGES,
                "dtype": dtype,
                "shape": shape,
                "meaning": "pixels of 0..255, RGB; the file normalizes them",
                "padding": color,
            },
            "output": {
                "name": CLASSES if classes else LOGITS,
                "meaning": meaning[CLASSES if classes else LOGITS],
            },
            "protocol": protocol.text(),
            "probabilities": network.probabilities,
            "precision": precision,
        },
    }


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, about: dict[str, Any], where: str
) -> None:
    """Write a traced graph as ONNX, with its description in the file.

    Raises:
        WeightsError: torch cannot convert it.
    """
    output = about["file"]["output"]["name"]
    try:
        with quietly():
            found: Any = torch.onnx.export(
                program, dynamo=True, input_names=[IMAGES], output_names=[output], verbose=False
            )
    except Exception as error:  # see `traced`
        raise WeightsError(
            f"{where}: torch.onnx cannot convert the network: {first_words(error)}."
        ) from error
    found.model.metadata_props[SIDE_FILE] = json.dumps(about)
    found.save(path)


def write_pt2(program: torch.export.ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    """Write a traced graph as torch.export does, with its description in the file."""
    torch.export.save(program, path, extra_files={SIDE_FILE: json.dumps(about)})


def write_openvino(onnx: Path, path: Path, about: dict[str, Any], *, half: bool) -> None:
    """Convert an ONNX file to OpenVINO: an .xml file, and a .bin file of weights beside it."""
    import openvino

    model = openvino.convert_model(onnx)
    model.set_rt_info(json.dumps(about), ["segacc"])
    openvino.save_model(model, path, compress_to_fp16=half)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the warnings and messages of converters, which are for their authors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantize(onnx: Path, path: Path, inputs: Sequence[Any], about: dict[str, Any]) -> None:
    """Quantize an ONNX file to 8-bit integers with the ranges that some inputs give (QDQ).

    Args:
        onnx: the file of float32.
        path: the file to write.
        inputs: the inputs (N, C, H, W) to run, as numpy arrays.
        about: the description of the new file.
    """
    import onnx as library
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.rest, None)
            return None if found is None else {IMAGES: found}

    ready = path.with_name("prepared.onnx")
    with quietly():
        quant_pre_process(onnx, ready, skip_symbolic_shape=True)
        quantization.quantize_static(
            ready,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    ready.unlink()
    model = library.load(path)
    library.helper.set_model_props(model, {SIDE_FILE: json.dumps(about)})
    library.save(model, path)
