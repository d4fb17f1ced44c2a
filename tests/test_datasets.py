"""The built-in data sets: nuclei, inside the package, and folder."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools import encode
from segacc.decode import read_sample
from segacc.errors import DataError, OptionError, UnreadableError
from segacc.hookspecs import DataSplits, Sample
from segacc.options import decode
from segacc.plugins.datasets import FolderOptions, NucleiOptions, segacc_datasets


def build(name: str, **values: Any) -> DataSplits:
    records = {record.name: record for record in segacc_datasets()}
    assert list(records) == ["nuclei", "folder"]
    record = records[name]
    splits: DataSplits = record.build(decode(record.options, values, f"--dataset {name}"))
    return splits


def refusal(**values: Any) -> str:
    with pytest.raises(DataError) as error:
        build("folder", **values)
    return str(error.value)


# --------------------------------------------------------------------------------------- nuclei


@pytest.mark.parametrize(
    ("border", "names"),
    [("false", ("background", "nucleus")), ("true", ("background", "nucleus", "nucleus_border"))],
)
def test_nuclei_are_205_images_of_two_or_three_classes(border: str, names: tuple[str, ...]) -> None:
    splits = build("nuclei", border=border)
    assert {split: len(samples) for split, samples in splits.splits.items()} == {
        "train": 166,
        "validation": 39,
    }
    assert splits.labels.names == names and splits.crop_size == (192, 192)
    sizes, values, ids = Counter(), set(), []
    for samples in splits.splits.values():
        for sample in samples:
            image, label = read_sample(sample, splits.labels)
            assert image.shape == (3, *label.shape)
            sizes[tuple(label.shape)] += 1
            values |= set(np.unique(label.numpy()).tolist())
            ids.append(sample.id)
    assert values == set(range(len(names)))
    assert len(set(ids)) == 205
    assert set(sizes) == {(256, 256), (256, 320), (360, 360), (260, 347)}


def test_borders_and_insides_are_the_nuclei() -> None:
    plain, three = build("nuclei"), build("nuclei", border=True)
    for place in range(0, 39, 5):
        pair = [one.splits["validation"][place] for one in (plain, three)]
        assert pair[0].id == pair[1].id and pair[0].image == pair[1].image
        two, borders = (
            read_sample(s, plain.labels if k == 0 else three.labels)[1] for k, s in enumerate(pair)
        )
        assert (borders == 2).any()
        np.testing.assert_array_equal(borders.numpy() > 0, two.numpy() == 1)


def test_the_embedded_files_are_those_of_the_source(shared: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(shared / "nuclei_dsb2018" / "train.parquet").to_pylist()
    samples = build("nuclei", border="true").splits["train"]
    assert len(table) == len(samples)
    for row, sample in zip(table, samples, strict=True):
        assert sample == Sample(
            row["image"]["bytes"], row["annotation_border"]["bytes"], row["image_id"]
        )


def test_samples_can_be_sent_to_a_worker_and_end() -> None:
    samples = build("nuclei").splits["validation"]
    assert pickle.loads(pickle.dumps(samples))[7] == samples[7]
    with pytest.raises(IndexError):
        samples[39]
    assert len(list(samples)) == 39


# ------------------------------------------------------------------------- folders of real data


def test_camvid_is_read_with_its_unlabelled_pixels_ignored(shared: Path) -> None:
    splits = build("folder", root=str(shared / "camvid"))
    assert {split: len(samples) for split, samples in splits.splits.items()} == {
        "train": 367,
        "validation": 101,
    }
    assert (len(splits.labels.names), splits.labels.names[3]) == (11, "Road")
    assert splits.labels.classes == {**{k: k for k in range(11)}, 11: 255, 255: 255}
    assert splits.labels.palette[3] == (128, 64, 128)
    samples = splits.splits["validation"]
    assert [sample.id for sample in samples] == sorted(sample.id for sample in samples)
    for sample in samples[::25]:
        assert Path(sample.image).stem == Path(sample.label).stem == sample.id
        raw = np.array(Image.open(sample.label))
        label = read_sample(sample, splits.labels)[1].numpy()
        np.testing.assert_array_equal(label, np.where(raw == 11, 255, raw))
        assert (label == 255).any()


def test_ade20k_is_read_with_reduced_labels(shared: Path) -> None:
    splits = build("folder", root=str(shared / "ade20k_sample"))
    assert {split: len(samples) for split, samples in splits.splits.items()} == {
        "train": 6,
        "validation": 39,
    }
    assert (len(splits.labels.names), splits.labels.names[0]) == (150, "wall")
    for sample in splits.splits["train"]:
        raw = np.array(Image.open(sample.label)).astype(int)
        label = read_sample(sample, splits.labels)[1].numpy()
        np.testing.assert_array_equal(label, np.where(raw == 0, 255, raw - 1))


def test_reduce_labels_can_be_overruled(shared: Path) -> None:
    root = str(shared / "ade20k_sample")
    splits = build("folder", root=root, reduce_labels="false")
    sample = splits.splits["train"][0]
    raw = np.array(Image.open(sample.label))
    np.testing.assert_array_equal(read_sample(sample, splits.labels)[1].numpy(), raw)
    reduced = build("folder", root=str(shared / "camvid"), reduce_labels="true").labels
    assert [reduced.classes[raw] for raw in (0, 1, 10, 255)] == [255, 0, 9, 255]


def test_comma10k_is_read(shared: Path) -> None:
    splits = build("folder", root=str(shared / "comma10k_mini"))
    assert [len(samples) for samples in splits.splits.values()] == [9, 2]
    for sample in splits.splits["train"]:
        assert read_sample(sample, splits.labels)[1].numpy().max() <= 4


# ------------------------------------------------------------------------------ folders of ours


def fill(
    root: Path,
    *,
    split: str = "train",
    stems: tuple[str, ...] = ("a", "b"),
    labels: str = "annotations",
    names: str = "sky\nroad\n",
) -> Path:
    """Write a small data set of 4x6 pictures."""
    for folder in (root / "images" / split, root / labels / split):
        folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        image, label = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint8)
        (root / "images" / split / f"{stem}.jpg").write_bytes(encode(image, "JPEG"))
        (root / labels / split / f"{stem}.png").write_bytes(encode(label))
    if names:
        (root / "classes.txt").write_text(names)
    return root


@pytest.mark.parametrize(
    ("called", "split"),
    [
        ("train", "train"),
        ("training", "train"),
        ("Train", "train"),
        ("val", "validation"),
        ("valid", "validation"),
        ("validation", "validation"),
        ("test", "test"),
        ("testing", "test"),
    ],
)
def test_splits_go_by_several_names(called: str, split: str, tmp_path: Path) -> None:
    splits = build("folder", root=str(fill(tmp_path, split=called)))
    assert list(splits.splits) == [split]
    assert [sample.id for sample in splits.splits[split]] == ["a", "b"]


@pytest.mark.parametrize("folder", ["annotations", "labels", "masks"])
def test_labels_lie_in_a_folder_of_three_names(folder: str, tmp_path: Path) -> None:
    splits = build("folder", root=str(fill(tmp_path, labels=folder)))
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
    splits = build("folder", root=str(tmp_path))
    assert [sample.id for sample in splits.splits["train"]] == ["a", "b", "c"]
    for sample in splits.splits["train"]:
        assert (read_sample(sample, splits.labels)[1].numpy() == 1).all()


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / "images" / "train" / name).write_bytes(b"x")
    (tmp_path / "annotations" / "train" / "._a.png").write_bytes(b"x")
    splits = build("folder", root=str(tmp_path))
    assert [sample.id for sample in splits.splits["train"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("typed", "ignored"), [("0", {0}), ("11", {11}), ("0/11", {0, 11}), (7, {7}), ([3, 4], {3, 4})]
)
def test_ignored_ids_are_typed_with_slashes(typed: Any, ignored: set[int], tmp_path: Path) -> None:
    typed = [typed] if isinstance(typed, int) else typed
    splits = build("folder", root=str(fill(tmp_path)), ignore=typed)
    classes = splits.labels.classes
    assert {raw for raw, k in classes.items() if k == 255} == ignored | {255}
    assert classes[1] == 1


def test_ignored_ids_add_to_those_of_classes_json(shared: Path) -> None:
    splits = build("folder", root=str(shared / "camvid"), ignore="0/2")
    assert {raw for raw, k in splits.labels.classes.items() if k == 255} == {0, 2, 11, 255}


def test_an_ignored_id_that_is_no_number() -> None:
    with pytest.raises(OptionError) as error:
        decode(FolderOptions, {"root": "x", "ignore": "0/sky"}, "--dataset folder")
    assert str(error.value) == (
        "--dataset folder: \"ignore\" is 'sky', expected list of integer: input should be a valid "
        "integer, unable to parse string as an integer."
    )


def test_class_names_from_a_file_of_ones_own(tmp_path: Path, monkeypatch: Any) -> None:
    fill(tmp_path / "data", names="")
    (tmp_path / "my names.txt").write_text("sky\nroad\n\ntree\n")
    splits = build("folder", root=str(tmp_path / "data"), names=str(tmp_path / "my names.txt"))
    assert splits.labels.names == ("sky", "road", "tree")
    monkeypatch.setenv("HOME", str(tmp_path))
    again = build("folder", root="~/data", names="~/my names.txt")
    assert again.labels == splits.labels


def test_names_given_go_before_names_found(tmp_path: Path) -> None:
    fill(tmp_path, names="one\ntwo\n")
    (tmp_path / "other.txt").write_text("three\nfour\n")
    assert build("folder", root=str(tmp_path)).labels.names == ("one", "two")
    found = build("folder", root=str(tmp_path), names=str(tmp_path / "other.txt"))
    assert found.labels.names == ("three", "four")
    (tmp_path / "classes.json").write_text('{"0": "five", "1": "six"}')
    assert build("folder", root=str(tmp_path)).labels.names == ("five", "six")


# -------------------------------------------------------------------------------- what is wrong


def test_a_root_that_is_not_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(root="gone") == (
        f"--dataset folder: root=gone is not a folder (looked in {tmp_path / 'gone'})."
    )


def test_a_root_of_another_layout(tmp_path: Path) -> None:
    text = "must hold images/<split>/ and annotations/<split>/ (or labels/, masks/); it holds"
    assert refusal(root=str(tmp_path)) == f"--dataset folder: {tmp_path} {text} nothing."
    for number in range(9):
        (tmp_path / f"folder{number}").mkdir()
    listed = ", ".join(f"folder{number}" for number in range(8))
    assert refusal(root=str(tmp_path)) == f"--dataset folder: {tmp_path} {text} {listed} ...."


def test_missing_names(tmp_path: Path) -> None:
    fill(tmp_path, names="")
    assert refusal(root=str(tmp_path)) == (
        "--dataset folder: no class names. Put classes.json or classes.txt into "
        f"{tmp_path}, or add names=FILE (a text file with one class name a line)."
    )
    assert refusal(root=str(tmp_path), names=str(tmp_path / "no.txt")) == (
        f"{tmp_path / 'no.txt'}: cannot read the class names: No such file or directory."
    )


def test_no_split(tmp_path: Path) -> None:
    fill(tmp_path, split="everything")
    assert refusal(root=str(tmp_path)) == (
        f"--dataset folder: {tmp_path / 'images'} has no folder named train, validation or test "
        "(or training, val, valid); it holds everything."
    )


def test_a_split_without_a_folder_of_labels(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "images" / "val").mkdir()
    assert refusal(root=str(tmp_path)) == (
        f"--dataset folder: {tmp_path / 'images' / 'val'} has no folder of labels beside it in "
        f"{tmp_path / 'annotations'}."
    )


def test_an_empty_split(tmp_path: Path) -> None:
    fill(tmp_path, stems=())
    assert refusal(root=str(tmp_path)) == (
        f"{tmp_path / 'images' / 'train'}: the split is empty: no file ends in .jpg, .jpeg, .png, "
        ".webp, .bmp, .tif, .tiff."
    )


@pytest.mark.parametrize("folder", ["images", "annotations"])
def test_two_files_of_one_stem(folder: str, tmp_path: Path) -> None:
    fill(tmp_path)
    place = tmp_path / folder / "train"
    (place / "a.bmp").write_bytes(b"x")
    first, second = sorted(("a.bmp", "a.jpg" if folder == "images" else "a.png"))
    assert refusal(root=str(tmp_path)) == (
        f"{place}: {first} and {second} have one stem; keep one of them."
    )


def test_a_missing_label_is_found_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path)
    gone = tmp_path / "annotations" / "train" / "b.png"
    gone.unlink()
    splits = build("folder", root=str(tmp_path))
    assert len(splits.splits["train"]) == 2
    read_sample(splits.splits["train"][0], splits.labels)
    with pytest.raises(UnreadableError) as error:
        read_sample(splits.splits["train"][1], splits.labels)
    assert (
        str(error.value) == f"{gone}: the label is missing; each image needs one of the same stem."
    )


def test_unknown_options_are_refused() -> None:
    with pytest.raises(OptionError) as error:
        decode(NucleiOptions, {"borders": "true"}, "--dataset nuclei")
    assert str(error.value) == (
        '--dataset nuclei: unknown option "borders". Did you mean "border"? Known: border.'
    )
