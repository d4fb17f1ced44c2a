"""Predictions as annotations that tools open for correction: the files of `--format`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from segacc.commands.predict.files import Job
from segacc.commands.terminal.console import Where
from segacc.data.atomic import replacing
from segacc.errors import DataError, OptionError, is_too_long
from segacc.settings.commands import PredictConfig

if TYPE_CHECKING:
    import numpy as np

    from segacc.contracts import Reading
    from segacc.labels import LabelMap
    from segacc.labels.annotations.shapes import AnnotatedImage
    from segacc.labels.annotations.writers.parts import Outlines

AddPrediction = Callable[[Job, "np.ndarray[Any, Any]"], None]
"""Writes the prediction (H, W) of an image."""
COCO, YOLO, TASKS, SETTINGS = "coco.json", "yolo", "labelstudio.json", "labelstudio.xml"


def annotation_path(config: PredictConfig) -> Path | None:
    """Return the file or folder of the annotations; None without a format."""
    names = {"coco": COCO, "yolo": YOLO, "labelstudio": TASKS, "labelme": ""}
    return None if config.format is None else config.output_dir / names[config.format]


def refuse_overwriting(config: PredictConfig, jobs: Sequence[Job], where: Where) -> None:
    """Refuse to write annotations that exist, because someone may have corrected them.

    Raises:
        OptionError: one exists.
    """
    path = annotation_path(config)
    files = [job.index.with_suffix(".json") for job in jobs] if config.format == "labelme" else []
    settings = [config.output_dir / SETTINGS] if config.format == "labelstudio" else []
    for found in files or filter(None, [path, *settings]):
        if not is_too_long(found) and found.exists():
            raise OptionError(
                f"{where('output_dir')} {config.output_dir}: {found} exists, and may have been "
                "corrected by hand, so it is not overwritten. Choose another folder, or remove it."
            )


@contextmanager
def annotation_files(
    config: PredictConfig, labels: "LabelMap", reading: "Reading"
) -> Iterator[AddPrediction]:
    """Write predictions in the format of the settings; memory does not grow with the images.

    Files for all images are replaced atomically, at the end.

    Args:
        config: the settings.
        labels: the classes.
        reading: how images are read.

    Yields:
        A function to call with each image and its prediction. It raises a DataError if a tool would
        show the image in another orientation.
    """
    from segacc.labels.annotations.writers.parts import Outlines

    form = "polygons" if config.format == "yolo" else config.shapes
    outlines = Outlines(labels, form, config.tolerance)
    writers = {"coco": _coco, "yolo": _yolo, "labelme": _labelme, "labelstudio": _labelstudio}
    assert config.format is not None
    with writers[config.format](config, outlines) as write:

        def add(job: Job, prediction: "np.ndarray[Any, Any]") -> None:
            if reading.exif == "stored":
                _refuse_turned(job.picture)
            write(job, outlines.image(_name(job, config), prediction.astype("uint8")))

        yield add


Write = Callable[[Job, "AnnotatedImage"], None]


@contextmanager
def _coco(config: PredictConfig, outlines: "Outlines") -> Iterator[Write]:
    from segacc.labels.annotations.writers.coco import write_coco

    with replacing(config.output_dir / COCO) as part, write_coco(part, outlines) as add:
        yield lambda job, image: add(image)


@contextmanager
def _labelstudio(config: PredictConfig, outlines: "Outlines") -> Iterator[Write]:
    from segacc.labels.annotations.writers.labelstudio import (
        labelstudio_settings,
        write_labelstudio,
    )

    path = config.output_dir / TASKS
    with replacing(path) as part, write_labelstudio(part, "predictions") as add:
        yield lambda job, image: add(image)
    _write(config.output_dir / SETTINGS, labelstudio_settings(outlines.classes))


@contextmanager
def _labelme(config: PredictConfig, outlines: "Outlines") -> Iterator[Write]:
    from segacc.labels.annotations.writers.labelme import labelme_text

    yield lambda job, image: _write(job.index.with_suffix(".json"), labelme_text(image))


@contextmanager
def _yolo(config: PredictConfig, outlines: "Outlines") -> Iterator[Write]:
    from segacc.labels.annotations.writers.yolo import yolo_settings, yolo_text

    root, ids = config.output_dir / YOLO, outlines.ids

    def write(job: Job, image: "AnnotatedImage") -> None:
        path = root / "labels" / "train" / job.index.relative_to(config.output_dir)
        _write(path.with_suffix(".txt"), yolo_text(image, ids))

    yield write
    _write(root / "data.yaml", yolo_settings(outlines.classes, {"train": "images/train"}))


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def _name(job: Job, config: PredictConfig) -> str:
    """Return how the file calls an image: by its path in the folder that was given, or a URL.

    For labelme it is the path relative to the JSON file.
    """
    below = job.index.parent.relative_to(config.output_dir) / job.picture.name
    if config.format == "labelme":
        return Path(os.path.relpath(job.picture, job.index.parent)).as_posix()
    if config.format == "labelstudio":
        folder = job.picture.absolute().parents[len(below.parts) - 1]
        return config.image_url + quote((folder.name / below).as_posix())
    return below.as_posix()


def _refuse_turned(picture: Path) -> None:
    from segacc.data.codecs import turn_of

    if (turn := turn_of(picture)) != 1:
        raise DataError(
            f"{picture}: not in the annotations: its EXIF orientation is {turn}, by which tools "
            "rotate it, and the network was trained on images as they are stored (exif=stored)."
        )
