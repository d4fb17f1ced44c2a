"""camvid: ids of 11 classes and colours of 32, its layouts and splits."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from known_data import (
    RECORDS,
    build,
    ids,
    options,
    photo,
    read,
    refusal,
    save,
    scatter,
    sizes,
)
from segacc.errors import DataError
from segacc.hookspecs import Sample
from segacc.testing import check_dataset

# The groups of MathWorks' camvidPixelLabelIDs, which follow SegNet; the first is SegNet's colour
# of the class, but for Pavement.
GROUPS = {
    "Sky": [(128, 128, 128)],
    "Building": [(128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)],
    "Pole": [(192, 192, 128), (0, 0, 64)],
    "Road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
    "Pavement": [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
    "Tree": [(128, 128, 0), (192, 192, 0)],
    "SignSymbol": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
    "Fence": [(64, 64, 128)],
    "Car": [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
    "Pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
    "Bicyclist": [(0, 128, 192), (192, 0, 192)],
}
VOID = (0, 0, 0)
COLORS = [*(color for group in GROUPS.values() for color in group), VOID]
CLASS_OF = {color: k for k, group in enumerate(GROUPS.values()) for color in group} | {VOID: 255}
FIRST = [group[0] for group in GROUPS.values()]


def painted(number: int) -> tuple[Any, Any]:
    """Draw the numbers of the 32 colours (24, 32), and the label of these colours."""
    which = scatter(range(32), number)
    return which, np.array(COLORS, np.uint8)[which]


def segnet(root: Path, *, annotated: str = "annot", palette: Sequence[int] = ()) -> Path:
    """Write train/ and trainannot/ and so on, with the ids 0..11."""
    for number, split in enumerate(("train", "val", "test")):
        stem, raw = f"0001TP_00000{number}", scatter(range(12), number)
        save(root / split / f"{stem}.png", photo(number))
        save(root / f"{split}{annotated}" / f"{stem}.png", raw, palette)
    return root


def original(root: Path, stems: tuple[str, ...], *, labels: str = "LabeledApproved_full") -> Path:
    """Write the folders of the original download, with all 32 colours in every label."""
    images = "701_StillsRaw_full" if labels == "LabeledApproved_full" else "images"
    for number, stem in enumerate(stems):
        save(root / images / f"{stem}.png", photo(number))
        save(root / labels / f"{stem}_L.png", painted(number)[1])
    return root


def test_camvid_pairs_the_real_one(shared: Path) -> None:
    root = str(shared / "camvid")
    data = build("camvid", root=root)
    facts = json.loads((shared / "camvid" / "classes.json").read_text())
    assert sizes(data) == {"train": 367, "validation": 101}
    assert data.labels.names == tuple(facts["id2label"].values()) == tuple(GROUPS)
    assert data.labels.palette == tuple(map(tuple, facts["palette"]))
    assert data.labels.classes == {**{k: k for k in range(11)}, 11: 255, 255: 255}
    for split, folder in (("train", "train"), ("validation", "val")):
        files = sorted((shared / "camvid" / "images" / folder).iterdir())
        labels = shared / "camvid" / "annotations" / folder
        assert list(data.splits[split]) == [
            Sample(path, labels / f"{path.stem}.png", path.stem) for path in files
        ]
    sample = data.splits["validation"][50]
    raw = np.array(Image.open(sample.label))
    label = read(data, "validation", sample.id)[1]
    np.testing.assert_array_equal(label, np.where(raw == 11, 255, raw))
    check_dataset(RECORDS["camvid"], options("camvid", root=root), num_samples=2)


@pytest.mark.parametrize(
    ("annotated", "palette"),
    [("annot", ()), ("_labels", ()), ("annot", [*range(30, 66), *[0] * 732])],
    ids=["annot", "_labels", "palette"],
)
def test_camvid_in_the_layout_of_segnet(
    annotated: str, palette: Sequence[int], tmp_path: Path
) -> None:
    data = build("camvid", root=str(segnet(tmp_path, annotated=annotated, palette=palette)))
    assert sizes(data) == {"train": 1, "validation": 1, "test": 1}
    for number, split in enumerate(("train", "validation", "test")):
        raw = scatter(range(12), number)
        image, label = read(data, split, f"0001TP_00000{number}")
        np.testing.assert_array_equal(image, photo(number))
        np.testing.assert_array_equal(label, np.where(raw == 11, 255, raw))
    assert data.labels.restore(np.arange(11)).tolist() == list(range(11))


def test_the_32_colours_of_camvid_become_11_classes(tmp_path: Path) -> None:
    root = original(tmp_path, ("0001TP_006690", "0016E5_07959", "Seq05VD_f00000"))
    data = build("camvid", root=str(root))
    assert sizes(data) == {"train": 1, "validation": 1, "test": 1}
    assert set(data.labels.colors) == set(COLORS) and len(COLORS) == 32
    for number, split in enumerate(("train", "validation", "test")):
        label = read(data, split, data.splits[split][0].id)[1]
        which = painted(number)[0]
        for place, color in enumerate(COLORS):
            assert set(label[which == place]) == {CLASS_OF[color]}, color
    check_dataset(RECORDS["camvid"], options("camvid", root=str(root)))


def test_camvid_keeps_32_classes(tmp_path: Path) -> None:
    root = original(tmp_path, ("0001TP_006690",))
    data = build("camvid", root=str(root), classes="32")
    names, palette = data.labels.names, data.labels.palette
    assert len(names) == 31 and "Void" not in names and list(names) == sorted(names, key=str.lower)
    assert dict(zip(names, palette, strict=True))["SUVPickupTruck"] == (64, 128, 192)
    assert set(palette) == set(COLORS) - {VOID}
    which, colors = painted(0)
    label = read(data, "train", "0001TP_006690")[1]
    drawn = np.array([*palette, *[VOID] * 225], np.uint8)[label]
    np.testing.assert_array_equal(drawn, colors)
    np.testing.assert_array_equal(label == 255, which == 31)
    check_dataset(RECORDS["camvid"], options("camvid", root=str(root), classes="32"))


def test_real_labels_in_the_original_colours_are_those_in_ids(shared: Path, tmp_path: Path) -> None:
    stems = ("0001TP_006690", "0006R0_f01020", "0016E5_08640")
    for stem in stems:
        image = Image.open(shared / "camvid" / "images" / "train" / f"{stem}.jpg")
        raw = np.array(Image.open(shared / "camvid" / "annotations" / "train" / f"{stem}.png"))
        save(tmp_path / "701_StillsRaw_full" / f"{stem}.png", np.array(image))
        colors = np.array([*FIRST, VOID], np.uint8)[raw]
        save(tmp_path / "LabeledApproved_full" / f"{stem}_L.png", colors)
    painted_ones = build("camvid", root=str(tmp_path))
    plain = build("camvid", root=str(shared / "camvid"))
    assert ids(painted_ones, "train") == list(stems)
    for stem in stems:
        image, label = read(painted_ones, "train", stem)
        expected = read(plain, "train", stem)
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(label, expected[1])


def test_the_published_split_of_camvid(shared: Path, tmp_path: Path) -> None:
    stems: dict[str, list[str]] = {}
    for split, folder in (("train", "train"), ("validation", "val")):
        files = (shared / "camvid" / "images" / folder).iterdir()
        stems[split] = sorted(path.stem for path in files)
    stems["test"] = [f"0001TP_{frame:06d}" for frame in range(8550, 10381, 30)]
    stems["test"] += [f"Seq05VD_f{frame:05d}" for frame in range(0, 5101, 30)]
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
        ending = "_L" if folder.startswith("Labeled") else ""
        for stem in itertools.chain(*stems.values()):
            (tmp_path / folder / f"{stem}{ending}.png").touch()
    data = build("camvid", root=str(tmp_path))
    assert sizes(data) == {"train": 367, "validation": 101, "test": 233}
    assert {split: ids(data, split) for split in data.splits} == stems


@pytest.mark.parametrize("labels", ["LabeledApproved_full", "labels"])
def test_lists_choose_the_splits_of_camvid(labels: str, tmp_path: Path) -> None:
    original(tmp_path, ("a", "b", "c", "d"), labels=labels)
    (tmp_path / "train.txt").write_text(
        "".join(
            f"/SegNet/CamVid/train/{stem}.png /SegNet/CamVid/trainannot/{stem}.png\n"
            for stem in "cb"
        )
    )
    (tmp_path / "val.txt").write_text("d\n")
    data = build("camvid", root=str(tmp_path))
    assert ids(data, "train") == ["c", "b"] and ids(data, "validation") == ["d"]
    assert sizes(data) == {"train": 2, "validation": 1}
    (tmp_path / "test.txt").write_text("e\n")
    folder = "701_StillsRaw_full" if labels == "LabeledApproved_full" else "images"
    assert refusal("camvid", root=str(tmp_path)) == (
        f"{tmp_path / 'test.txt'}: 1 of its 1 names have no image in {tmp_path / folder}: e. Is "
        "part of the data missing?"
    )


def test_frames_that_are_not_of_camvid_need_lists(tmp_path: Path) -> None:
    original(tmp_path, ("0001TP_006690", "frame1"))
    assert refusal("camvid", root=str(tmp_path)) == (
        f"--dataset camvid: {tmp_path / '701_StillsRaw_full' / 'frame1.png'} does not have a "
        "name of CamVid, such as 0001TP_006690, so it is in none of the published splits. Put "
        f"train.txt, val.txt and test.txt into {tmp_path}."
    )


def test_folders_of_splits_may_hold_colours(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        save(tmp_path / "images" / split / f"{split}.png", photo(number))
        save(tmp_path / "labels" / split / f"{split}_L.png", painted(number)[1])
    data = build("camvid", root=str(tmp_path), classes=32)
    assert sizes(data) == {"train": 1, "validation": 1}
    assert (read(data, "validation", "val")[1] != 255).sum() == 768 - 768 // 32


def test_ids_of_11_classes_do_not_make_32(tmp_path: Path) -> None:
    label = segnet(tmp_path) / "trainannot" / "0001TP_000000.png"
    assert refusal("camvid", root=str(tmp_path), classes="32") == (
        f"--dataset camvid: classes=32 needs the colours of LabeledApproved_full; {label} contains "
        "ids of 11 classes. Leave out classes, or use the original labels."
    )


def test_a_colour_that_camvid_does_not_have(tmp_path: Path) -> None:
    path = original(tmp_path, ("0001TP_006690",)) / "LabeledApproved_full" / "0001TP_006690_L.png"
    pixels = painted(0)[1]
    pixels[:2, 0] = (1, 2, 3)
    save(path, pixels)
    data = build("camvid", root=str(tmp_path))
    with pytest.raises(DataError) as error:
        read(data, "train", "0001TP_006690")
    assert str(error.value).startswith(f"{path}: ") and "(1, 2, 3)" in str(error.value)


def test_camvid_without_labels(tmp_path: Path) -> None:
    shutil.rmtree(segnet(tmp_path) / "valannot")
    assert refusal("camvid", root=str(tmp_path)) == (
        f"--dataset camvid: {tmp_path / 'val'} has no labels: valannot/ or val_labels/ "
        f"is missing in {tmp_path}, which contains test, testannot, train, trainannot, val."
    )
    save(tmp_path / "valannot" / "other.png", scatter([1]))
    assert refusal("camvid", root=str(tmp_path)) == (
        "--dataset camvid: none of the split's images (1) has a label, e.g. "
        f"{tmp_path / 'valannot' / '0001TP_000001.png'}; that folder contains other.png."
    )


def test_camvid_without_images(tmp_path: Path) -> None:
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (tmp_path / folder).mkdir()
    (tmp_path / "701_StillsRaw_full" / "readme.md").touch()
    assert refusal("camvid", root=str(tmp_path)) == (
        f"--dataset camvid: {tmp_path / '701_StillsRaw_full'} contains no image; it contains "
        f"readme.md."
    )
