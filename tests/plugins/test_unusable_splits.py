"""A split that cannot be read stops only what asks for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from check_tools import chosen, look, problems, texts
from cli_tools import TINY, Warm, assert_refused, assert_succeeded, write_data
from folder_tools import fill
from known_data import photo, save, scatter
from segacc.data.samples import build_splits
from segacc.data.splits import pick_split
from segacc.errors import DataError
from voc_data import voc

pytest_plugins = ["cli_fixtures"]


def without_labels(root: Path) -> str:
    fill(root)
    save(root / "images/test/c.jpg", photo(1))
    return f"folder:root={root}"


def empty(root: Path) -> str:
    fill(root)
    (root / "images/test").mkdir()
    return f"folder:root={root}"


def split_first(root: Path) -> str:
    save(root / "train/images/a.jpg", photo(1))
    save(root / "train/masks/a.png", scatter([0, 1]))
    save(root / "test/images/b.jpg", photo(2))
    (root / "classes.txt").write_text("sky\nroad\n")
    return f"folder:root={root}"


def pairs(root: Path, names: str) -> None:
    for name in names:
        save(root / f"images/{name}.jpg", photo(1))
        save(root / f"labels/{name}.png", scatter([0, 1]))


def listed(root: Path) -> str:
    pairs(root, "abc")
    (root / "labels/c.png").unlink()
    (root / "train.txt").write_text("a\nb\n")
    (root / "test.txt").write_text("c\n")
    (root / "classes.txt").write_text("sky\nroad\n")
    return f"folder:root={root},labels=labels,train=train.txt,test=test.txt"


def of_voc(root: Path) -> str:
    voc(root, lists=("train",))
    (root / "ImageSets/Segmentation/trainval.txt").write_text("2007_000032\n1999_000001\n")
    return f"voc:root={root}"


def cityscapes(root: Path) -> str:
    for split, city in (("train", "ulm"), ("val", "bonn")):
        save(root / f"leftImg8bit/{split}/{city}/x_leftImg8bit.png", photo(1))
    save(root / "gtFine/train/ulm/x_gtFine_labelIds.png", scatter(range(34)))
    return f"cityscapes:root={root}"


def camvid(root: Path) -> str:
    for split in ("train", "test"):
        save(root / split / "0001TP_000000.png", photo(1))
    save(root / "trainannot/0001TP_000000.png", scatter(range(12)))
    return f"camvid:root={root}"


def coco_stuff(root: Path) -> str:
    for split in ("train2017", "val2017"):
        save(root / "images" / split / "1.jpg", photo(1))
    save(root / "annotations/train2017/1.png", scatter(range(6)))
    return f"coco_stuff:root={root}"


def ade20k(root: Path) -> str:
    for split in ("training", "validation"):
        save(root / "images" / split / "1.jpg", photo(1))
    save(root / "annotations/training/1.png", scatter(range(6)))
    return f"ade20k:root={root}"


def mixed(root: Path) -> str:
    parts = [without_labels(root / "a"), f"folder:root={fill(root / 'b')}"]
    return f'mix:sets=["{parts[0]}","{parts[1]}"]'


CASES: dict[str, tuple[Callable[[Path], str], str, str]] = {
    "no labels": (
        without_labels,
        "test",
        "--dataset folder: {root}/images/test has no label folder in {root}/annotations.",
    ),
    "empty": (empty, "test", "{root}/images/test: the split is empty: no file name ends with "),
    "split first": (
        split_first,
        "test",
        "--dataset folder: {root}/test/images has no label folder SPLIT/masks in {root}, ",
    ),
    "listed": (
        listed,
        "test",
        "--dataset folder: none of the split's images (1) has a label, e.g. {root}/labels/c.png; ",
    ),
    "voc": (of_voc, "trainval", "{root}/ImageSets/Segmentation/trainval.txt: 1 of its 2 names "),
    "cityscapes": (
        cityscapes,
        "validation",
        "--dataset cityscapes: {root}/leftImg8bit/val/bonn has no label folder in {root}/gtFine/",
    ),
    "camvid": (camvid, "test", "--dataset camvid: {root}/test has no labels: testannot/ or "),
    "coco_stuff": (
        coco_stuff,
        "validation",
        "--dataset coco_stuff: {root}/images/val2017 has no label folder in {root}/annotations.",
    ),
    "ade20k": (
        ade20k,
        "validation",
        "--dataset ade20k: {root}/images/validation has no label folder in {root}/annotations.",
    ),
    "mix": (mixed, "test", "--dataset folder: {root}/a/images/test has no label folder in "),
}


@pytest.mark.parametrize("case", CASES)
def test_a_split_that_cannot_be_read_is_an_error_where_it_is_asked_for(
    case: str, tmp_path: Path
) -> None:
    fill_in, split, start = CASES[case]
    data = build_splits(chosen(fill_in(tmp_path)))
    assert list(data.splits) == ["train"] and list(data.unusable) == [split]
    assert len(pick_split(data, "train", "--x")) >= 1
    for asked in (split, f"{split}[:1]", *(["val"] if split == "validation" else [])):
        with pytest.raises(DataError) as error:
            pick_split(data, asked, "--x")
        assert str(error.value).startswith(start.format(root=tmp_path))


def test_a_split_of_tables_without_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    ids = [np.ones((4, 6), int).tolist()]
    rows = {"image": [{"bytes": b"x", "path": "a.png"}], "label": ids}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    datasets.Dataset.from_dict({"image": rows["image"]}).to_parquet(tmp_path / "test.parquet")
    datasets.Dataset.from_dict(rows).select([]).to_parquet(tmp_path / "validation.parquet")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    data = build_splits(chosen(f"hub:path={tmp_path}"))
    assert list(data.splits) == ["train"]
    assert {name: str(error) for name, error in data.unusable.items()} == {
        "validation": f"--dataset hub: path={tmp_path} cannot be loaded: the files have no rows.",
        "test": "--dataset hub: the split test has no column label.",
    }


def test_the_error_is_told_if_no_split_can_be_read(tmp_path: Path) -> None:
    typed = without_labels(tmp_path)
    shutil.rmtree(tmp_path / "annotations/train")
    with pytest.raises(DataError, match=r"images/train has no label folder in"):
        build_splits(chosen(typed))


def test_images_beside_empty_folders_of_splits_are_the_training_split(tmp_path: Path) -> None:
    pairs(tmp_path, "ab")
    (tmp_path / "images/val").mkdir()
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    data = chosen(str(tmp_path))
    assert data.found and data.found.val_fraction == 0.2
    assert {name: len(some) for name, some in build_splits(data).splits.items()} == {"train": 2}


def test_a_faulty_validation_split_is_not_replaced_without_being_asked(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 5, "validation": 2})
    shutil.rmtree(root / "annotations/validation")
    data = chosen(str(root))
    assert data.found and data.found.val_fraction is None
    assert data.note.endswith("(5 train)")
    text = f"--dataset folder: {root}/images/validation has no label folder in {root}/annotations."
    assert [one.text for one in problems(look(str(root)))] == [text]
    held = look(str(root), val_fraction=0.2)
    assert problems(held) == []
    assert f"the data set's split validation cannot be read: {text[:-1]}" in texts(held)


def test_training_needs_no_test_split_and_no_folder_that_it_replaces(
    warm: Warm, tmp_path: Path
) -> None:
    root = write_data(tmp_path / "d", counts={"train": 5, "test": 2})
    shutil.rmtree(root / "annotations/test")
    for kind in ("images", "annotations"):
        (root / kind / "val").mkdir()
    given = "--dataset", f"folder:root={root}"
    run = *given, *TINY, "--output-dir", "run"
    start = f"{root}/images/val: the split is empty: no file name ends with "
    done = warm(*run, cwd=tmp_path)
    assert done.stderr.startswith(f"segacc: {start}")
    assert done.stderr.endswith(" --val-fraction 0.2 holds out a part of the training split.\n")
    said = assert_succeeded(warm("check-data", "--dataset", root, cwd=tmp_path)).stdout
    assert f"warning: the data set's split validation cannot be read: {start}" in said
    assert "warning: the data set's split test cannot be read: --dataset folder: " in said
    done = assert_succeeded(warm(*run, "--val-fraction", "0.2", cwd=tmp_path))
    assert f"the data set's split validation cannot be read: {start}" in done.stdout
    assert "split test" not in done.stdout
    asked = "evaluate", "run/best", *given, "--split", "test"
    assert_refused(
        warm(*asked, cwd=tmp_path),
        f"--dataset folder: {root}/images/test has no label folder in {root}/annotations.",
    )


def test_hidden_and_system_files_belong_to_no_split(tmp_path: Path) -> None:
    for fill_in, inside in ((cityscapes, "leftImg8bit/train"), (split_first, "train/images")):
        root = tmp_path / fill_in.__name__
        typed = fill_in(root)
        for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
            save(root / inside / name / "x.png", photo(1))
        for name in ("._a.png", "Thumbs.db", ".DS_Store"):
            (root / inside / name).write_bytes(b"x")
        assert [len(some) for some in build_splits(chosen(typed)).splits.values()] == [1]
    found = look(str(tmp_path / "split_first"))
    assert not any("skipped" in text for text in texts(found))
