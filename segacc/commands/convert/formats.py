"""The formats of `segacc convert`: where images and labels go, and who writes them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from segacc.labels.annotations.writers.coco import write_coco
from segacc.labels.annotations.writers.cvat import cvat_labels, write_cvat
from segacc.labels.annotations.writers.labelme import labelme_text
from segacc.labels.annotations.writers.labelstudio import labelstudio_settings, write_labelstudio
from segacc.labels.annotations.writers.parts import Add, Outlines
from segacc.labels.annotations.writers.yolo import yolo_settings, yolo_text

if TYPE_CHECKING:
    import numpy as np

AddLabel = Callable[[str, "np.ndarray[Any, np.dtype[np.uint8]]"], None]
"""Writes the label (H, W) of an image, whose file name is given."""


@dataclass(frozen=True)
class Target:
    """A new folder with the files of a format."""

    root: Path
    outlines: Outlines
    image_url: str
    """What precedes the path of an image in its URL; for Label Studio."""


@dataclass(frozen=True)
class Layout:
    """How a format is laid out."""

    images: str
    """Folder of the images of a split."""
    split: Callable[[Target, str], AbstractContextManager[AddLabel]]
    """Writes the labels of a split."""
    end: Callable[[Target, Sequence[str]], Mapping[str, str]]
    """Returns the text files beside the splits of these names."""
    next_step: str
    """What the user does with the folder TARGET."""


@contextmanager
def _folder(target: Target, split: str) -> Iterator[AddLabel]:
    from segacc.commands.predict.files import write_ids

    def add(name: str, label: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        path = target.root / "annotations" / split / Path(name).with_suffix(".png").name
        write_ids(label, target.outlines.labels, path)

    yield add


def _classes_json(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    labels = target.outlines.labels
    names = {str(k): name for k, name in enumerate(labels.names)}
    content = {"id2label": names, "palette": labels.palette, "ignore_index": 255}
    return {"classes.json": json.dumps(content, indent=1, ensure_ascii=False)}


@contextmanager
def _single(
    opened: AbstractContextManager[Add], target: Target, called: Callable[[str], str] = str
) -> Iterator[AddLabel]:
    """Write the labels of a split into one file, which calls an image by `called(name)`."""
    with opened as write:
        yield lambda name, label: write(target.outlines.image(called(name), label))


def _coco(target: Target, split: str) -> AbstractContextManager[AddLabel]:
    path = made(target.root / "annotations" / f"instances_{split}.json")
    return _single(write_coco(path, target.outlines), target)


def _cvat(target: Target, split: str) -> AbstractContextManager[AddLabel]:
    path = made(target.root / split / "annotations.xml")
    return _single(write_cvat(path, target.outlines), target)


def _labelstudio(target: Target, split: str) -> AbstractContextManager[AddLabel]:
    def url(name: str) -> str:
        return target.image_url + quote(f"images/{split}/{name}")

    path = target.root / f"tasks_{split}.json"
    return _single(write_labelstudio(path, "annotations"), target, url)


@contextmanager
def _labelme(target: Target, split: str) -> Iterator[AddLabel]:
    def add(name: str, label: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        path = made((target.root / split / name).with_suffix(".json"))
        path.write_text(labelme_text(target.outlines.image(name, label)), encoding="utf-8")

    yield add


@contextmanager
def _yolo(target: Target, split: str) -> Iterator[AddLabel]:
    outlines = target.outlines

    def add(name: str, label: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        path = made((target.root / "labels" / split / name).with_suffix(".txt"))
        path.write_text(yolo_text(outlines.image(name, label), outlines.ids), encoding="utf-8")

    yield add


def _data_yaml(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    keys = {"validation": "val"}
    folders = {keys.get(split, split): f"images/{split}" for split in splits}
    return {"data.yaml": yolo_settings(target.outlines.classes, folders)}


def _labels_txt(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    names = ["__ignore__", "_background_", *target.outlines.classes]
    return {"labels.txt": "".join(f"{name}\n" for name in names)}


def _labels_json(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    return {"labels.json": cvat_labels(target.outlines.classes)}


def _config_xml(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    return {"config.xml": labelstudio_settings(target.outlines.classes)}


def _nothing(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    return {}


def made(path: Path) -> Path:
    """Create the folder of a file; return the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


LAYOUTS = {
    "folder": Layout(
        images="images/{split}",
        split=_folder,
        end=_classes_json,
        next_step="train with `segacc train --dataset TARGET`",
    ),
    "coco": Layout(
        images="images/{split}",
        split=_coco,
        end=_nothing,
        next_step="annotations/instances_SPLIT.json is the file of each split",
    ),
    "yolo": Layout(
        images="images/{split}",
        split=_yolo,
        end=_data_yaml,
        next_step="TARGET/data.yaml describes the data set",
    ),
    "labelme": Layout(
        images="{split}",
        split=_labelme,
        end=_labels_txt,
        next_step="open it with `labelme TARGET/SPLIT --labels TARGET/labels.txt --nodata`",
    ),
    "cvat": Layout(
        images="{split}/images",
        split=_cvat,
        end=_labels_json,
        next_step="create a task with the labels of labels.json (tab Raw) and a split's images, "
        "then upload its annotations.xml as `CVAT 1.1`",
    ),
    "labelstudio": Layout(
        images="images/{split}",
        split=_labelstudio,
        end=_config_xml,
        next_step="create a project with config.xml, serve the images, and import tasks_SPLIT.json",
    ),
}
"""The layout of each format by its name."""
