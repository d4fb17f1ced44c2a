"""What is written for annotation tools, read by other means: their libraries, or their rules."""

import base64
import contextlib
import io
import json
import tracemalloc
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from segacc.contracts import IGNORE
from segacc.errors import DataError
from segacc.labels import LabelMap
from segacc.labels.annotations.polygons import Form
from segacc.labels.annotations.writers.coco import write_coco
from segacc.labels.annotations.writers.cvat import cvat_labels, write_cvat
from segacc.labels.annotations.writers.labelme import labelme_text
from segacc.labels.annotations.writers.labelstudio import (
    encoded,
    labelstudio_settings,
    write_labelstudio,
)
from segacc.labels.annotations.writers.parts import Outlines
from segacc.labels.annotations.writers.yolo import yolo_settings, yolo_text

NAMES = ("road", "Background", "sky & <sea>", "tree")
COLORS = ((1, 2, 3), (0, 0, 0), (255, 128, 0), (0, 255, 16))
LISTED = ["road", "sky & <sea>", "tree"]
"""The classes in a file: all but the background."""
SIZE = (37, 53)


def label_of(seed: int, *, ignored: bool = True) -> Any:
    """Draw regions in blocks, with a hole and ignored pixels; values are classes."""
    random = np.random.default_rng(seed)
    label = np.kron(random.integers(0, 4, (13, 14)), np.ones((3, 4), int))[: SIZE[0], : SIZE[1]]
    label[4:20, 5:30], label[8:14, 10:22] = 2, 0
    label[30:34, 3:50] = IGNORE if ignored else 1
    return label.astype(np.uint8)


def outlines(form: Form = "mixed") -> Outlines:
    return Outlines(LabelMap.plain(NAMES, palette=COLORS), form, 0.0)


def drawn(parts: Iterator[tuple[str, Any]]) -> Any:
    """Draw pixels (H, W) of classes over a background; the ignored ones become 255."""
    values = {name: k for k, name in enumerate(NAMES)} | {"__ignore__": IGNORE}
    label = np.full(SIZE, 1, np.uint8)
    for name, pixels in parts:
        label[pixels] = values[name]
    return label


def filled(corners: Any) -> Any:
    """Draw a polygon by pycocotools."""
    rle = coco_mask.frPyObjects([np.ravel(corners).tolist()], *SIZE)
    return coco_mask.decode(rle)[..., 0] == 1


@pytest.mark.parametrize("form", ["mixed", "polygons", "masks"])
def test_coco_is_read_by_pycocotools(tmp_path: Path, form: Form) -> None:
    labels = [label_of(seed) for seed in range(3)]
    found = outlines(form)
    with write_coco(tmp_path / "a.json", found) as add:
        for number, label in enumerate(labels):
            add(found.image(f"{number} é.jpg", label))
    with contextlib.redirect_stdout(io.StringIO()):
        file = COCO(tmp_path / "a.json")
    assert [(one["id"], one["name"]) for one in file.dataset["categories"]] == [
        *enumerate(LISTED, 1),
        (4, "__ignore__"),
    ]
    for number, label in enumerate(labels):
        image = file.imgs[number + 1]
        assert image["file_name"] == f"{number} é.jpg"
        assert (image["height"], image["width"]) == SIZE
        entries = file.imgToAnns[number + 1]
        masks = [file.annToMask(one) == 1 for one in entries]
        names = [file.cats[one["category_id"]]["name"] for one in entries]
        assert np.array_equal(drawn(zip(names, masks, strict=True)), label)
        for one, mask in zip(entries, masks, strict=True):
            assert one["area"] == mask.sum()
            assert coco_mask.toBbox(file.annToRLE(one)).tolist() == one["bbox"]
            assert one["iscrowd"] == (one["category_id"] == 4)
            assert isinstance(one["segmentation"], dict) or form != "masks"


def test_yolo_lines_are_polygons_with_holes_cut_open() -> None:
    label, found = label_of(4), outlines("polygons")
    image = found.image("a.jpg", label)
    names = [*LISTED, "__ignore__"]
    parts = []
    for line in yolo_text(image, found.ids).splitlines():
        number, *values = line.split()
        fractions = np.array(values, float).reshape(-1, 2)
        assert fractions.min() >= 0 and fractions.max() <= 1
        parts.append((names[int(number)], filled(fractions * SIZE[::-1])))
    assert np.array_equal(drawn(iter(parts)), label)
    told = yaml.safe_load(yolo_settings(found.classes, {"train": "images/train"}))
    assert told == {"train": "images/train", "names": dict(enumerate(names))}
    empty = found.image("b.jpg", np.ones(SIZE, np.uint8))
    assert yolo_text(empty, found.ids) == ""


def test_labelme_masks_lie_where_labelme_puts_them() -> None:
    label, found = label_of(5), outlines()
    told = json.loads(labelme_text(found.image("photos/a.jpg", label)))
    assert (told["imagePath"], told["imageData"]) == ("photos/a.jpg", None)
    assert (told["imageHeight"], told["imageWidth"]) == SIZE
    parts = []
    for shape in told["shapes"]:
        if shape["shape_type"] == "polygon":
            pixels = filled(shape["points"])
        else:  # labelme: the last row and column are in the mask
            (left, top), (right, bottom) = shape["points"]
            png = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            assert set(np.unique(png)) <= {0, 1}
            pixels = np.zeros(SIZE, bool)
            pixels[top : bottom + 1, left : right + 1] = png == 1
        parts.append((shape["label"], pixels))
    assert np.array_equal(drawn(iter(parts)), label)
    assert {shape["shape_type"] for shape in told["shapes"]} == {"polygon", "mask"}


def test_cvat_layers_and_runs(tmp_path: Path) -> None:
    label, found = label_of(6), outlines()
    with write_cvat(tmp_path / "a.xml", found) as add:
        add(found.image("train/ä&.jpg", label), "train")
        add(found.image("b.jpg", np.ones(SIZE, np.uint8)), "")
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert [one.text for one in root.iterfind("meta/*/labels/label/name")] == list(found.classes)
    first, second = root.iterfind("image")
    assert (first.get("name"), first.get("subset"), len(second)) == ("train/ä&.jpg", "train", 0)
    assert (first.get("height"), first.get("width")) == ("37", "53")
    parts = []
    for layer, one in enumerate(first):
        assert one.get("z_order") == str(layer)
        if one.tag == "mask":
            pixels = np.zeros(SIZE, bool)
            top, left, height, width = (
                int(one.get(k, "")) for k in ("top", "left", "height", "width")
            )
            runs = [int(run) for run in one.get("rle", "").split(", ")]
            row = [on for k, run in enumerate(runs) for on in repeat(k % 2 == 1, run)]
            pixels[top : top + height, left : left + width] = np.reshape(row, (height, width))
        else:
            points = [point.split(",") for point in one.get("points", "").split(";")]
            pixels = filled(np.array(points, float))
        parts.append((one.get("label", ""), pixels))
    assert np.array_equal(drawn(iter(parts)), label)
    assert json.loads(cvat_labels(found.classes))[1] == {
        "name": "sky & <sea>",
        "color": "#ff8000",
        "attributes": [],
    }


def decoded(rle: list[int]) -> Any:
    """Decode Label Studio's RLE bit by bit, as the library rle-pack does."""
    bits = iter("".join(f"{byte:08b}" for byte in rle))

    def read(count: int) -> int:
        return int("".join(islice(bits, count)), 2)

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values = list[int]()
    while len(values) < total:
        is_run = read(1)
        count = read(lengths[read(2)]) + 1
        values += [read(word)] * count if is_run else [read(word) for _ in range(count)]
    return np.array(values).reshape(-1, 4)


@pytest.mark.parametrize("block", [1, 3, 40, 200])
def test_the_rle_of_label_studio(block: int) -> None:
    random = np.random.default_rng(block)
    some = np.kron(random.random((3, 4)) > 0.5, np.ones((block, block), bool))
    for pixels in (some, np.zeros((9, 7), bool), np.ones((130, 130), bool)):  # more than 65536
        values = decoded(encoded(pixels).tolist())
        assert np.array_equal(values, np.repeat(pixels.reshape(-1, 1) * 255, 4, axis=1))


@pytest.mark.parametrize("kind", ["annotations", "predictions"])
def test_label_studio_tasks(tmp_path: Path, kind: Any) -> None:
    label, found = label_of(7, ignored=False), outlines()
    with write_labelstudio(tmp_path / "a.json", kind) as add:
        add(found.image("/data/local-files/?d=a%20b.jpg", label))
        add(found.image("c.jpg", np.ones(SIZE, np.uint8)))
    first, second = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert first["data"] == {"image": "/data/local-files/?d=a%20b.jpg"}
    assert second[kind][0]["result"] == []
    results = first[kind][0]["result"]
    assert len({one["id"] for one in results}) == len(results)
    config = ElementTree.fromstring(labelstudio_settings(found.classes))
    tags = {one.get("name"): one for one in config}
    parts = []
    for one in results:
        assert (one["original_height"], one["original_width"]) == SIZE
        assert tags[one["from_name"]].tag.lower() == one["type"]
        assert tags[one["from_name"]].get("toName") == one["to_name"] == tags["image"].get("name")
        (name,) = one["value"][one["type"]]
        assert name in [choice.get("value") for choice in tags[one["from_name"]]]
        if one["type"] == "polygonlabels":
            pixels = filled(np.array(one["value"]["points"]) * (SIZE[1] / 100, SIZE[0] / 100))
        else:
            assert one["value"]["format"] == "rle"
            pixels = decoded(one["value"]["rle"])[:, 3].reshape(SIZE) == 255
        parts.append((name, pixels))
    assert np.array_equal(drawn(iter(parts)), label)
    assert {one["type"] for one in results} == {"polygonlabels", "brushlabels"}
    assert first[kind][0].get("model_version") == {"predictions": "segacc"}.get(kind)
    with write_labelstudio(tmp_path / "none.json", kind):
        pass
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    found = outlines("polygons")
    image = found.image("a.jpg", label_of(8))

    def write_labelstudio_tasks(path: Path, _: Outlines) -> Any:
        return write_labelstudio(path, "predictions")

    for write in (write_coco, write_cvat, write_labelstudio_tasks):
        with write(tmp_path / write.__name__, found) as add:
            given = (image, "") if write is write_cvat else (image,)
            peaks = []
            for count in (10, 60):
                tracemalloc.start()
                for _ in range(count):
                    add(*given)
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
        size = (tmp_path / write.__name__).stat().st_size
        assert peaks[1] < peaks[0] + 50_000 < size / 4, (write.__name__, peaks, size)


def test_ignored_pixels_are_a_class_only_if_there_are_some() -> None:
    found = outlines()
    assert list(found.classes) == LISTED
    found.image("a", label_of(1, ignored=False))
    assert list(found.classes) == LISTED and found.ids["__ignore__"] == 3
    found.image("b", label_of(1))
    found.image("c", label_of(1, ignored=False))
    assert list(found.classes) == [*LISTED, "__ignore__"] and found.ids["__ignore__"] == 3


def test_a_class_that_readers_ignore_is_refused() -> None:
    with pytest.raises(DataError) as error:
        Outlines(LabelMap.plain(["road", "__ignore__"]))
    assert str(error.value) == (
        'The class "__ignore__" cannot be written: in annotation files this name stands for '
        "pixels that are ignored. Rename it, or ignore its pixels with "
        "map={drop: [__ignore__]}."
    )
