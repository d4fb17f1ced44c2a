"""Data sets straight from the files of annotation tools: found, drawn, checked and trained on."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from annotation_tools import (
    COUNTS,
    SIZE,
    TOOLS,
    coco,
    coco_facts,
    cvat,
    dump,
    expected,
    labelme,
    labelme_facts,
    labels_of,
    labelstudio,
    picture,
    rle,
    yolo,
)
from check_tools import chosen, look
from cli_tools import ROOT, TINY, Warm, assert_refused, assert_succeeded
from segacc.data.batches import Source
from segacc.data.cache_files import Notice, key_of
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.errors import DataError, OptionError
from segacc.hookspecs import DataSplits
from segacc.testing import check_dataset

pytest_plugins = ("cli_fixtures",)


def build(spec: str) -> DataSplits:
    """Build a data set as the command line does."""
    return build_splits(chosen(spec))


def said(spec: str, root: Path) -> str:
    """Return the error of a data set, without the folder."""
    with pytest.raises((DataError, OptionError)) as error:
        for one in build(spec).unusable.values():
            raise one
    return str(error.value).replace(f"{root}/", "").replace(str(root), "ROOT")


@pytest.mark.parametrize("tool", TOOLS)
def test_labels_are_those_that_matplotlib_draws(tool: str, tmp_path: Path) -> None:
    spec = TOOLS[tool](tmp_path / "mine")
    data = build(spec)
    splits = {"train": 4, "validation": 2} if tool != "labelstudio" else {"train": 4}
    assert {split: len(samples) for split, samples in data.splits.items()} == splits
    assert (data.notes, data.unusable) == ((), {})
    assert sorted(data.labels.names) == ["background", "bar", "disc"]
    for split in splits:
        for name, label in labels_of(data, split).items():
            np.testing.assert_array_equal(label, expected(int(name[-1]), data.labels.names))
    found = chosen(str(tmp_path / "mine"))  # by its path
    assert found.text.startswith(f"{tool}:")
    assert found.found and list(found.found.counts) == list(splits)
    sample = data.splits["train"][1]
    again = pickle.loads(pickle.dumps(sample))  # as a data worker gets it
    assert again.label.read_bytes() == sample.label.read_bytes()
    check_dataset(found.record, found.options)


SLOW = ("labelme", "cvat", "labelstudio")
"""Tools whose training takes `make test` too long; the labels are compared above."""


@pytest.mark.parametrize(
    "tool", [pytest.param(one, marks=pytest.mark.slow if one in SLOW else ()) for one in TOOLS]
)
def test_two_steps_are_trained_from_a_folder_given_by_its_path(
    tool: str, tmp_path: Path, warm: Warm
) -> None:
    TOOLS[tool](tmp_path / "mine")
    done = warm(*TINY, "--dataset", "./mine", "--output-dir", "run", cwd=tmp_path)
    assert_succeeded(done)
    assert f"./mine is read as {tool}:" in done.stdout + done.stderr
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("loss" in json.dumps(step) for step in steps)


PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Files of annotation tools")[2].partition("\n## ")[0]
SPECS = re.findall(
    r"`(?:segacc train --dataset )?((?:coco|yolo|labelme|cvat|labelstudio):\S+?)[ `]", SECTION
)


def test_the_data_sets_of_the_page_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path("data")
    coco(data / "roboflow")
    yolo(data / "yolo")
    labelme(data / "labelme")
    cvat(data / "cvat")
    labelstudio(data / "studio")
    for split, count in COUNTS.items():
        facts = coco_facts(data / "coco" / f"{split}2017", count, split)
        dump(data / "coco" / "annotations" / f"instances_{split}2017.json", facts)
        facts = coco_facts(data / "other" / "pictures" / split, count, split)
        dump(data / "other" / "lists" / f"{split}.json", facts)
    dump(data / "single" / "all.json", coco_facts(data / "single" / "photos", 4))
    facts = coco_facts(data / "supervisely" / "cells" / "img", 4)
    dump(data / "supervisely" / "cells" / "annotations" / "instances.json", facts)
    assert len(SPECS) == 10
    for spec in SPECS:
        if "SPLIT" in spec:
            spec = spec.replace("data/coco", "data/other")
        if "all.json" in spec:
            spec = spec.replace("data/coco", "data/single")
        assert len(build(spec).splits["train"]) == 4, spec


# -------------------------------------------------------------------------------- real data sets
def coco_of(labels: dict[Path, Any], path: Path, names: tuple[str, ...], crowd: int) -> Path:
    """Write labels (H, W) of some images as COCO's RLE, one value as crowds."""
    facts: dict[str, Any] = {"images": [], "annotations": []}
    facts["categories"] = [{"id": 5 * k + 2, "name": name} for k, name in enumerate(names)]
    for key, (image, label) in enumerate(labels.items()):
        size = {"height": label.shape[0], "width": label.shape[1]}
        facts["images"].append({"id": key, "file_name": image.name, **size})
        for value in np.unique(label).tolist():
            one = {
                "id": len(facts["annotations"]),
                "image_id": key,
                "segmentation": rle(label, value),
            }
            one |= {"iscrowd": int(value == crowd), "category_id": 2}
            if value != crowd:
                one["category_id"] = 5 * value + 2
            facts["annotations"].append(one)
    return dump(path, facts)


def test_camvid_survives_coco_exactly(tmp_path: Path, shared: Path) -> None:
    root = shared / "camvid"
    names = tuple(json.loads((root / "classes.json").read_text())["id2label"].values())
    images = sorted((root / "images" / "train").iterdir())[:6]
    of_folder = root / "annotations" / "train"
    labels = {one: np.array(Image.open(of_folder / f"{one.stem}.png")) for one in images}
    path = coco_of(labels, tmp_path / "a.json", names, crowd=11)
    data = build(f"coco:annotations={path},images={root / 'images' / 'train'},background=ignore")
    assert data.labels.names == names
    found = labels_of(data)
    for image, label in labels.items():
        np.testing.assert_array_equal(found[image.stem], np.where(label == 11, 255, label))
    left = len(list((root / "images" / "train").iterdir())) - 6
    assert data.notes[0].startswith(f"{left} images are in no annotation, and not read: ")


def test_nuclei_survive_coco_exactly(tmp_path: Path, shared: Path) -> None:
    table = parquet.read_table(shared / "nuclei_dsb2018" / "train.parquet").slice(0, 8).to_pylist()
    labels = {}
    for row in table:
        path = tmp_path / f"{row['image_id']}.png"
        path.write_bytes(row["image"]["bytes"])
        (tmp_path / "label").write_bytes(row["annotation"]["bytes"])
        labels[path] = np.array(Image.open(tmp_path / "label"))
    coco_of(labels, tmp_path / "a.json", ("background", "nucleus"), crowd=-1)
    data = build(f"coco:root={tmp_path}")
    assert data.labels.names == ("background", "nucleus")  # the category is the background
    found = labels_of(data)
    for path, label in labels.items():
        np.testing.assert_array_equal(found[path.stem], label)


# -------------------------------------------------------------------------- background, overlap
def test_pixels_of_no_shape_are_background_or_ignored(tmp_path: Path) -> None:
    spec = coco(tmp_path)
    data = build(f"{spec},background=ignore")
    assert data.labels.names == ("disc", "bar")
    whole = expected(0)
    assert (labels_of(data)["train0"] == np.where(whole == 0, 255, whole.astype(int) - 1)).all()
    assert (labels_of(data)["train3"] == 255).all()
    edited = build(f'{spec},map={{"drop": ["background"]}}')  # another way to say it
    assert edited.labels.names == ("disc", "bar")
    assert (labels_of(edited)["train0"] == labels_of(data)["train0"]).all()


def test_the_smallest_shape_is_on_top_if_asked(tmp_path: Path) -> None:
    spec = coco(tmp_path)
    usual, small = build(spec), build(f"{spec},overlap=small_on_top")
    over = labels_of(usual)["train0"] != labels_of(small)["train0"]
    assert over.any()
    assert (labels_of(usual)["train0"][over] == 2).all()  # the bar is the last of the file
    assert (labels_of(small)["train0"][over] == 1).all()  # the disc is smaller


def test_classes_of_all_splits_are_joined_by_name(tmp_path: Path) -> None:
    spec = coco(tmp_path)
    path = tmp_path / "valid" / "_annotations.coco.json"
    facts = json.loads(path.read_text())
    facts["categories"] = [
        {"id": 1, "name": "dot"},
        {"id": 3, "name": "bar"},
        {"id": 18, "name": "disc"},
    ]
    for one in facts["annotations"]:
        one["category_id"] = 21 - one["category_id"]
    dump(path, facts)
    data = build(spec)
    assert data.labels.names == ("background", "disc", "bar", "dot")
    assert (labels_of(data, "validation")["val1"] == expected(1)).all()


# --------------------------------------------------------------------------------------- layouts
def test_too_many_classes_of_annotations_are_told_with_the_data_set(tmp_path: Path) -> None:
    facts = coco_facts(tmp_path, 1)
    facts["categories"] += [{"id": 100 + k, "name": f"c{k}"} for k in range(300)]
    path = dump(tmp_path / "a.json", facts)
    assert said(f"coco:annotations={path},images={tmp_path}", tmp_path) == (
        "--dataset coco: the classes of the annotations: A label map has at most 255 classes, got "
        "303: background, disc, bar, c0 and 299 more. Merge some of them in the tool, or leave "
        "them out of its export."
    )


def test_coco_files_and_folders_are_named_with_split(tmp_path: Path) -> None:
    for split, count in COUNTS.items():
        facts = coco_facts(tmp_path / f"{split}2017", count, split)
        dump(tmp_path / "annotations" / f"instances_{split}2017.json", facts)
        dump(tmp_path / "annotations" / f"captions_{split}2017.json", facts)
    given = "annotations=annotations/instances_SPLIT2017.json,images=SPLIT2017"
    for spec in (f"coco:root={tmp_path},{given}", f"coco:root={tmp_path}", str(tmp_path)):
        data = build(spec)
        assert {split: len(some) for split, some in data.splits.items()} == {
            "train": 4,
            "validation": 2,
        }
    one = build(f"coco:annotations={tmp_path}/annotations/instances_val2017.json")
    assert [str(sample.image) for sample in one.splits["train"]] == [
        str(tmp_path / "val2017" / f"val{k}.png") for k in range(2)
    ]
    assert said(f"coco:root={tmp_path},annotations=b/SPLIT.json", tmp_path) == (
        "--dataset coco: annotations=b/SPLIT.json: no such file; there is no b."
    )
    dump(tmp_path / "annotations" / "more_train.json", coco_facts(tmp_path / "more", 1))
    assert said(f"coco:root={tmp_path}", tmp_path) == (
        "--dataset coco: ROOT has 2 annotation files for one split: "
        "annotations/instances_train2017.json, annotations/more_train.json. Choose with "
        "annotations=FILE."
    )
    with pytest.raises(OptionError, match="give annotations=FILE and images=DIR, or root=DIR"):
        chosen("coco")


def test_images_that_are_missing_or_elsewhere(tmp_path: Path) -> None:
    facts = coco_facts(tmp_path / "images", 3)
    facts["images"][0]["file_name"] = "C:\\Users\\me\\train0.png"  # of another disk
    facts["images"][2]["file_name"] = "gone.png"
    path = dump(tmp_path / "a.json", facts)
    data = build(f"coco:annotations={path}")
    folder = tmp_path / "images"
    assert data.notes == (
        f"train: 1 of 3 annotated images is missing, such as {folder / 'gone.png'}",
        f"1 image is in no annotation, and not read: {folder / 'train2.png'}",
    )
    assert [Path(str(one.image)).name for one in data.splits["train"]][:2] == [
        "train0.png",
        "train1.png",
    ]
    found = look(f"coco:annotations={path}")
    assert [fault.text for fault in found.splits["train"].faults] == [
        f"{folder / 'gone.png'}: the image cannot be read: No such file or directory.",
    ]
    assert said(f"coco:annotations={path},images={tmp_path}", tmp_path) == (
        "--dataset coco: none of the 3 images of a.json is in ROOT, such as C:\\Users\\me\\"
        "train0.png; it contains a.json, images. Name the folder of the images as images=DIR."
    )
    facts["images"][2]["file_name"] = "../../etc/passwd"
    dump(path, facts)
    assert said(f"coco:annotations={path},images={folder}", tmp_path) == (
        "a.json: the image ../../etc/passwd is outside images, and no file of that folder is named "
        "passwd."
    )


def test_an_image_of_another_size_is_refused_and_exif_is_named(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.json", coco_facts(tmp_path, 2))
    Image.new("RGB", (32, 24)).save(tmp_path / "train0.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "train1.png", exif=turned)
    data = build(f"coco:annotations={path}")
    first, second = data.splits["train"]
    with pytest.raises(DataError) as error:
        read_sample(first, data.labels)
    assert str(error.value) == (
        f"{path} (image train0.png): the file states 48x64 pixels (height x width), but the image "
        "has 24x32. Was it resized after it was annotated? Export the annotations again, for this "
        "image."
    )
    with pytest.raises(DataError, match=r"its EXIF turns it from 48x64 to 64x48\. Add exif=stored"):
        read_sample(second, data.labels)
    stored = build(f"coco:annotations={path},exif=stored")
    _, label = read_sample(stored.splits["train"][1], stored.labels)
    np.testing.assert_array_equal(label.numpy(), expected(1))


def test_a_damaged_rle_is_named_when_it_is_read(tmp_path: Path) -> None:
    facts = coco_facts(tmp_path, 1)
    facts["annotations"][0]["segmentation"] = {"size": list(SIZE), "counts": "0000"}
    path = dump(tmp_path / "a.json", facts)
    found = look(f"coco:annotations={path}").splits["train"].faults
    assert [one.kind for one in found] == ["label"]
    assert found[0].text.startswith(
        f"{path} (image train0.png): annotation 7: its RLE is damaged: it does not fill "
    )


YAMLS = {
    "roboflow": (
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['disc', 'bar']\n",
        "",
    ),
    "a wrong count": (
        "train: train/images\nnc: 3\nnames: ['disc', 'bar']\n",
        "data.yaml: nc is 3, but there are 2 names.",
    ),
    "a count in quotes": (
        "train: ..\\train\\images\nval: ..\\valid\\images\nnc: '2'\nnames: ['disc', 'bar']\n",
        "",
    ),
    "two names": (
        "train: train/images\nnames: ['bar', 'bar']\n",
        "data.yaml: the classes name bar twice. Give each class a name of its own.",
    ),
    "a folder that is not there": (
        "train: images\nnames: ['disc', 'bar']\n",
        "--dataset yolo: images, named in the YAML file, is neither a folder nor a list.",
    ),
    "no list": ("- 1\n", "data.yaml: not a description of a YOLO data set. Expected are lines"),
}


@pytest.mark.parametrize(("content", "text"), YAMLS.values(), ids=YAMLS)
def test_the_yaml_of_yolo(content: str, text: str, tmp_path: Path) -> None:
    yolo(tmp_path / "made")
    for split in COUNTS:
        for kind in ("images", "labels"):
            target = tmp_path / split.replace("val", "valid") / kind
            shutil.copytree(tmp_path / "made" / kind / split, target)
    shutil.rmtree(tmp_path / "made")
    (tmp_path / "data.yaml").write_text(content)
    if text:
        assert said(f"yolo:root={tmp_path}/data.yaml", tmp_path).startswith(text)
        return
    data = build(f"yolo:root={tmp_path}")
    assert {split: len(some) for split, some in data.splits.items()} == {
        "train": 4,
        "validation": 2,
    }
    (tmp_path / "data.yaml").unlink()
    assert said(f"yolo:root={tmp_path}", tmp_path).startswith(
        "--dataset yolo: ROOT has no class names: neither data.yaml nor classes.txt. Expected are"
    )
    (tmp_path / "classes.txt").write_text("disc\nbar\n")
    (tmp_path / "train" / "labels" / "other.txt").write_text("0 0 0 1 0 1 1\n")
    data = build(f"yolo:root={tmp_path}")
    other = tmp_path / "train" / "labels" / "other.txt"
    assert data.notes == (f"1 text file without an image: {other}",)
    assert (labels_of(data)["train0"] == expected(0)).all()


def test_lists_of_yolo_name_images_inside_the_folder(tmp_path: Path) -> None:
    yolo(tmp_path / "mine")
    picture(tmp_path / "far", 9)
    listed = tmp_path / "mine" / "train.txt"
    listed.write_text("./images/train/train1.png\n./images/val/val0.png\n")
    (tmp_path / "mine" / "data.yaml").write_text("train: train.txt\nnames: [disc, bar]\n")
    assert list(labels_of(build(f"yolo:root={tmp_path}/mine"))) == ["train1", "val0"]
    listed.write_text(f"images/train/train1.png\n{tmp_path}/far/train9.png\n")
    assert said(f"yolo:root={tmp_path}/mine", tmp_path) == (
        "mine/train.txt: this list, which was found in mine, names far/train9.png, a file outside "
        "it. If you wrote the list, give the YAML file, as yolo:root=DIR/data.yaml."
    )
    assert len(build(f"yolo:root={tmp_path}/mine/data.yaml").splits["train"]) == 2
    listed.write_text("./images/train/train1.png\nimages/train/gone.png\n")
    (told,) = [one for one in build(f"yolo:root={tmp_path}/mine").notes if "missing" in one]
    assert told == (
        f"train: 1 of 2 annotated images is missing, such as {tmp_path}/mine/images/train/gone.png"
    )
    listed.write_text("data/images/train/train1.png\n")
    assert said(f"yolo:root={tmp_path}/mine", tmp_path) == (
        "mine/train.txt: none of its 1 image is there, such as data/images/train/train1.png. Paths "
        "are relative to mine, or to the working directory."
    )


def test_ids_are_paths_below_the_images_if_stems_repeat(tmp_path: Path) -> None:
    facts = coco_facts(tmp_path / "a", 2)
    coco_facts(tmp_path / "b", 1)
    facts["images"][0]["file_name"], facts["images"][1]["file_name"] = (
        "a/train0.png",
        "b/train0.png",
    )
    path = dump(tmp_path / "a.json", facts)
    data = build(f"coco:annotations={path},images={tmp_path}")
    assert list(labels_of(data)) == ["a/train0.png", "b/train0.png"]


def test_boxes_of_yolo_are_refused_before_a_run(tmp_path: Path, warm: Warm) -> None:
    yolo(tmp_path / "mine")
    for path in (tmp_path / "mine").glob("labels/train/*.txt"):
        path.write_text("0 0.5 0.5 0.2 0.2\n")
    done = warm(*TINY, "--dataset", "./mine", "--output-dir", "run", cwd=tmp_path)
    assert_refused(
        done,
        "mine/labels/train/train0.txt: line 1: five numbers are a box, which is a label for "
        "detection, not for segmentation. Export polygons (YOLO segmentation) from your annotation "
        "tool.",
    )


def test_missing_images_of_labelme_are_counted(tmp_path: Path) -> None:
    spec = labelme(tmp_path)
    image, path = tmp_path / "train/train1.png", tmp_path / "train/train1.json"
    image.unlink()
    embedded = (
        f"{path}: its image train1.png is not there, but embedded in the file (imageData). Write "
        f"it beside the file, as `labelme_export_json {path}` does for one, as train1.png."
    )
    gone = f"train: 1 of 4 annotated images is missing, such as {image}"
    assert build(spec).notes == (embedded, gone)
    dump(path, json.loads(path.read_text()) | {"imageData": None})
    assert build(spec).notes == (gone,)
    assert [one.text for one in look(spec).splits["train"].faults] == [
        f"{image}: the image cannot be read: No such file or directory."
    ]
    for folder in ("train", "val"):
        for one in (tmp_path / folder).glob("*.png"):
            one.unlink()
    assert said(spec, tmp_path).startswith(
        "train/train0.json: its image train0.png is not there, but embedded in the file"
    )
    for one in (tmp_path / "train").glob("*.json"):
        dump(one, json.loads(one.read_text()) | {"imageData": None})
    assert said(spec, tmp_path) == (
        "train/train0.json: its image train0.png is neither there nor beside the file."
    )


def test_endings_of_labelme_s_files_may_be_in_capitals(tmp_path: Path) -> None:
    picture(tmp_path, 0).rename(tmp_path / "IMG_1.PNG")
    facts = labelme_facts(tmp_path / "IMG_1.PNG", 0) | {"imagePath": "C:\\Users\\me\\old.jpg"}
    dump(tmp_path / "IMG_1.JSON", facts)
    for spec in (f"labelme:root={tmp_path}", str(tmp_path)):
        assert list(labels_of(build(spec))) == ["IMG_1"]


def test_labels_txt_gives_the_order_of_the_classes_of_labelme(tmp_path: Path) -> None:
    spec = labelme(tmp_path)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndisc\nbar\n")
    data = build(spec)
    assert data.labels.names == ("background", "disc", "bar")
    assert (labels_of(data)["train0"] == expected(0)).all()
    (tmp_path / "labels.txt").write_text("disc\nbars\n")
    assert said(spec, tmp_path) == (
        'labels.txt: the annotations have 1 class that it does not list: bar. Did you mean "bars"? '
        "Add the name, or correct the annotations."
    )


def test_masks_of_cvat_in_colours(tmp_path: Path) -> None:
    for split, count in {"train": 2, "val": 1}.items():
        names = []
        for number in range(count):
            path = picture(tmp_path / "JPEGImages", number, split)
            colors = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)
            target = tmp_path / "SegmentationClass" / path.name
            target.parent.mkdir(exist_ok=True)
            Image.fromarray(colors[expected(number)]).save(target)
            names.append(path.stem)
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(names))
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndisc:250,50,83::\nbar:51,221,255::\n"
    )
    data = build(f"cvat:root={tmp_path}")
    assert {split: len(some) for split, some in data.splits.items()} == {
        "train": 2,
        "validation": 1,
    }
    assert data.labels.names == ("background", "disc", "bar")
    assert (labels_of(data, "validation")["val0"] == expected(0)).all()
    assert said(f"cvat:root={tmp_path},overlap=small_on_top", tmp_path) == (
        "--dataset cvat: ROOT contains masks, not shapes, so background and overlap have no "
        "effect; leave them out. map={drop: [background]} ignores the background."
    )
    shutil.rmtree(tmp_path / "JPEGImages")
    assert said(f"cvat:root={tmp_path}", tmp_path) == (
        "--dataset cvat: ROOT has no folder JPEGImages: CVAT leaves out the images unless `Save "
        "images` is chosen. Name their folder as images=DIR."
    )


# -------------------------------------------------------------------------- caches and check-data
def test_the_key_of_a_cache_changes_with_the_annotations_and_the_rules(tmp_path: Path) -> None:
    spec = coco(tmp_path / "mine")
    notice = Notice(speaks=False)

    def key(spec: str) -> str:
        data = build(spec)
        train = data.splits["train"]
        assert not isinstance(train, type(None))
        return key_of(Source(train, data.labels), tmp_path / "cache", notice)  # type: ignore

    first = key(spec)
    assert key(spec) == first
    assert key(f"{spec},overlap=small_on_top") != first
    path = tmp_path / "mine" / "train" / "_annotations.coco.json"
    facts = json.loads(path.read_text())
    facts["annotations"][0]["segmentation"][0][0] -= 3
    dump(path, facts)
    changed = key(spec)
    assert changed != first
    facts["info"] = {"description": "the same shapes in another file"}
    dump(path, facts)
    assert key(spec) == changed


def test_check_data_draws_the_outlines_over_the_labels(tmp_path: Path, warm: Warm) -> None:
    coco(tmp_path / "mine")
    done = warm("check-data", "--dataset", "./mine", "--output-dir", "out", cwd=tmp_path)
    assert_succeeded(done)
    page = np.array(Image.open(tmp_path / "out" / "data_check.png").convert("RGB")).astype(int)
    white = (page == 255).all(axis=2)
    # The labels of the first row of samples, by the images above it: noise, without pure white.
    top = next(row for row in range(150, len(page)) if not white[row, 20:300].any())
    tall = next(row for row in range(top, len(page)) if white[row, 20:300].all()) - top
    tiles = white[top + tall + 6 : top + 2 * tall, 12:306]
    assert 300 < tiles.sum() < 1500  # two outlines, one pixel wide
    last = white[top + tall + 6 : top + 2 * tall, 940:1220]
    assert not last.any()  # the fourth sample has no annotation


def test_files_of_label_studio_go_to_the_splits_of_their_folders(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        labelstudio(tmp_path / folder)
    splits = build(str(tmp_path)).splits
    assert {split: len(samples) for split, samples in splits.items()} == {
        "train": 4,
        "validation": 4,
    }
    labelstudio(tmp_path / "training")
    assert "are both files of Label Studio for the split train" in said(str(tmp_path), tmp_path)
