"""The sheets of `check-data`: what is drawn, and that the augmented pictures are training's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from check_tools import LABEL, chosen, foreign_values, look, of_samples
from cli_tools import NAMES, write_data
from data_tools import random_sample
from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.pictures import (
    TURNS,
    WIDTH,
    _training,
    augmented,
    bar_length,
    draw_augmented,
    draw_check,
)
from segacc.contracts import Facts
from segacc.data.augment import Pipeline
from segacc.data.batches import Source, TrainData
from segacc.data.items import Batch, Item, collate
from segacc.data.order import Order
from segacc.data.pictures import PAPER, blend
from segacc.data.samples import build_splits
from segacc.errors import DataError
from segacc.labels import spread_colors

PALETTE = spread_colors(3)


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        assert picture.width == WIDTH
        return np.asarray(picture.convert("RGB"))


def holds(sheet: Any, color: tuple[int, ...]) -> bool:
    return bool((sheet == color).all(axis=2).any())


def test_bars_are_logarithmic() -> None:
    assert [bar_length(share, 500) for share in (1.0, 0.1, 0.01, 1e-5)] == [500, 400, 300, 0]
    assert bar_length(0.0, 500) == bar_length(1e-9, 500) == 0


def test_a_blend_marks_ignored_pixels() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    classes = np.zeros((8, 8), np.uint8)
    classes[:, 4:] = 255
    mixed = blend(image, classes, PALETTE)
    assert (mixed[:, :4] == np.rint(45 + 0.55 * np.array(PALETTE[0]))).all()
    assert len(np.unique(mixed[:, 4:])) == 2, "stripes of two greys"


def test_the_sheet_has_a_bar_and_a_legend_for_what_occurs(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", names=(*NAMES, "tree"))
    draw_check(look(f"folder:root={root}"), tmp_path / "out" / "data_check.png")
    sheet = pixels(tmp_path / "out" / "data_check.png")
    palette = spread_colors(4)
    assert [holds(sheet, color) for color in palette] == [True, True, True, False]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["data_check.png"]
    full = (sheet == palette[0]).all(axis=2).sum(axis=1).max()
    bars = [(sheet == color).all(axis=2).sum(axis=1).max() for color in palette[1:3]]
    shares = look(f"folder:root={root}").splits["train"]
    wide = [bar_length(shares.share(k), WIDTH) for k in range(3)]
    for bar, length in zip(bars, wide[1:], strict=True):
        assert bar / full == pytest.approx(length / wide[0], abs=0.03)


def test_a_sheet_without_a_readable_sample(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 1, "validation": 1})
    for path in root.glob("annotations/*/*.png"):
        path.write_bytes(b"not a picture")
    found = look(f"folder:root={root}")
    draw_check(found, tmp_path / "sheet.png")
    assert (pixels(tmp_path / "sheet.png") == PAPER).mean() > 0.5
    with pytest.raises(DataError) as error:
        draw_augmented(found, [], tmp_path / "augmented.png")
    assert str(error.value) == (
        "--show-augmented: the training split has no sample without a fault."
    )


FLAT = ((37, 201, 144), (171, 93, 211), (213, 164, 17), (19, 118, 199), (144, 37, 96))
"""Colours of images, which nothing else on a sheet has."""


def write_flat(root: Path) -> Path:
    """Write five images of one colour each, the last for validation, with labels of two halves."""
    write_data(root, counts={"train": 4, "validation": 1})
    for number, color in enumerate(FLAT):
        split, place = ("train", number) if number < 4 else ("validation", 0)
        image = np.full((48, 64, 3), color, np.uint8)
        label = np.repeat(np.array([halves(number)], np.uint8), 32, axis=1).repeat(48, axis=0)
        for kind, picture in (("images", image), ("annotations", label)):
            Image.fromarray(picture).save(root / kind / split / f"{split}{place}.png")
    return root


def halves(number: int) -> tuple[int, int]:
    """Return the classes of a label's left and right half."""
    return number % 3, (number + 1) % 3


def tiles_of(sheet: Any, color: Any) -> list[tuple[slice, slice]]:
    """Find the solid rectangles of a colour, which lie beside each other: rows and columns."""
    found = (sheet == np.asarray(color)).all(axis=2)
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    assert len(rows), f"{color} is nowhere on the sheet"
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    tiles = [(slice(rows[0], rows[-1] + 1), slice(run[0], run[-1] + 1)) for run in runs]
    assert all(found[tile].all() for tile in tiles), f"{color} is not solid"
    return tiles


def laid_over(number: int) -> list[Any]:
    """Lay the colours of both halves over that of an image."""
    ours = 0.45 * np.array(FLAT[number])
    return [np.rint(ours + 0.55 * np.array(PALETTE[k])).astype(np.uint8) for k in halves(number)]


def assert_below(tile: tuple[slice, slice], left: Any, right: Any) -> None:
    """Require the two halves of an overlay right below its image, as high and as wide."""
    rows, columns = tile
    height, width = rows.stop - rows.start, columns.stop - columns.start
    assert width == pytest.approx(4 / 3 * height, abs=1) and width > 150
    assert left[0] == right[0]
    assert left[0].stop - left[0].start == height and 0 < left[0].start - rows.stop < 20
    assert (left[1].start, right[1].stop) == (columns.start, columns.stop)
    assert left[1].stop == right[1].start == pytest.approx(columns.start + width / 2, abs=1)


def test_the_sheet_has_the_samples_and_their_labels_laid_over_them(tmp_path: Path) -> None:
    found = look(f"folder:root={write_flat(tmp_path / 'd')}")
    draw_check(found, tmp_path / "sheet.png")
    sheet, seen = pixels(tmp_path / "sheet.png"), []
    for number, color in enumerate(FLAT):
        [tile], [left], [right] = (tiles_of(sheet, one) for one in (color, *laid_over(number)))
        assert_below(tile, left, right)
        seen.append(tile)
    assert len({rows.start for rows, _ in seen[:4]}) == 1, "a row for each split"
    starts = [columns.start for _, columns in seen]
    assert starts[:4] == sorted(set(starts[:4])) and starts[4] == starts[0]
    assert seen[4][0].start > seen[0][0].stop


def test_the_sheet_of_augmented_samples_has_all_of_them_with_their_labels(tmp_path: Path) -> None:
    found = look(f"folder:root={write_flat(tmp_path / 'd')}", crop_size=(48, 64))
    draw_augmented(found, [chosen("flip:p=1", "augmentation")], tmp_path / "sheet.png")
    sheet = pixels(tmp_path / "sheet.png")
    for number, color in enumerate(FLAT[:4]):
        tiles, *sides = (tiles_of(sheet, one) for one in (color, *laid_over(number)))
        assert len(tiles) == 1 + TURNS
        for turn, (tile, *pair) in enumerate(zip(tiles, *sides, strict=True)):
            assert_below(tile, *(pair if turn == 0 else pair[::-1]))


def test_many_classes_and_channels_fit_on_a_sheet(tmp_path: Path) -> None:
    names = tuple(f"a class of the long name {k}" for k in range(120))
    samples = [random_sample(number, num_classes=120) for number in range(5)]
    found = of_samples({"train": samples, "validation": samples[:1]}, names, num_channels=1)
    draw_check(found, tmp_path / "sheet.png")
    assert pixels(tmp_path / "sheet.png").shape[0] < 4000


# ------------------------------------------------------------------------------------- augmented


def facts_of(found: Findings) -> Facts:
    train, names = found.splits["train"], found.data.labels.names
    return Facts(
        num_classes=len(names),
        class_names=names,
        crop_size=(32, 48),
        seed=found.data.config.seed,
        class_shares=tuple(train.share(k) for k in range(len(names))),
    )


@pytest.mark.parametrize(
    "row", [("flip",), ("random_scale_crop", "flip", "color_jitter"), ("random_scale_crop",)]
)
def test_the_pictures_are_those_of_the_first_epochs(tmp_path: Path, row: tuple[str, ...]) -> None:
    root = write_data(tmp_path / "d", counts={"train": 6, "validation": 1})
    found = look(f"folder:root={root}", seed=5, crop_size=(32, 48))
    changes = [chosen(name, "augmentation") for name in row]
    data, places = _training(found, found.splits["train"], changes)
    assert places == [0, 2, 3, 5]
    splits = build_splits(found.data.dataset)
    samples = splits.splits["train"]
    pipeline = Pipeline.of(changes, facts_of(found))
    training = TrainData(Source(samples, splits.labels), pipeline, Order(6, seed=5))
    for epoch, place in ((0, 2), (3, 5)):
        item = training[epoch, place]
        assert isinstance(item, Item)
        batch = collate([item])
        assert isinstance(batch, Batch)
        batch = pipeline.on_device(batch)
        image, classes = augmented(data, epoch, place)
        shown = batch.images[0].float().round().clamp(0, 255).to(torch.uint8)
        np.testing.assert_array_equal(image, shown.permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(classes, batch.labels[0].numpy())


def test_the_sheet_of_augmented_samples_follows_the_seed(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    foreign_values(root / LABEL)  # the sheet is made of the others
    changes = [chosen(name, "augmentation") for name in ("random_scale_crop", "flip")]
    sheets = []
    for seed in (0, 0, 1):
        found = look(f"folder:root={root}", seed=seed, crop_size=(48, 64))
        draw_augmented(found, changes, tmp_path / "augmented.png")
        sheets.append(pixels(tmp_path / "augmented.png"))
    assert np.array_equal(sheets[0], sheets[1]) and not np.array_equal(sheets[0], sheets[2])
    assert len(found.splits["train"].examples) == 3


def test_without_augmentations_the_columns_are_alike(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    found = look(f"folder:root={root}")
    data, places = _training(found, found.splits["train"], [])
    for place in places:
        image, classes = augmented(data, 1, place)
        path = root / "images/train" / f"train{place}.png"
        np.testing.assert_array_equal(image, np.array(Image.open(path)))
        label = np.array(Image.open(root / "annotations/train" / f"train{place}.png"))
        np.testing.assert_array_equal(classes, label)
