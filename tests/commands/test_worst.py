"""The worst images: which are kept, and what is drawn of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from score_tools import count_image
from segacc.commands.evaluate.score import Worst, draw_worst
from segacc.data.items import Item
from segacc.data.pictures import TILE, WRONG

NAMES, PALETTE = ("no", "yes"), ((40, 40, 40), (255, 200, 0))


def show(worst: Worst, name: str, wrong: int, *, size: tuple[int, int] = (10, 10)) -> None:
    """Show an image of class 0 of which so many rows are predicted as class 1."""
    label = torch.zeros(size, dtype=torch.uint8)
    prediction = label.clone()
    prediction[:wrong] = 1
    item = Item(torch.full((3, *size), 90, dtype=torch.uint8), label, name, 0)
    worst.add(count_image(name, prediction, label, 2), item, prediction)


def test_the_worst_are_kept_whatever_the_order() -> None:
    random = np.random.default_rng(0)
    numbers = [(f"{number:02}", int(random.integers(1, 9))) for number in range(40)]
    found = []
    for order in (numbers, numbers[::-1], random.permutation(40)):
        worst = Worst(count=7)
        for one in order:
            show(worst, *(one if isinstance(one, tuple) else numbers[one]))
        found.append([bad.counts.id for bad in worst.of_all()])
        assert len(worst.kept) == 7
    wanted = sorted(numbers, key=lambda one: (-one[1], one[0]))[:7]
    assert found == [[name for name, _ in wanted]] * 3


def test_an_image_without_a_valid_pixel_is_none_of_them() -> None:
    worst, label = Worst(), torch.full((4, 4), 255, dtype=torch.uint8)
    item = Item(torch.zeros(3, 4, 4, dtype=torch.uint8), label, "a", 0)
    worst.add(count_image("a", torch.zeros_like(label), label, 2), item, torch.zeros_like(label))
    assert worst.of_all() == []


def test_what_is_kept_of_a_large_image_is_small() -> None:
    worst = Worst()
    show(worst, "large", 100, size=(1200, 3000))
    [bad] = worst.kept
    assert bad.example.image.shape == (3, 205, 512) and bad.example.label.shape == (205, 512)
    assert bad.counts.valid_pixels == 1200 * 3000


def test_pictures_bear_rank_score_and_id(tmp_path: Path) -> None:
    worst, folder = Worst(), tmp_path / "pictures" / "worst"
    folder.mkdir(parents=True)
    for old in ("03-iou-0.1234-old.png", "04-iou-1.0000-old.png", "mine.png"):
        (folder / old).touch()
    show(worst, "val/street 1", 8, size=(16, 16))
    show(worst, "good", 0, size=(16, 16))
    draw_worst(worst.of_all(), folder, names=NAMES, palette=PALETTE)
    assert sorted(path.name for path in folder.iterdir()) == [
        "01-iou-0.2500-val_street_1.png",
        "02-iou-1.0000-good.png",
        "mine.png",
    ], "those of an earlier evaluation are gone, what is not ours stays"
    with Image.open(folder / "01-iou-0.2500-val_street_1.png") as drawn:
        red = (np.asarray(drawn) == WRONG).all(axis=2)
    assert red.sum() == TILE * TILE / 2


@pytest.mark.parametrize("size", [(300, 100), (64, 512), (16, 16), (720, 960)])
def test_what_was_shrunk_is_drawn_as_it_is(size: tuple[int, int]) -> None:
    from segacc.data.pictures import shrunk

    worst = Worst()
    show(worst, "a", 3, size=size)
    [bad] = worst.kept
    again = shrunk(bad.example)
    for key in ("image", "label", "prediction"):
        assert torch.equal(getattr(again, key), getattr(bad.example, key))
