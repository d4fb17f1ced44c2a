"""`segacc predict` and its Python form: segment image files, write predictions and overlays."""

import errno
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.convert.outlines import refuse_unused_outlines
from segacc.commands.predict.annotations import (
    annotation_files,
    annotation_path,
    refuse_overwriting,
)
from segacc.commands.predict.files import (
    AREAS,
    Job,
    areas_file,
    find_pictures,
    refuse_foreign,
    write_ids,
    write_probabilities,
)
from segacc.commands.terminal.console import (
    Where,
    console_of,
    loading,
    progress_bar,
    quiet_libraries,
)
from segacc.errors import DataError, OptionError, listed
from segacc.evaluation.model_folder import Model, find_model, local_model
from segacc.model.exported import runtime_of
from segacc.settings.commands import PredictConfig
from segacc.settings.secrets import shown
from segacc.settings.sources import Layer, config_of, keywords_of
from segacc.training.folders import writable

if TYPE_CHECKING:
    import numpy as np

    from segacc.evaluation.segmenter import Segmenter
    from segacc.labels import LabelMap


OF_A_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of the name of an output file, which others do not share."""


def predict_command(given: str, inputs: Sequence[str], layer: Layer) -> int:
    """Segment images; return 1 if some could not be segmented.

    Args:
        given: the model; see `find_model`.
        inputs: see `find_pictures`.
        layer: the given flags.
    """
    config = config_of(PredictConfig, layer)
    model, jobs, notes = check(given, inputs, config, layer.where)
    console = console_of(stderr=True)
    for note in filter(None, (model.told, *notes)):
        console.out(note, highlight=False)
    with loading(console, "torch and the weights"):
        quiet_libraries()
        segmenter = load_segmenter(model, config, layer.where)
    failed = segment_all(segmenter, jobs, config, console)
    for reason in failed.values():
        sys.stderr.write(shown(f"{reason}\n"))
    console.print(
        f"{len(jobs) - len(failed)} of {len(jobs)} predictions written to {config.output_dir}",
        markup=False,
        highlight=False,
    )
    return 1 if failed else 0


@keywords_of(PredictConfig)
def predict(
    model: str | Path, inputs: str | Path | Sequence[str | Path], **settings: Any
) -> "PredictionResult":
    """Segment image files and write predictions and overlays, as `segacc predict` does.

    A progress bar is shown on a terminal and in a notebook. `Segmenter` segments images in memory.

    Args:
        model: a run folder (its best/), `best/` or `last/` of a run, a checkpoint, any transformers
            folder, or a Hub id.
        inputs: an image file, a folder of images, a pattern such as `photos/*.jpg`, or a list of
            these.
        **settings: the options of `segacc predict`, whose `--help` explains them.

    Raises:
        SegaccError: a setting is invalid, or the network or an input does not exist. An image that
            cannot be read is in `failed` of the result.
    """
    layer = Layer(settings, "segacc.predict")
    config = config_of(PredictConfig, layer)
    if not (given := listed(inputs)):
        raise OptionError("segacc.predict: inputs: no file and no folder is given.")
    if wrong := [one for one in given if not isinstance(one, str | Path)]:
        raise OptionError(
            f"segacc.predict: inputs: {type(wrong[0]).__name__} is not a path; it takes files and "
            "folders. segacc.Segmenter segments images in memory."
        )
    found, jobs, notes = check(str(model), given, config, layer.where)
    segmenter = load_segmenter(found, config, layer.where)
    failed = segment_all(segmenter, jobs, config, console_of(stderr=True))
    done = [job for job in jobs if job.picture not in failed]
    return PredictionResult(
        folder=config.output_dir,
        predictions={job.picture: job.index for job in done},
        overlays={job.picture: job.overlay for job in done if config.overlay},
        probabilities={job.picture: job.probabilities for job in done if config.save_probabilities},
        areas=config.output_dir / AREAS if config.areas else None,
        annotations=annotation_path(config),
        failed=failed,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class PredictionResult:
    """The files that `predict` wrote."""

    folder: Path
    predictions: dict[Path, Path]
    """The PNG of raw label ids of each image."""
    overlays: dict[Path, Path]
    """The overlay of each image; empty with `overlay=False`."""
    probabilities: dict[Path, Path]
    """The class probabilities of each image; empty without `save_probabilities`."""
    areas: Path | None
    """areas.csv; None without `areas`."""
    annotations: Path | None
    """coco.json, labelstudio.json, the folder yolo/, or the one with a JSON of labelme for each
    image; None without `format`."""
    failed: dict[Path, str]
    """Why each of the other images could not be segmented."""
    notes: tuple[str, ...]
    """Lines on skipped files and folders."""

    def __repr__(self) -> str:
        """Return the number of files."""
        count = len(self.predictions)
        told = f"{count} of {count + len(self.failed)} predictions in {self.folder}"
        return f"<PredictionResult: {told}>"


def check(
    given: str, inputs: Sequence[str | Path], config: PredictConfig, where: Where
) -> tuple[Model, list[Job], list[str]]:
    """Check what can be checked without torch.

    Returns:
        The model, the images, and notes on skipped files.

    Raises:
        SegaccError: there is no model, or a folder or an input is invalid.
    """
    refuse_unused_outlines(config, where)
    local_model(given, where("model"), files=True)  # a model of the Hub is fetched last
    folder = writable(config.output_dir, where("output_dir"))
    jobs, notes = find_pictures(inputs, folder, recursive=config.recursive)
    refuse_foreign(config, jobs, where)
    refuse_overwriting(config, jobs, where)
    model = find_model(given, where("model"), files=True)
    runtime_of(model.about, config.runtime, where("runtime"))
    return model, jobs, notes


def load_segmenter(model: Model, config: PredictConfig, where: Where) -> "Segmenter":
    """Load a model with its own protocol and threshold, or the given ones."""
    from segacc.evaluation.protocol import refuse_one_hot
    from segacc.evaluation.protocol_options import check_protocol
    from segacc.evaluation.segmenter import Segmenter, with_settings

    if config.protocol is not None:
        check_protocol(config.protocol, where("protocol"))
    segmenter = Segmenter.from_pretrained(
        model.folder,
        max_pixels=config.max_pixels,
        max_bytes=config.max_bytes,
        runtime=config.runtime,
    )
    if config.save_probabilities:
        refuse_one_hot(segmenter.network, where("save_probabilities"))
    return with_settings(segmenter, config.protocol, config.threshold, where)


def segment_all(
    segmenter: "Segmenter", jobs: Sequence[Job], config: PredictConfig, console: Console
) -> dict[Path, str]:
    """Segment each image; return the errors of those that cannot be read, segmented or written.

    Raises:
        OptionError: the raw label ids do not fit in a PNG.
    """
    refuse_wide(segmenter.labels)
    failed = dict[Path, str]()
    with ExitStack() as stack, progress_bar(console, len(jobs)) as tick:
        areas = areas_file(config.output_dir / AREAS, segmenter.labels.names)
        added = [stack.enter_context(areas)] if config.areas else []
        if config.format:
            annotations = annotation_files(config, segmenter.labels, segmenter.reading)
            added.append(stack.enter_context(annotations))
        for job in jobs:
            tick(description=job.picture.name)
            try:
                job.index.parent.mkdir(parents=True, exist_ok=True)
                prediction = segment(segmenter, job, config)
                for add in added:
                    add(job, prediction)
            except DataError as error:
                failed[job.picture] = str(error)
            except OptionError as error:  # an image size that the network does not support
                failed[job.picture] = f"{job.picture}: {error}"
            except UnicodeEncodeError:  # of areas.csv or annotations
                failed[job.picture] = (
                    f"{job.picture}: its name is not UTF-8, so that no table or annotation can "
                    "name it; rename the file."
                )
            except OSError as error:
                if error.errno not in OF_A_NAME:  # a full disk, at which all others would fail too
                    raise
                failed[job.picture] = f"{job.picture}: its prediction: {error.strerror}."
            tick(advance=1)
    return failed


def refuse_wide(labels: "LabelMap") -> None:
    """Refuse raw label ids that do not fit in 16 bits.

    Raises:
        OptionError: an id is above 65535.
    """
    import numpy as np

    raw = labels.restore(np.arange(len(labels.names)))
    if raw.itemsize > 2:
        raise OptionError(
            f"The network's raw label ids go up to {raw.max()}, but a PNG can hold only 65535. In "
            "Python, segacc.Segmenter returns classes, and its labels.restore converts them to raw "
            "ids."
        )


def segment(segmenter: "Segmenter", job: Job, config: PredictConfig) -> "np.ndarray[Any, Any]":
    """Write the files of one image, and return its prediction (H, W)."""
    from segacc.data.decode import read_image
    from segacc.data.pictures import write_picture

    labels = segmenter.labels
    image = read_image(
        job.picture, str(job.picture), segmenter.network.num_channels, segmenter.reading
    )
    prediction = segmenter.classes_of(image)
    write_ids(labels.restore(prediction), labels, job.index)
    if config.overlay:
        write_picture(segmenter.drawn(image, prediction), job.overlay)
    if config.save_probabilities:
        found = segmenter.probabilities(job.picture, config.save_probabilities)
        write_probabilities(found, labels.names, job.probabilities)
    return prediction
