"""cityscapes: what torchvision knows of it, fine and coarse labels, train ids."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets

from known_data import (
    RECORDS,
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
from segacc.errors import UnreadableError
from segacc.testing import check_dataset

STREET = [one for one in torchvision_datasets.Cityscapes.classes if one.id >= 0]
TRAIN_IDS = {one.id: one.train_id for one in STREET}
FRAMES = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "zurich_000000_000019"),
    "val": ("munster_000000_000019",),
    "test": ("berlin_000000_000019",),
    "train_extra": ("augsburg_000000_000000",),
}


def street(root: Path, kind: str, split: str, *, train_ids: bool = False) -> Path:
    """Write the images of a split and all the files that belong to them in gtFine or gtCoarse."""
    for frame in FRAMES[split]:
        city, number = frame.split("_")[0], len(kind) + sum(map(ord, frame))
        save(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", photo(number))
        raw = scatter(range(34), number) if split != "test" else scatter([0, 1, 3])
        stem = root / kind / split / city / f"{frame}_{kind}"
        save(stem.with_name(f"{stem.name}_labelIds.png"), raw)
        save(stem.with_name(f"{stem.name}_instanceIds.png"), raw)
        save(stem.with_name(f"{stem.name}_color.png"), photo(number))
        stem.with_name(f"{stem.name}_polygons.json").write_text("{}")
        if train_ids:
            save(stem.with_name(f"{stem.name}_labelTrainIds.png"), mapped(raw, TRAIN_IDS))
    return root


def test_cityscapes_has_the_classes_and_colours_that_torchvision_lists(tmp_path: Path) -> None:
    data = build("cityscapes", root=str(street(tmp_path, "gtFine", "val")))
    kept = sorted((one for one in STREET if one.train_id != 255), key=lambda one: one.train_id)
    assert len(data.labels.names) == 19
    assert data.labels.names == tuple(one.name for one in kept)
    assert data.labels.palette == tuple(one.color for one in kept)
    assert data.labels.classes == {**TRAIN_IDS, 255: 255}
    assert data.crop_size == (512, 1024)
    submitted = data.labels.restore(np.arange(19))
    assert submitted.tolist() == [one.id for one in kept]


def test_cityscapes_pairs_what_torchvision_pairs(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        street(tmp_path, "gtFine", split)
    data = build("cityscapes", root=str(tmp_path))
    assert sizes(data) == {"train": 3, "validation": 1}  # the labels of test are dummies
    assert ids(data, "train") == list(FRAMES["train"])
    for split, theirs in (("train", "train"), ("validation", "val")):
        other = torchvision_datasets.Cityscapes(str(tmp_path), theirs, target_type="semantic")
        pairs = zip(other.images, (target for (target,) in other.targets), strict=True)
        assert {(str(one.image), str(one.label)) for one in data.splits[split]} == set(pairs)
        for k, path in enumerate(other.images):
            image, raw = map(np.array, other[k])
            mine = read(data, split, Path(path).name.removesuffix("_leftImg8bit.png"))
            np.testing.assert_array_equal(mine[0], image)
            np.testing.assert_array_equal(mine[1], mapped(raw, TRAIN_IDS))
    check_dataset(RECORDS["cityscapes"], options("cityscapes", root=str(tmp_path)))


def test_cityscapes_reads_train_ids_to_the_same_classes(tmp_path: Path) -> None:
    street(tmp_path, "gtFine", "train", train_ids=True)
    plain = build("cityscapes", root=str(tmp_path))
    trained = build("cityscapes", root=str(tmp_path), labels="labelTrainIds")
    assert (trained.labels.names, trained.labels.palette) == (
        plain.labels.names,
        plain.labels.palette,
    )
    assert trained.labels.classes == {**{k: k for k in range(19)}, 255: 255}
    for mine, theirs in zip(plain.splits["train"], trained.splits["train"], strict=True):
        assert mine.label != theirs.label
        both = [read(data, "train", mine.id)[1] for data in (plain, trained)]
        np.testing.assert_array_equal(*both)


def test_coarse_labels_train_and_fine_ones_score(tmp_path: Path) -> None:
    for kind, split in (("gtFine", "train"), ("gtFine", "val"), ("gtCoarse", "train")):
        street(tmp_path, kind, split)
    street(tmp_path, "gtCoarse", "train_extra")
    data = build("cityscapes", root=str(tmp_path), coarse="true")
    assert sizes(data) == {"train": 3, "train_extra": 1, "validation": 1}
    for split, theirs in (("train", "train"), ("train_extra", "train_extra")):
        other = torchvision_datasets.Cityscapes(
            str(tmp_path), theirs, mode="coarse", target_type="semantic"
        )
        found = {str(sample.label) for sample in data.splits[split]}
        assert found == {target for (target,) in other.targets}
    assert "gtFine" in str(data.splits["validation"][0].label)
    assert sizes(build("cityscapes", root=str(tmp_path))) == {"train": 3, "validation": 1}


def test_cityscapes_without_coarse_labels(tmp_path: Path) -> None:
    street(tmp_path, "gtFine", "train")
    assert refusal("cityscapes", root=str(tmp_path), coarse="true") == (
        f"--dataset cityscapes: {tmp_path} must contain leftImg8bit/, gtCoarse/ and gtFine/; it "
        "contains gtFine, leftImg8bit."
    )


def test_a_city_without_labels(tmp_path: Path) -> None:
    street(tmp_path, "gtFine", "train")
    labels = tmp_path / "gtFine" / "train"
    city = tmp_path / "leftImg8bit" / "train" / "zurich"
    shutil.rmtree(labels / "zurich")
    assert refusal("cityscapes", root=str(tmp_path)) == (
        f"--dataset cityscapes: {city} has no label folder in {labels}."
    )


def test_train_ids_that_nobody_made(tmp_path: Path) -> None:
    street(tmp_path, "gtFine", "val")
    folder = tmp_path / "gtFine" / "val" / "munster"
    files = ("color.png", "instanceIds.png", "labelIds.png", "polygons.json")
    held = ", ".join(f"munster_000000_000019_gtFine_{file}" for file in files)
    assert refusal("cityscapes", root=str(tmp_path), labels="labelTrainIds") == (
        "--dataset cityscapes: none of the split's images (1) has a label, e.g. "
        f"{folder / 'munster_000000_000019_gtFine_labelTrainIds.png'}; that folder contains {held}."
    )


def test_a_missing_label_of_cityscapes_is_found_when_it_is_read(tmp_path: Path) -> None:
    street(tmp_path, "gtFine", "train")
    gone = tmp_path / "gtFine" / "train" / "aachen" / "aachen_000001_000019_gtFine_labelIds.png"
    gone.unlink()
    data = build("cityscapes", root=str(tmp_path))
    read(data, "train", "aachen_000000_000019")
    with pytest.raises(UnreadableError) as error:
        read(data, "train", "aachen_000001_000019")
    assert str(error.value).startswith(f"{gone}: the label is missing")


def test_cityscapes_without_splits_or_cities(tmp_path: Path) -> None:
    images = tmp_path / "leftImg8bit"
    for folder in (images / "demoVideo", tmp_path / "gtFine"):
        folder.mkdir(parents=True)
    assert refusal("cityscapes", root=str(tmp_path)) == (
        f"--dataset cityscapes: {images} must contain train/ or val/; it contains demoVideo."
    )
    save(images / "train" / "a.png", photo(0))
    assert refusal("cityscapes", root=str(tmp_path)) == (
        f"--dataset cityscapes: {images / 'train'} must contain a folder for each city; it "
        "contains a.png."
    )
