"""Checks that `segacc export` writes an architecture's network, or that it says why it cannot."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from segacc.data.order import seeded
from segacc.evaluation.protocol import default_protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.exporting.build import planned
from segacc.exporting.gate import Picture, Proof, compare
from segacc.hookspecs import Architecture
from segacc.labels import LabelMap
from segacc.model import SegmentationModel
from segacc.model.exported import SUFFIXES, traced_session
from segacc.model.exported_model import ExportedModel
from segacc.settings.commands import ExportConfig
from segacc.testing.network import Subject, subject_of
from segacc.testing.tools import attempt, naming, require, some_images


def check_export(
    record: Architecture,
    *options: Any,
    format: Literal["onnx", "openvino", "pt2"] = "onnx",
    declared: bool = True,
    saved: bool = True,
) -> None:
    """Check that a file of an architecture's network predicts what the network predicts.

    Images of several sizes are segmented by both, as `segacc export` does. A network whose file
    takes images of one size declares it by `one_size`, and one that cannot be exported by
    `no_export`; then it must fail without the declaration.

    Args:
        record: the record that the hook returns.
        options: options of the networks to check, one after the other; default `record.tiny()`.
        format: the format of the file.
        declared: False to skip the check that a declaration of `one_size` is needed.
        saved: False to check what torch.export traces, without a file, in half of the time of pt2.

    Raises:
        AssertionError: a check failed; the message says what was expected and found.
    """
    for one in options or (record.tiny(),):
        with seeded(0), naming(record, one):
            subject = subject_of(record, one)
            network = subject.build()
            if network.no_export:
                expected = f"no file, as no_export says ({network.no_export})"
                network.no_export = ""
                require(not works(subject, network, format), expected, "one that passes")
                continue
            with attempt("the network to be exported"):
                proof = proof_of(subject, network, format if saved else "")
            expected = "a file that predicts what the network does"
            require(not proof.failure, expected, proof.failure.rstrip("."))
            if declared and network.one_size:
                told, network = network.one_size, subject.build()
                network.one_size = ""
                expected = f"no file for images of all sizes, as one_size says ({told})"
                require(not works(subject, network, format), expected, "one that passes")


def works(subject: Subject, network: SegmentationModel, format: Any) -> bool:
    """Return whether a file passes, though the network declares that it does not."""
    try:
        return not proof_of(subject, network, format).failure
    except Exception:  # torch, converters and runtimes may raise anything
        return False


def proof_of(subject: Subject, network: SegmentationModel, format: Any) -> Proof:
    """Export the network to a temporary file, and compare both on images of several sizes.

    Without a format, compare what torch.export traces for pt2.
    """
    labels = LabelMap.plain(subject.facts.class_names)
    protocol = default_protocol(network, subject.size)
    segmenter = Segmenter(network, labels, protocol, arch=subject.record.name)
    config, facts = ExportConfig(format=format or "pt2"), asdict(subject.facts)
    told = planned(segmenter, {}, facts, config, str, subject.record.name)
    if not format:
        program, about = told.program()
        session = traced_session(program, subject.record.name)
        traced = Segmenter(ExportedModel(session, about), labels, told.segmenter.protocol)
        return compare(pictures(subject), told.segmenter, traced, "float32")
    with TemporaryDirectory() as folder:
        path = told.write(Path(folder), f"network{SUFFIXES[format]}", [])
        file = Segmenter.from_pretrained(path, "cpu")
        return compare(pictures(subject), told.segmenter, file, "float32")


def pictures(subject: Subject) -> Iterator[Picture]:
    """Yield images of noise of several sizes, odd ones too."""
    height, width = subject.size
    for number, (more, wider) in enumerate(((0, 0), (37, 91), (96, 5))):
        size = (height + more, width + wider)
        yield Picture(f"{size[0]}x{size[1]}", some_images(size, count=1, seed=number)[0])
