"""The formats of `segacc convert`: where images and labels go, and who writes them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from segacc.commands.predict.files import write_ids
from segacc.contracts import IGNORE
from segacc.labels import LabelMap
from segacc.labels.annotations.writers.coco import write_coco
from segacc.labels.annotations.writers.cvat import cvat_labels, write_cvat
from segacc.labels.annotations.writers.labelme import labelme_text
from segacc.labels.annotations.writers.labelstudio import labelstudio_settings, write_labelstudio
from segacc.labels.annotations.writers.parts import Add, Outlines
from segacc.labels.annotations.writers.yolo import yolo_settings, yolo_text

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
AddLabel = Callable[[str, str, Pixels], None]
"""Writes the label (H, W) of an image, after the split and the file name of the image."""


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
    write: Callable[[Target], AbstractContextManager[AddLabel]]
    """Writes the labels."""
    beside: Callable[[Target, Sequence[str]], Mapping[str, str]]
    """Returns the text files beside the splits of these names, after the labels are written."""
    next_step: str
    """What the user does with the folder TARGET."""


@contextmanager
def _folder(target: Target) -> Iterator[AddLabel]:
    labels = target.outlines.labels
    plain = LabelMap.plain(labels.names, palette=labels.palette)

    def add(split: str, name: str, label: Pixels) -> None:
        path = target.root / "annotations" / split / name
        write_ids(label, plain, path.with_suffix(".png"))

    yield add


@contextmanager
def _coco(target: Target) -> Iterator[AddLabel]:
    def opened(split: str) -> AbstractContextManager[Add]:
        path = target.root / "annotations" / f"instances_{split}.json"
        return write_coco(made(path), target.outlines)

    with _of_each_split(opened) as writer:

        def add(split: str, name: str, label: Pixels) -> None:
            writer(split)(target.outlines.image(name, label))

        yield add


@contextmanager
def _labelstudio(target: Target) -> Iterator[AddLabel]:
    def opened(split: str) -> AbstractContextManager[Add]:
        return write_labelstudio(made(target.root / split / "tasks.json"), "annotations")

    with _of_each_split(opened) as writer:

        def add(split: str, name: str, label: Pixels) -> None:
            url = target.image_url + quote(f"{split}/images/{name}")
            writer(split)(target.outlines.image(url, label))

        yield add


@contextmanager
def _of_each_split(
    opened: Callable[[str], AbstractContextManager[Add]],
) -> Iterator[Callable[[str], Add]]:
    """Open the file of each split when its first image is written, and close all at the end."""
    writers = dict[str, Add]()
    with ExitStack() as stack:

        def writer(split: str) -> Add:
            if split not in writers:
                writers[split] = stack.enter_context(opened(split))
            return writers[split]

        yield writer


@contextmanager
def _cvat(target: Target) -> Iterator[AddLabel]:
    with write_cvat(target.root / "annotations.xml", target.outlines) as write:
        yield lambda split, name, label: write(
            target.outlines.image(f"{split}/{name}", label), split
        )


@contextmanager
def _labelme(target: Target) -> Iterator[AddLabel]:
    def add(split: str, name: str, label: Pixels) -> None:
        path = made((target.root / split / name).with_suffix(".json"))
        path.write_text(labelme_text(target.outlines.image(name, label)), encoding="utf-8")

    yield add


@contextmanager
def _yolo(target: Target) -> Iterator[AddLabel]:
    outlines = target.outlines

    def add(split: str, name: str, label: Pixels) -> None:
        path = made((target.root / "labels" / split / name).with_suffix(".txt"))
        path.write_text(yolo_text(outlines.image(name, label), outlines.ids), encoding="utf-8")

    yield add


def _classes_json(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    labels = target.outlines.labels
    names = {str(k): name for k, name in enumerate(labels.names)}
    content = {"id2label": names, "palette": labels.palette, "ignore_index": IGNORE}
    return {"classes.json": json.dumps(content, indent=1, ensure_ascii=False)}


def _data_yaml(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    keys = {"validation": "val"}
    folders = {keys.get(split, split): f"images/{split}" for split in splits}
    return {"data.yaml": yolo_settings(target.outlines.classes, folders)}


def _labels_txt(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    return {"labels.txt": "".join(f"{name}\n" for name in target.outlines.classes)}


def _labels_json(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    return {"labels.json": cvat_labels(target.outlines.classes)}


def _config_xml(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    classes = target.outlines.classes
    listed = "".join(f"{name}\n" for name in classes)
    return {"config.xml": labelstudio_settings(classes), "classes.txt": listed}


def _nothing(target: Target, splits: Sequence[str]) -> Mapping[str, str]:
    return {}


def made(path: Path) -> Path:
    """Create the folder of a file; return the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


LAYOUTS = {
    "folder": Layout(
        "images/{split}", _folder, _classes_json, "train with `segacc train --dataset TARGET`"
    ),
    "coco": Layout("images/{split}", _coco, _nothing, "annotations/ has a file for each split"),
    "yolo": Layout("images/{split}", _yolo, _data_yaml, "TARGET/data.yaml lists the classes"),
    "labelme": Layout(
        "{split}",
        _labelme,
        _labels_txt,
        "open it with `labelme TARGET/SPLIT --labels TARGET/labels.txt`",
    ),
    "cvat": Layout(
        "images/{split}",
        _cvat,
        _labels_json,
        "create a task with the labels of labels.json (tab Raw) and a zip of images/, then upload "
        "annotations.xml as CVAT 1.1",
    ),
    "labelstudio": Layout(
        "{split}/images",
        _labelstudio,
        _config_xml,
        "create a project with config.xml, serve the images, and import SPLIT/tasks.json",
    ),
}
"""The layout of each format by its name."""
