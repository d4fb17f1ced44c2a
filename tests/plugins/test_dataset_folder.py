"""`folder`: splits, labels and names where they usually are, and what is said otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import encode
from folder_tools import build, fill, refusal
from segacc.data.sample_pair import read_sample
from segacc.data.samples import IMAGE_SUFFIXES
from segacc.errors import OptionError, UnreadableError
from segacc.plugins.datasets.folder import FolderOptions
from segacc.settings.options import decode


@pytest.mark.parametrize(
    ("called", "split"),
    [
        ("train", "train"),
        ("training", "train"),
        ("Train", "train"),
        ("val", "validation"),
        ("valid", "validation"),
        ("VAL", "validation"),
        ("dev", "validation"),
        ("Eval", "validation"),
        ("validation", "validation"),
        ("test", "test"),
        ("testing", "test"),
    ],
)
def test_splits_go_by_several_names(called: str, split: str, tmp_path: Path) -> None:
    splits = build(fill(tmp_path, split=called))
    assert list(splits.splits) == [split]
    assert [sample.id for sample in splits.splits[split]] == ["a", "b"]


@pytest.mark.parametrize("folder", ["annotations", "labels", "masks"])
def test_labels_lie_in_a_folder_of_three_names(folder: str, tmp_path: Path) -> None:
    splits = build(fill(tmp_path, labels=folder))
    sample = splits.splits["train"][0]
    assert sample.label == tmp_path / folder / "train" / "a.png"
    image, label = read_sample(sample, splits.labels)
    assert image.shape == (3, 4, 6) and (label.numpy() == 1).all()


def test_images_and_labels_may_be_of_any_format(tmp_path: Path) -> None:
    fill(tmp_path, stems=())
    for stem, kind, suffix in (("a", "PNG", ".PNG"), ("b", "TIFF", ".tif"), ("c", "BMP", ".bmp")):
        for folder, array in (("images", np.zeros((4, 6, 3))), ("annotations", np.ones((4, 6)))):
            path = tmp_path / folder / "train" / f"{stem}{suffix}"
            path.write_bytes(encode(array.astype(np.uint8), kind))
    splits = build(tmp_path)
    assert [sample.id for sample in splits.splits["train"]] == ["a", "b", "c"]
    for sample in splits.splits["train"]:
        assert (read_sample(sample, splits.labels)[1].numpy() == 1).all()


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / "images" / "train" / name).write_bytes(b"x")
    (tmp_path / "annotations" / "train" / "._a.png").write_bytes(b"x")
    splits = build(tmp_path)
    assert [sample.id for sample in splits.splits["train"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("typed", "ignored"), [("0", {0}), ("11", {11}), ("0/11", {0, 11}), (7, {7}), ([3, 4], {3, 4})]
)
def test_ignored_ids_are_typed_with_slashes(typed: Any, ignored: set[int], tmp_path: Path) -> None:
    typed = [typed] if isinstance(typed, int) else typed
    splits = build(fill(tmp_path), ignore=typed)
    classes = splits.labels.classes
    assert {raw for raw, k in classes.items() if k == 255} == ignored | {255}
    assert classes[1] == 1


def test_ignored_ids_add_to_those_of_classes_json(shared: Path) -> None:
    splits = build(shared / "camvid", ignore="0/2")
    assert {raw for raw, k in splits.labels.classes.items() if k == 255} == {0, 2, 11, 255}


def test_an_ignored_id_that_is_no_number() -> None:
    with pytest.raises(OptionError) as error:
        decode(FolderOptions, {"root": "x", "ignore": "0/sky"}, "--dataset folder")
    assert str(error.value) == (
        "--dataset folder: ignore: expected a list of integers; found 'sky'."
    )


def test_class_names_from_a_file_of_ones_own(tmp_path: Path, monkeypatch: Any) -> None:
    fill(tmp_path / "data", names="")
    (tmp_path / "my names.txt").write_text("sky\nroad\n\ntree\n")
    splits = build(tmp_path / "data", names=str(tmp_path / "my names.txt"))
    assert splits.labels.names == ("sky", "road", "tree")
    monkeypatch.setenv("HOME", str(tmp_path))
    again = build("~/data", names="~/my names.txt")
    assert again.labels == splits.labels


def test_names_given_go_before_names_found(tmp_path: Path) -> None:
    fill(tmp_path, names="one\ntwo\n")
    (tmp_path / "other.txt").write_text("three\nfour\n")
    assert build(tmp_path).labels.names == ("one", "two")
    found = build(tmp_path, names=str(tmp_path / "other.txt"))
    assert found.labels.names == ("three", "four")
    (tmp_path / "classes.json").write_text('{"0": "five", "1": "six"}')
    assert build(tmp_path).labels.names == ("five", "six")


# -------------------------------------------------------------------------------- what is wrong


def test_a_root_that_is_not_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("gone") == (
        f"--dataset folder: root=gone is not a folder (looked in {tmp_path / 'gone'})."
    )


def test_a_root_of_another_layout(tmp_path: Path) -> None:
    text = (
        "must contain images/<split>/ and annotations/<split>/ (or labels/, masks/), or <split>/ "
        "with these inside; it contains"
    )
    cure = (
        "Use images= and labels= for other folder names, or "
        f"`--dataset {tmp_path}`, which finds them."
    )
    assert refusal(tmp_path) == f"--dataset folder: {tmp_path} {text} nothing. {cure}"
    for number in range(9):
        (tmp_path / f"folder{number}").mkdir()
    listed = ", ".join(f"folder{number}" for number in range(8))
    assert refusal(tmp_path) == f"--dataset folder: {tmp_path} {text} {listed} and 1 more. {cure}"


def test_missing_names(tmp_path: Path) -> None:
    fill(tmp_path, names="")
    assert refusal(tmp_path) == (
        "--dataset folder: no class names. Put classes.json or classes.txt into "
        f"{tmp_path}, or add names=FILE (a text file with one class name per line), "
        "colors=FILE if labels contain colours, or binary=true if they contain 0 and one other "
        "value."
    )
    assert refusal(tmp_path, names=str(tmp_path / "no.txt")) == (
        f"{tmp_path / 'no.txt'}: cannot read the class names: No such file or directory."
    )


def test_no_split(tmp_path: Path) -> None:
    fill(tmp_path, split="everything")
    assert refusal(tmp_path) == (
        f"--dataset folder: {tmp_path / 'images'} has no folder named train, validation or test "
        "(or training, val, valid, dev, eval, testing); it contains everything."
    )


def test_a_split_without_a_folder_of_labels(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "annotations" / "train").rename(tmp_path / "annotations" / "other")
    assert refusal(tmp_path) == (
        f"--dataset folder: {tmp_path / 'images' / 'train'} has no label folder in "
        f"{tmp_path / 'annotations'}."
    )


def test_an_empty_split(tmp_path: Path) -> None:
    fill(tmp_path, stems=())
    assert refusal(tmp_path) == (
        f"{tmp_path / 'images' / 'train'}: the split is empty: no file name "
        f"ends with {', '.join(IMAGE_SUFFIXES)}."
    )


@pytest.mark.parametrize("folder", ["images", "annotations"])
def test_two_files_of_one_stem(folder: str, tmp_path: Path) -> None:
    fill(tmp_path)
    place = tmp_path / folder / "train"
    (place / "a.bmp").write_bytes(b"x")
    first, second = sorted(("a.bmp", "a.jpg" if folder == "images" else "a.png"))
    assert refusal(tmp_path) == (
        f"{place}: {first} and {second} have the same stem. If one is the label of the other, use "
        "--dataset folder with the same folder for images= and labels=; otherwise rename one of "
        "them."
    )


def test_a_missing_label_is_found_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path)
    gone = tmp_path / "annotations" / "train" / "b.png"
    gone.unlink()
    splits = build(tmp_path)
    assert len(splits.splits["train"]) == 2
    read_sample(splits.splits["train"][0], splits.labels)
    with pytest.raises(UnreadableError) as error:
        read_sample(splits.splits["train"][1], splits.labels)
    assert (
        str(error.value) == f"{gone}: the label is missing; each image needs a label with the "
        f"same name."
    )
