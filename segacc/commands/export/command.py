"""`segacc export` and its Python form: write a file of another runtime, and prove it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.export.images import Images, files_of, images_of, with_run
from segacc.commands.terminal.console import (
    Where,
    console_of,
    loading,
    quiet_libraries,
    text_of,
)
from segacc.data.atomic import replacing, writing
from segacc.errors import OptionError, WeightsError
from segacc.evaluation.model_folder import Model, find_model, side_file
from segacc.model.exported import SUFFIXES, need
from segacc.settings.commands import ExportConfig
from segacc.settings.sources import Layer, config_of, keywords_of
from segacc.training.folders import writable

if TYPE_CHECKING:
    from segacc.exporting.build import Export
    from segacc.exporting.gate import Proof

NEEDED: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "pt2": (),
}
"""The packages that write and run a format."""


def export_command(given: str, layer: Layer) -> int:
    """Export a model, print the proof; return 1 if the file does not pass.

    Args:
        given: the model; see `find_model`.
        layer: the given flags.
    """
    checked = check(given, layer)
    console = console_of()
    if checked.model.told:
        console.out(checked.model.told, highlight=False)
    result = run(checked, layer.where, console)
    result.show(console)
    return 0 if result.passed else 1


@keywords_of(ExportConfig)
def export(model: str | Path, **settings: Any) -> "ExportResult":
    """Export a model to a file of another runtime, as `segacc export` does, and prove it.

    Args:
        model: a run folder (its best/), `best/` or `last/` of a run, a checkpoint, any transformers
            folder, or a Hub id.
        **settings: the options of `segacc export`, whose `--help` explains them.

    Raises:
        SegaccError: a setting is invalid, the model cannot be exported, or the file does not
            predict what the model predicts.
    """
    layer = Layer(settings, "segacc.export")
    result = run(check(str(model), layer), layer.where, console_of(stderr=True))
    if not result.passed:
        raise WeightsError(result.failure)
    return result


@dataclass(frozen=True)
class Checked:
    """An export whose settings were checked, before torch is imported."""

    model: Model
    config: ExportConfig
    images: Images
    calibration: tuple[Path, ...]
    """The image files of `--int8`."""
    path: Path
    """The file to write."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An exported file and its proof; `print` shows it as `segacc export` does."""

    path: Path
    """The file; if it failed, in a folder of its name and `.failed`."""
    passed: bool
    failure: str
    """Why it failed, in one paragraph; empty if it passed."""
    report: dict[str, Any] = field(repr=False)
    """The content of FILE.json."""
    proof: "Proof" = field(repr=False)

    def show(self, console: Console) -> None:
        """Print the proof."""
        for line in table(self.proof):
            console.out(line, highlight=False)
        mebibytes = self.report["bytes"] / 2**20
        told = f"written to {self.path} ({mebibytes:.1f} MiB), with the proof in {self.path}.json"
        console.out(self.failure or told, highlight=False)

    def __str__(self) -> str:
        """Return the proof as text."""
        return text_of(self.show)


def check(given: str, layer: Layer) -> Checked:
    """Check what can be checked without torch.

    Raises:
        SegaccError: a setting is invalid, a package is missing, or there is no model.
    """
    where = layer.where
    values = with_run(given, layer)
    absent = () if "dataset" in values else ("dataset",)
    config = config_of(ExportConfig, replace(layer, values=values), but=absent)
    refuse(config, where)
    need(NEEDED[config.format], f"{where('format')} {config.format}")
    if config.int8:
        need(("onnxruntime",), where("int8"))
    model = find_model(given, where("model"))
    path = output_of(model, config, where)
    images = images_of(given, layer, config, path.parent, what="prove the file")
    calibration = files_of([str(config.int8)], path.parent) if config.int8 else ()
    return Checked(model, config, images, calibration, path)


def refuse(config: ExportConfig, where: Where) -> None:
    """Refuse settings that exclude each other.

    Raises:
        OptionError: they do.
    """
    if config.int8 and config.half:
        raise OptionError(f"{where('int8')}: excludes {where('half')}; give one of them.")
    if config.int8 and config.format == "pt2":
        raise OptionError(
            f"{where('int8')}: pt2 files are not quantized; torchao and ExecuTorch quantize them "
            f"for each device. Leave it out, or give {where('format')} onnx or openvino."
        )


def output_of(model: Model, config: ExportConfig, where: Where) -> Path:
    """Return the file to write: `best.onnx` beside `best/`, or as the user gave it.

    Raises:
        OptionError: it has another ending, or cannot be written.
    """
    suffix = SUFFIXES[config.format]
    if config.output:
        if config.output.suffix != suffix:
            raise OptionError(
                f"{where('output')}: {config.output}: a file of the format {config.format} ends in "
                f"{suffix}."
            )
        writable(config.output.parent, where("output"))
        return config.output
    kinds = {"argmax": config.argmax, "half": config.half, "int8": config.int8}
    name = "-".join([Path(model.name).resolve().name, *(key for key, on in kinds.items() if on)])
    above = Path() if model.on_hub else model.folder.resolve().parent
    above = model.folder.parent if above == model.folder.parent.resolve() else above
    writable(above, "MODEL")
    return above / f"{name}{suffix}"


def run(checked: Checked, where: Where, console: Console) -> ExportResult:
    """Write the file and prove it.

    Raises:
        SegaccError: it cannot be written, or an image of the proof cannot be read.
    """
    config, path = checked.config, checked.path
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with writing(path):
        part.mkdir(parents=True)
        try:
            with loading(console, "torch and the weights"):
                quiet_libraries()
                from segacc.evaluation.segmenter import Segmenter
                from segacc.exporting.gate import compare

                export = planned_of(checked, where)
                pictures = list(checked.images.pictures(export.segmenter, config.num_images))
            for note in export.notes:
                console.out(note, highlight=False)
            with console.status("Writing the file ..."):
                made = write(checked, export, part, where)
            with console.status("Predicting real images with the file and with torch ..."):
                written = Segmenter.from_pretrained(made, "cpu")
                if not config.argmax:  # both pad to the least size of the file
                    export.segmenter.network.size_rule = written.network.size_rule
                proof = compare(pictures, export.segmenter, written, config.precision)
            return finished(checked, export, proof, made)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def planned_of(checked: Checked, where: Where) -> "Export":
    """Load the model, and choose the sizes and the protocol of the file."""
    from dataclasses import asdict

    from segacc.evaluation.protocol_options import check_protocol
    from segacc.evaluation.segmenter import Segmenter, facts_of, with_settings
    from segacc.exporting.build import planned

    model, config = checked.model, checked.config
    if config.protocol is not None:
        check_protocol(config.protocol, where("protocol"))
    segmenter = Segmenter.from_pretrained(model.folder, "cpu")
    segmenter = with_settings(segmenter, config.protocol, None, where)
    side = side_file(model.about)
    facts = side.get("facts") or asdict(facts_of(model.about))
    return planned(segmenter, side, facts, config, where, model.name)


def write(checked: Checked, export: "Export", part: Path, where: Where) -> Path:
    """Write the file into a folder; the network in torch stays as it is."""
    from segacc.data.decode import read_image

    segmenter = export.segmenter
    channels, reading = segmenter.network.num_channels, segmenter.reading
    images = [read_image(path, str(path), channels, reading) for path in checked.calibration]
    if checked.config.half and checked.config.format != "openvino":  # which rounds its weights
        export = planned_of(checked, where)
    return export.write(part, checked.path.name, images)


def finished(checked: Checked, export: "Export", proof: "Proof", made: Path) -> ExportResult:
    """Move the file to its place, or to one whose name says that it failed; write FILE.json."""
    path, failure = checked.path, proof.failure
    folder = path.parent
    failed = path.with_name(f"{path.name}.failed")
    shutil.rmtree(failed, ignore_errors=True)
    if failure:
        folder = failed
        folder.mkdir()
    written = sorted(made.parent.iterdir())
    for file in written:
        file.replace(folder / file.name)
    target = folder / path.name
    size = sum((folder / file.name).stat().st_size for file in written)
    report = {
        "file": target.name,
        "bytes": size,
        "model": checked.model.name,
        "format": checked.config.format,
        "images": checked.images.text,
        **export.about["file"],
        **proof.to_dict(),
    }
    with replacing(folder / f"{target.name}.json") as part:
        part.write_text(json.dumps(report, indent=1), encoding="utf-8")
    told = ""
    if failure:
        told = f"{path}: not exported: {failure} What was written is in {failed}."
    return ExportResult(path=target, passed=not failure, failure=told, report=report, proof=proof)


def table(proof: "Proof") -> Sequence[str]:
    """Return the lines of a proof: shares of equal pixels, and scores of torch and of the file."""
    worst = proof.worst
    lines = [
        f"{len(proof.images)} images: {100 * proof.equal:.4f} % of the pixels have the same class "
        f"in the file ({proof.precision}) as in torch",
        f"  worst image  {worst.id}: {100 * worst.equal:.4f} %",
    ]
    gap = max(one.gap for one in proof.images)
    if gap == gap:
        largest = max(one.largest for one in proof.images)
        lines.append(f"  logits       differ by up to {gap:.3g}; the largest is {largest:.3g}")
    before, after = proof.mean_iou("torch"), proof.mean_iou("file")
    if before is not None and after is not None:
        lines.append(f"  mean_iou     torch {before:.4f}, file {after:.4f}")
        if proof.precision == "int8":
            rows = zip(proof.names, proof.iou("torch"), proof.iou("file"), strict=True)
            lines += [f"    {n:<24} {a:.4f}  {b:.4f}  {b - a:+.4f}" for n, a, b in rows if a == a]
    return lines
