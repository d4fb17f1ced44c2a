"""`folder`: other folders, other names of files, several annotators, and lists of samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folder_tools import build, read_labels, refusal, save
from segacc.hookspecs import DataSplits

IMAGE = np.zeros((4, 6, 3))
LABEL = np.tile([0, 1, 1, 0, 1, 0], (4, 1))
WHERE = "--dataset folder:"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with class names."""
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    return tmp_path


def images(root: Path, *paths: str) -> None:
    for path in paths:
        save(root / path, IMAGE)


def labels(root: Path, *paths: str, pixels: Any = LABEL) -> None:
    for path in paths:
        save(root / path, pixels)


def files(splits: DataSplits, root: Path, split: str = "train") -> list[tuple[str, str, str]]:
    """Tell (id, image, label) of the samples, relative to `root`, after reading them all."""
    read_labels(splits, split)
    return [
        (one.id, *(Path(str(path)).relative_to(root).as_posix() for path in (one.image, one.label)))
        for one in splits.splits[split]
    ]


# -------------------------------------------------------------------------------------- folders


def test_a_template_finds_the_folders_of_the_splits_side_by_side(root: Path) -> None:
    for split in ("train", "val"):
        images(root, f"{split}/a.png")
        labels(root, f"{split}annot/a.png")
    splits = build(root, images="SPLIT", labels="SPLITannot")
    assert files(splits, root) == [("a", "train/a.png", "trainannot/a.png")]
    assert files(splits, root, "validation") == [("a", "val/a.png", "valannot/a.png")]


def test_folders_of_other_names_hold_the_splits(root: Path) -> None:
    images(root, "data/rgb/Train/a.jpg")
    labels(root, "gt/training/a.png")
    splits = build(root, images="data/rgb/", labels="gt")
    assert files(splits, root) == [("a", "data/rgb/Train/a.jpg", "gt/training/a.png")]


def test_splits_may_hold_the_folders_of_images_and_labels(root: Path) -> None:
    for split in ("Training", "dev"):
        images(root, f"{split}/images/a.jpg")
        labels(root, f"{split}/masks/a.png")
    splits = build(root)
    assert files(splits, root) == [("a", "Training/images/a.jpg", "Training/masks/a.png")]
    assert files(splits, root, "validation") == [("a", "dev/images/a.jpg", "dev/masks/a.png")]


def test_images_without_splits_are_the_training_split(root: Path) -> None:
    images(root, "images/b.jpg", "images/a.jpg")
    labels(root, "labels/a.png", "labels/b.png")
    splits = build(root)
    assert list(splits.splits) == ["train"]
    assert files(splits, root) == [
        ("a", "images/a.jpg", "labels/a.png"),
        ("b", "images/b.jpg", "labels/b.png"),
    ]


def test_a_folder_that_is_named_must_be_there(root: Path) -> None:
    images(root, "images/train/a.jpg")
    labels(root, "labels/train/a.png")
    assert refusal(root, images="rgb") == (
        f"{WHERE} images=rgb: {root / 'rgb'} is not a folder; {root} contains classes.txt, images, "
        "labels."
    )
    assert refusal(root, images="SPLIT/rgb") == (
        f"{WHERE} {root} has no folder SPLIT/rgb where SPLIT is train, validation or test (or "
        f"training, val, valid, dev, eval, testing); {root} contains classes.txt, images, labels."
    )
    assert refusal(root, labels="SPLIT_gt") == (
        f"{WHERE} {root / 'images/train'} has no label folder SPLIT_gt in {root}, where SPLIT "
        f"is train or training; {root} contains classes.txt, images, labels."
    )


# --------------------------------------------------------------------------------- names of files


def test_labels_may_have_a_suffix(root: Path) -> None:
    images(root, "images/train/a.jpg", "images/train/b.jpg")
    labels(root, "labels/train/a_mask.png", "labels/train/b_mask.png")
    found = files(build(root, label_suffix="_mask"), root)
    assert found == [
        ("a", "images/train/a.jpg", "labels/train/a_mask.png"),
        ("b", "images/train/b.jpg", "labels/train/b_mask.png"),
    ]


def test_images_and_labels_may_lie_in_one_folder(root: Path) -> None:
    images(root, "train/a.png", "train/b.png")
    labels(root, "train/a_gt.png", "train/b_gt.png")
    found = files(build(root, images="SPLIT", labels="SPLIT", label_suffix="_gt"), root)
    assert found == [
        ("a", "train/a.png", "train/a_gt.png"),
        ("b", "train/b.png", "train/b_gt.png"),
    ]


def test_images_may_have_a_suffix_too(root: Path) -> None:
    images(root, "train/7_sat.jpg")
    labels(root, "train/7_mask.png")
    typed = {"images": "SPLIT", "labels": "SPLIT", "image_suffix": "_sat", "label_suffix": "_mask"}
    found = files(build(root, **typed), root)
    assert found == [("7", "train/7_sat.jpg", "train/7_mask.png")]


def test_the_suffix_that_is_missing_is_told(root: Path) -> None:
    images(root, "images/train/a.jpg")
    labels(root, "labels/train/a_labelIds.png")
    assert refusal(root) == (
        f"{WHERE} label file names in {root / 'labels/train'} do not match image file names in "
        f"{root / 'images/train'}: they have an extra suffix. Add label_suffix=_labelIds."
    )


def test_labels_of_other_names_are_told(root: Path) -> None:
    images(root, "images/train/a.jpg")
    labels(root, "labels/train/seg1.png")
    assert refusal(root) == (
        f"{WHERE} none of the split's images (1) has a label, e.g. "
        f"{root / 'labels/train/a.png'}; that folder contains seg1.png."
    )


# ------------------------------------------------------------------------------------ annotators


@pytest.mark.parametrize("ending", [".npz", ".txt", ".webp"])
def test_labels_of_other_formats_are_told(ending: str, root: Path) -> None:
    images(root, "images/train/a.jpg")
    (root / "labels/train").mkdir(parents=True)
    (root / f"labels/train/a{ending}").write_bytes(b"x")
    assert refusal(root) == (
        f"--dataset folder: {root}/labels/train/a{ending} is not read: labels end in .png, .tif, "
        ".tiff, .bmp, .gif, .npy, and their pixel values are class ids. Convert the labels."
    )


def test_the_labels_of_one_annotator_are_chosen_from_folders_in_the_split(root: Path) -> None:
    images(root, "images/train/a.jpg")
    labels(root, "annotations/train/anna/a.png")
    labels(root, "annotations/train/Ben/a.png", pixels=1 - LABEL)
    splits = build(root, annotator="ben")
    assert files(splits, root) == [("a", "images/train/a.jpg", "annotations/train/Ben/a.png")]
    np.testing.assert_array_equal(read_labels(splits)[0], 1 - LABEL)
    folder = root / "annotations" / "train"
    assert refusal(root) == (
        f"{WHERE} {folder} has labels of several annotators; choose one with annotator=Ben or "
        "annotator=anna."
    )
    assert refusal(root, annotator="ana") == (
        f'{WHERE} annotator=ana: no labels of this annotator in {folder}. Did you mean "anna"? '
        f"Found: "
        "Ben, anna."
    )


def test_annotators_may_have_the_splits_in_their_folders(root: Path) -> None:
    images(root, "images/val/a.jpg")
    labels(root, "labels/anna/val/a.png", "labels/ben/valid/a.png")
    found = files(build(root, annotator="ben"), root, "validation")
    assert found == [("a", "images/val/a.jpg", "labels/ben/valid/a.png")]
    assert refusal(root) == (
        f"{WHERE} {root / 'labels'} has labels of several annotators; choose one with "
        "annotator=anna or annotator=ben."
    )


def test_annotators_may_sign_the_files(root: Path) -> None:
    images(root, "images/train/a_1.jpg")
    labels(root, "masks/train/a_1_anna.png", "masks/train/a_1_ben.png")
    found = files(build(root, annotator="ben"), root)
    assert found == [("a_1", "images/train/a_1.jpg", "masks/train/a_1_ben.png")]
    assert refusal(root, annotator="carl") == (
        f"{WHERE} annotator=carl: no labels of this annotator in {root / 'masks/train'}. Found: "
        "anna, ben."
    )
    labels(root, "masks/train/a_1_ben_mask.png")
    found = files(build(root, annotator="ben", label_suffix="_mask"), root)
    assert found == [("a_1", "images/train/a_1.jpg", "masks/train/a_1_ben_mask.png")]


# ----------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("comma", [" ", "\t", ",", " ; "])
def test_a_list_names_images_and_labels_in_its_order(comma: str, root: Path) -> None:
    images(root, "x/b.jpg", "y/a.jpg")
    labels(root, "gt/b1.png", "gt/a1.png")
    lines = f"x/b.jpg{comma}gt/b1.png\n\ny\\a.jpg{comma}gt\\a1.png\r\n"  # as on Windows
    (root / "train.txt").write_text(lines)
    splits = build(root, train="train.txt")
    assert list(splits.splits) == ["train"]
    assert files(splits, root) == [("b", "x/b.jpg", "gt/b1.png"), ("a", "y/a.jpg", "gt/a1.png")]


def test_ids_of_a_list_are_paths_where_names_come_twice(root: Path) -> None:
    images(root, "x/a.jpg", "y/a.jpg")
    labels(root, "gt/1.png", "gt/2.png")
    (root / "train.txt").write_text("x/a.jpg gt/1.png\ny/a.jpg gt/2.png\n")
    found = files(build(root, train=str(root / "train.txt")), root)
    assert [one[0] for one in found] == ["x/a", "y/a"]


def test_a_list_of_names_chooses_among_images_without_splits(root: Path) -> None:
    images(root, "images/a.jpg", "images/b.jpg", "images/c d.jpg")
    labels(root, *(f"labels/{stem}.png" for stem in ("a", "b", "c d")))
    (root / "train.txt").write_text("c d.jpg\na\n")
    (root / "val.txt").write_text("b.jpg\n")
    splits = build(root, train="train.txt", validation="val.txt")
    assert [one.id for one in splits.splits["train"]] == ["c d", "a"]
    assert files(splits, root, "validation") == [("b", "images/b.jpg", "labels/b.png")]


def test_a_list_of_paths_of_images_finds_the_labels_by_name(root: Path) -> None:
    images(root, "day 1/a.jpg", "day2/b.jpg")
    labels(root, "labels/train/a.png", "labels/train/b.png")
    (root / "train.txt").write_text("day2/b.jpg\nday 1/a.jpg\n")
    assert files(build(root, train="train.txt"), root) == [
        ("b", "day2/b.jpg", "labels/train/b.png"),
        ("a", "day 1/a.jpg", "labels/train/a.png"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"img s/a, 1.jpg","lab/a 1.png"\n"img s/b;2.jpg","lab/b.png"\n', ["a, 1", "b;2"]),
        ('"image";"mask"\n"img s/b;2.jpg"; lab/b.png\n', ["b;2"]),
        ('"img s/a, 1.jpg"  "lab/a 1.png"\n', ["a, 1"]),
        ('"b;2"\n"c"\n', ["b;2", "c"]),
        ('filename\n"c d.jpg"\nc\n', ["c d", "c"]),
    ],
)
def test_a_list_may_have_quotes_and_a_heading(text: str, expected: list[str], root: Path) -> None:
    images(root, "img s/a, 1.jpg", "img s/b;2.jpg", "img s/c.jpg", "img s/c d.jpg")
    labels(root, "lab/a 1.png", "lab/b.png", "lab/b;2.png", "lab/c.png", "lab/c d.png")
    (root / "train.csv").write_text(text)
    splits = build(root, images="img s", labels="lab", train="train.csv")
    assert [one.id for one in splits.splits["train"]] == expected


def test_lists_divide_the_folder_of_one_split(root: Path) -> None:
    images(root, "images/train/a.jpg", "images/train/b.jpg")
    labels(root, "labels/train/a.png", "labels/train/b.png")
    (root / "1.txt").write_text("images/train/a.jpg\n")
    (root / "2.txt").write_text("images\\train\\b.jpg\n")
    splits = build(root, train="1.txt", validation="2.txt")
    assert files(splits, root) == [("a", "images/train/a.jpg", "labels/train/a.png")]
    expected = [("b", "images/train/b.jpg", "labels/train/b.png")]
    assert files(splits, root, "validation") == expected


def test_a_list_for_one_split_leaves_the_folders_of_the_others(root: Path) -> None:
    images(root, "images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg")
    labels(root, *(f"labels/{path}.png" for path in ("train/a", "train/b", "val/c")))
    (root / "half.txt").write_text("b\n")
    splits = build(root, train="half.txt")
    assert [one.id for one in splits.splits["train"]] == ["b"]
    assert [one.id for one in splits.splits["validation"]] == ["c"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the list is empty; expected one name per line."),
        ("b.jpg gt/a.png", "1 of its 1 images are missing: b.jpg. Paths are relative to {root}."),
        (
            "x/a.jpg x/a.jpg",
            "x/a.jpg: labels must be PNG or another lossless format: JPEG alters the ids. Export "
            "the labels again, or, for masks of 0 and 255, use --dataset folder with binary=true.",
        ),
        (
            "x/a.jpg gt/a.png\nx/a.jpg gt/a.png",
            "x/a.jpg is listed twice; keep one of the lines.",
        ),
        (
            "x/a.jpg gt/a.png\nx/a.jpg",
            "the line 'x/a.jpg' has 1 columns; expected the same number in every line: `IMAGE "
            "LABEL`, two paths in {root}, or the name of an image. Put commas between paths that "
            "contain "
            "spaces.",
        ),
        (
            "z",
            "its images must be in {root}/images, which is not a folder, or be paths in {root}.",
        ),
    ],
    ids=["empty", "image gone", "jpeg label", "twice", "other columns", "no folder"],
)
def test_a_list_that_cannot_be_right(text: str, told: str, root: Path) -> None:
    images(root, "x/a.jpg")
    labels(root, "gt/a.png")
    (root / "list.txt").write_text(text)
    assert refusal(root, train="list.txt") == f"{root / 'list.txt'}: {told.format(root=root)}"


def test_a_list_that_is_not_there(root: Path) -> None:
    assert refusal(root, train="gone.txt") == (
        "gone.txt: cannot read the list: No such file or directory."
    )
