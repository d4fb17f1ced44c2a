"""The data sets everybody knows: what they share; ade20k and coco_stuff."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from known_data import (
    RECORDS,
    SIZE,
    build,
    ids,
    mapped,
    options,
    photo,
    read,
    refusal,
    save,
    scatter,
    sizes,
)
from segacc.commands.plugins.command import options_of
from segacc.errors import DataError, OptionError
from segacc.plugins.datasets import files as tables
from segacc.registry import Offer
from segacc.testing import check_dataset

DATA = Path(tables.__file__).parent / "data"


@pytest.mark.parametrize("name", ["ade20k", "camvid", "cityscapes", "coco_stuff"])
def test_the_built_in_facts_name_their_source(name: str) -> None:
    assert "github.com/" in tables.table(name)["source"]


def test_the_facts_of_ade20k_carry_their_licence() -> None:
    text = (DATA / "ade20k.LICENSE").read_text()
    assert (
        "BSD 3-Clause License" in text and "Copyright (c) 2019, MIT CSAIL Computer Vision" in text
    )
    assert "ade20k.LICENSE" in tables.table("ade20k")["source"]


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_root_that_is_not_there(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(name, root="gone") == (
        f"--dataset {name}: root=gone is not a folder (looked in {tmp_path / 'gone'})."
    )


MUST_HOLD = {
    "ade20k": "images/ and annotations/",
    "camvid": (
        "train/ and trainannot/, or images/ and annotations/ (or labels/), or "
        "701_StillsRaw_full/ and LabeledApproved_full/"
    ),
    "cityscapes": "leftImg8bit/ and gtFine/",
    "coco_stuff": (
        "images/train2017/ or images/val2017/, and annotations/train2017/ or "
        "annotations/val2017/ (or stuffthingmaps/ in place of annotations/)"
    ),
    "voc": "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/",
}


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_folder_of_something_else(name: str, tmp_path: Path) -> None:
    start = f"--dataset {name}: {tmp_path} must contain {MUST_HOLD[name]}; it contains"
    assert refusal(name, root=str(tmp_path)) == f"{start} nothing."
    for other in ("Annotations", "movies"):
        (tmp_path / other).mkdir()
    assert refusal(name, root=str(tmp_path)) == f"{start} Annotations, movies."


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(OptionError) as error:
        options("cityscapes", root="x", labels="color")
    assert str(error.value) == (
        "--dataset cityscapes: labels: expected one of labelIds, labelTrainIds; found 'color'."
    )
    assert options("camvid", root="x", classes="32").classes == 32


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_option_says_what_it_is(name: str) -> None:
    told = {one.name: one for one in options_of(Offer("dataset", RECORDS[name], "segacc", "0"))}
    assert all(one.doc for one in told.values())
    assert (told["root"].type, told["map"].type) == ("path", "path or mapping")


# ----------------------------------------------------------------------------------- ade20k


def ade20k(root: Path) -> Path:
    """Write two training images and one of validation, with all raw ids."""
    for number, split in enumerate(("training", "training", "validation")):
        stem = f"ADE_{'train' if split == 'training' else 'val'}_0000000{number}"
        save(root / "images" / split / f"{stem}.jpg", photo(number))
        save(root / "annotations" / split / f"{stem}.png", scatter(range(151), number))
    return root


def test_ade20k_is_the_sample_of_the_real_one(shared: Path) -> None:
    root = shared / "ade20k_sample"
    facts = json.loads((root / "classes.json").read_text())
    data = build("ade20k", root=str(root))
    assert sizes(data) == {"train": 6, "validation": 39}
    assert data.labels.names == tuple(facts["id2label"][str(k)] for k in range(150))
    assert data.labels.palette == tuple(map(tuple, facts["palette"]))
    assert data.labels.classes == {0: 255, 255: 255, **{raw: raw - 1 for raw in range(1, 151)}}
    assert data.crop_size == (512, 512)
    for split, samples in data.splits.items():
        for sample in samples[::4]:
            raw = np.array(Image.open(sample.label)).astype(int)
            label = read(data, split, sample.id)[1]
            np.testing.assert_array_equal(label, np.where(raw == 0, 255, raw - 1))
    check_dataset(RECORDS["ade20k"], options("ade20k", root=str(root)), num_samples=2)


def test_ade20k_has_the_full_names_of_the_devkit(shared: Path) -> None:
    lines = (shared / "ade20k_sample" / "objectInfo150.txt").read_text().splitlines()[1:]
    data = build("ade20k", root=str(shared / "ade20k_sample"), full_names="true")
    assert data.labels.names == tuple(line.split("\t")[-1].strip() for line in lines)
    assert data.labels.names[1] == "building, edifice"


def test_ade20k_maps_every_id_from_the_folder_or_the_one_above(tmp_path: Path) -> None:
    ade20k(tmp_path / "ADEChallengeData2016")
    for root in (tmp_path, tmp_path / "ADEChallengeData2016"):
        data = build("ade20k", root=str(root))
        assert ids(data, "train") == ["ADE_train_00000000", "ADE_train_00000001"]
        assert ids(data, "validation") == ["ADE_val_00000002"]
        raw = scatter(range(151), 2).astype(int)
        label = read(data, "validation", "ADE_val_00000002")[1]
        np.testing.assert_array_equal(label, np.where(raw == 0, 255, raw - 1))


def test_half_of_ade20k_will_do(tmp_path: Path) -> None:
    shutil.rmtree(ade20k(tmp_path) / "images" / "training")
    assert sizes(build("ade20k", root=str(tmp_path))) == {"validation": 1}


def test_an_id_that_ade20k_does_not_have(tmp_path: Path) -> None:
    path = ade20k(tmp_path) / "annotations" / "validation" / "ADE_val_00000002.png"
    save(path, np.full(SIZE, 151))
    data = build("ade20k", root=str(tmp_path))
    with pytest.raises(DataError) as error:
        read(data, "validation", "ADE_val_00000002")
    start = f"{path}: label values outside the 150 classes: 151 (768 pixels)."
    assert str(error.value).startswith(start)


def test_ade20k_without_labels(tmp_path: Path) -> None:
    labels = ade20k(tmp_path) / "annotations" / "training"
    shutil.move(labels, labels.with_name("masks"))
    assert refusal("ade20k", root=str(tmp_path)) == (
        f"--dataset ade20k: {tmp_path / 'images' / 'training'} has no label folder "
        f"in {labels.parent}."
    )
    save(labels / "other.png", scatter([1]))
    assert refusal("ade20k", root=str(tmp_path)) == (
        "--dataset ade20k: none of the split's images (2) has a label, e.g. "
        f"{labels / 'ADE_train_00000000.png'}; that folder contains other.png."
    )


def test_ade20k_without_its_splits(tmp_path: Path) -> None:
    for folder in ("images/train", "annotations/train"):
        (tmp_path / folder).mkdir(parents=True)
    assert refusal("ade20k", root=str(tmp_path)) == (
        f"--dataset ade20k: {tmp_path / 'images'} has no folder named training or validation; it "
        "contains train."
    )


def test_the_map_of_ade20k_can_be_edited(tmp_path: Path) -> None:
    ade20k(tmp_path / "ade")
    edits = {"drop": ["wall"], "merge": {"ground": ["floor", "road"]}}
    (tmp_path / "edits.yaml").write_text(yaml.safe_dump(edits))
    raw = scatter(range(151), 2)
    for given in (edits, str(tmp_path / "edits.yaml")):
        data = build("ade20k", root=str(tmp_path / "ade"), map=given)
        assert data.labels.names[:4] == ("building", "sky", "ground", "tree")
        label = read(data, "validation", "ADE_val_00000002")[1]
        np.testing.assert_array_equal(label == 255, (raw == 0) | (raw == 1))
        np.testing.assert_array_equal(label == 2, (raw == 4) | (raw == 7))


# ------------------------------------------------------------------------------- coco_stuff

THINGS = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # by COCO's id, 0 to 90
NEVER = {i for i, name in enumerate(THINGS) if name == "N/A"} | {91}
PIXELS = [i - 1 for i in range(1, 183) if i not in NEVER]
"""What stuffthingmaps hold, in order, besides 255."""
NUMBERS = {pixel: k for k, pixel in enumerate(PIXELS)}


def stuff(
    root: Path,
    *,
    images: str = "images",
    labels: str = "annotations",
    kinds: tuple[str, ...] = ("",),
    splits: tuple[str, ...] = ("train2017", "val2017"),
) -> Path:
    """Write an image of each split, and labels that hold every id, in one kind or both."""
    for number, split in enumerate(splits):
        stem = f"00000000000{number}"
        raw = scatter([*PIXELS, 255], number)
        save(root / images / split / f"{stem}.jpg", photo(number))
        for kind in kinds:
            save(root / labels / split / f"{stem}{kind}.png", mapped(raw, NUMBERS) if kind else raw)
    return root


def test_coco_stuff_has_80_things_and_91_kinds_of_stuff(tmp_path: Path) -> None:
    labels = build("coco_stuff", root=str(stuff(tmp_path))).labels
    things = [name for name in THINGS if name not in ("__background__", "N/A")]
    assert len(labels.names) == 171 and list(labels.names[:80]) == things
    assert (labels.names[80], labels.names[170]) == ("banner", "wood")
    assert {"cloth", "clothes", "mirror-stuff", "wall-other"} < set(labels.names[80:])
    assert labels.classes == {**NUMBERS, 255: 255}
    assert len(set(labels.palette)) == 171 and labels.palette[0] == (128, 0, 0)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "annotations"),
        ("images", "stuffthingmaps"),
        ("images", "annotations/stuffthingmaps"),
        (".", "stuffthingmaps"),
    ],
)
def test_coco_stuff_maps_every_id_in_any_layout(images: str, labels: str, tmp_path: Path) -> None:
    stuff(tmp_path, images=images, labels=labels)
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    data = build("coco_stuff", root=str(tmp_path))
    assert sizes(data) == {"train": 1, "validation": 1}
    for number, split in enumerate(("train", "validation")):
        label = read(data, split, f"00000000000{number}")[1]
        expected = mapped(scatter([*PIXELS, 255], number), NUMBERS)
        np.testing.assert_array_equal(label, expected)
        assert set(np.unique(label)) == {*range(171), 255}
    check_dataset(RECORDS["coco_stuff"], options("coco_stuff", root=str(tmp_path)))


def test_converted_labels_of_coco_stuff_give_the_same_classes(tmp_path: Path) -> None:
    plain = build("coco_stuff", root=str(stuff(tmp_path / "plain")))
    converted = build("coco_stuff", root=str(stuff(tmp_path / "made", kinds=("_labelTrainIds",))))
    assert converted.labels.classes == {**{k: k for k in range(171)}, 255: 255}
    assert converted.labels.names == plain.labels.names
    assert converted.labels.palette == plain.labels.palette
    both = [read(data, "train", "000000000000")[1] for data in (plain, converted)]
    np.testing.assert_array_equal(*both)
    together = build("coco_stuff", root=str(stuff(tmp_path / "b", kinds=("", "_labelTrainIds"))))
    assert together.labels == plain.labels
    np.testing.assert_array_equal(read(together, "train", "000000000000")[1], both[0])


def test_coco_stuff_with_labels_of_two_kinds(tmp_path: Path) -> None:
    stuff(tmp_path)
    folder = tmp_path / "annotations" / "val2017"
    (folder / "000000000001.png").rename(folder / "000000000001_labelTrainIds.png")
    first = tmp_path / "annotations" / "train2017" / "000000000000.png"
    assert refusal("coco_stuff", root=str(tmp_path)) == (
        f"--dataset coco_stuff: the splits have two kinds of labels: {first} and "
        f"{folder / '000000000001_labelTrainIds.png'}. Use the stuffthingmaps for both, or "
        "convert both."
    )


def test_an_id_that_coco_never_annotated(tmp_path: Path) -> None:
    path = stuff(tmp_path, splits=("val2017",)) / "annotations" / "val2017" / "000000000000.png"
    save(path, np.full(SIZE, 11))  # street sign
    data = build("coco_stuff", root=str(tmp_path))
    assert sizes(data) == {"validation": 1}
    with pytest.raises(DataError) as error:
        read(data, "validation", "000000000000")
    start = f"{path}: label values outside the 171 classes: 11 (768 pixels)."
    assert str(error.value).startswith(start)


def test_grey_photographs_of_coco_are_read_as_rgb(tmp_path: Path) -> None:
    grey = photo(0)[..., 0]
    save(stuff(tmp_path) / "images" / "train2017" / "000000000000.jpg", grey)
    image = read(build("coco_stuff", root=str(tmp_path)), "train", "000000000000")[0]
    assert image.shape == (*SIZE, 3)
    assert (image[..., 0] == image[..., 2]).all() and image.std() > 0


def test_coco_stuff_without_the_labels_of_a_split(tmp_path: Path) -> None:
    labels = stuff(tmp_path) / "annotations"
    shutil.rmtree(labels / "val2017")
    assert refusal("coco_stuff", root=str(tmp_path)) == (
        f"--dataset coco_stuff: {tmp_path / 'images' / 'val2017'} has no label folder in {labels}."
    )
