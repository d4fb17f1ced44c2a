"""voc: what torchvision reads of it, its lists, SBD's larger training split."""

import json
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets
from torchvision.models.segmentation import FCN_ResNet50_Weights

from known_data import (
    RECORDS,
    build,
    ids,
    options,
    read,
    refusal,
    scatter,
    sizes,
)
from segacc.errors import UnreadableError
from segacc.labels.label_map import bit_color
from segacc.testing import check_dataset
from voc_data import OBJECTS, VOC_COLORS, VOC_LISTS, sbd, voc


def test_voc_has_the_names_of_torchvision_and_the_colours_of_opencv(tmp_path: Path) -> None:
    labels = build("voc", root=str(voc(tmp_path))).labels
    theirs = FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert labels.names == ("background", *theirs[1:])
    assert labels.palette == VOC_COLORS
    assert labels.classes == {**{k: k for k in range(21)}, 255: 255}


def test_voc_names_its_classes_as_published_weights_do(tmp_path: Path, shared: Path) -> None:
    config = shared / "deeplabv3_mobilenet_v2_voc" / "config.json"
    named = json.loads(config.read_text())["id2label"]
    names = build("voc", root=str(voc(tmp_path))).labels.names
    assert {str(k): name for k, name in enumerate(names)} == named


def test_every_index_has_a_colour_of_its_own() -> None:
    colors = [bit_color(index) for index in range(256)]
    assert len(set(colors)) == 256
    assert colors[255] == (224, 224, 192)  # the cream of the borders


@pytest.mark.parametrize("above", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_reads_what_torchvision_reads(above: str, tmp_path: Path) -> None:
    voc(tmp_path / "VOCdevkit" / "VOC2012")
    root = tmp_path / above
    data = build("voc", root=str(root))
    assert sizes(data) == {"train": 2, "validation": 1, "trainval": 3}
    for split, theirs in (("train", "train"), ("validation", "val"), ("trainval", "trainval")):
        other = torchvision_datasets.VOCSegmentation(str(tmp_path), image_set=theirs)
        assert [str(one.image) for one in data.splits[split]] == other.images
        for sample, (image, raw) in zip(data.splits[split], other, strict=True):
            mine = read(data, split, sample.id)
            np.testing.assert_array_equal(mine[0], np.array(image))
            np.testing.assert_array_equal(mine[1], np.array(raw))  # ids are classes, 255 ignored
            assert set(np.unique(mine[1])) == set(OBJECTS)
    check_dataset(RECORDS["voc"], options("voc", root=str(root)))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("{}", "trainaug.txt"),
        ("/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", "train_aug.txt"),
    ],
)
def test_augmented_voc_takes_sbd_where_voc_has_no_label(
    line: str, name: str, tmp_path: Path
) -> None:
    stems = ("2008_000002", "2007_000032", "2008_000001")
    sbd(voc(tmp_path), "".join(f"{line.format(stem)}\n" for stem in stems), name)
    data = build("voc", root=str(tmp_path), augmented="true")
    assert sizes(data) == {"train": 3, "validation": 1, "trainval": 3}
    assert ids(data, "train") == list(stems)
    own, theirs = tmp_path / "SegmentationClass", tmp_path / "SegmentationClassAug"
    assert [sample.label for sample in data.splits["train"]] == [
        theirs / "2008_000002.png",
        own / "2007_000032.png",
        theirs / "2008_000001.png",
    ]
    label = read(data, "train", "2008_000001")[1]
    np.testing.assert_array_equal(label, scatter(range(21), 11))
    assert ids(build("voc", root=str(tmp_path)), "train") == list(VOC_LISTS["train"])


def test_augmented_voc_needs_its_list_and_its_labels(tmp_path: Path) -> None:
    folder = voc(tmp_path) / "ImageSets" / "Segmentation"
    assert refusal("voc", root=str(tmp_path), augmented="true") == (
        f"--dataset voc: augmented=true needs {folder / 'trainaug.txt'}, the list of the larger "
        "training split; the folder contains train.txt, trainval.txt, val.txt."
    )
    (folder / "trainaug.txt").write_text("2008_000001\n")
    assert refusal("voc", root=str(tmp_path), augmented="true") == (
        f"--dataset voc: {tmp_path} must contain SegmentationClass/ and SegmentationClassAug/; it "
        "contains ImageSets, JPEGImages, SegmentationClass, SegmentationObject."
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "2007_000032\n2007_000040\n\n2007_000041\n",
            "2 of its 3 names have no image in {images}: 2007_000040, 2007_000041. Is part of "
            "the data missing?",
        ),
        ("2007_000032\n2007_000032\n", "2007_000032 is listed twice; keep one of the lines."),
        ("\n \n", "the list is empty; expected one name per line."),
    ],
)
def test_a_list_that_cannot_be_followed(text: str, told: str, tmp_path: Path) -> None:
    path = voc(tmp_path) / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text(text)
    expected = told.format(images=tmp_path / "JPEGImages")
    assert refusal("voc", root=str(tmp_path)) == f"{path}: {expected}"


def test_voc_without_lists(tmp_path: Path) -> None:
    folder = voc(tmp_path, lists=()) / "ImageSets" / "Segmentation"
    assert refusal("voc", root=str(tmp_path)) == (
        f"--dataset voc: {folder} must contain train.txt, val.txt, trainval.txt; it contains "
        f"nothing."
    )


def test_a_listed_image_without_a_label_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = voc(tmp_path) / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text("2007_000032\n2008_000001\n")
    data = build("voc", root=str(tmp_path))
    gone = tmp_path / "SegmentationClass" / "2008_000001.png"
    with pytest.raises(UnreadableError) as error:
        read(data, "train", "2008_000001")
    assert str(error.value).startswith(f"{gone}: the label is missing")
