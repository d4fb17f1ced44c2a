"""How often classes occur: counted as numpy counts, weighed and drawn as the papers say."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli_tools import write_data
from data_tools import encode
from segacc.data.batches import Source
from segacc.data.label_counts import (
    MIN_SHARE,
    class_chances,
    class_weights,
    count_labels,
    rare_class_chances,
    shares,
)
from segacc.data.order import Order
from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

LABELS = LabelMap.plain(("a", "b", "c"), ignore=(7,))


def label(number: int, *, first: int = 0) -> Any:
    """Draw raw ids of three classes, some ignored; sizes differ."""
    random = np.random.default_rng(number)
    size = (5 + number, 9)
    return (random.choice([0, 1, 2, 7], size, p=[0.6, 0.3, 0.05, 0.05]) + first).astype(np.uint8)


def samples(count: int) -> list[Sample]:
    """Make samples whose images cannot be read: nobody needs them."""
    return [Sample(b"no image", encode(label(k)), f"s{k}") for k in range(count)]


def counted(array: Any, classes: Sequence[int] = (0, 1, 2)) -> list[int]:
    """Count pixels one by one."""
    found = Counter(array.reshape(-1).tolist())
    return [found[k] for k in classes]


# ------------------------------------------------------------------------------------ counting


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pixels_are_counted_label_by_label_without_the_images(num_workers: int) -> None:
    found = count_labels(Source(samples(7), LABELS), num_workers)
    assert (found.shape, found.dtype) == ((7, 3), np.int64)
    assert found.tolist() == [counted(label(k)) for k in range(7)]


def test_a_share_of_the_labels_is_counted_in_its_order() -> None:
    source = Source(samples(7), LABELS)
    whole = count_labels(source)
    assert count_labels(source, places=range(1, 7, 3)).tolist() == whole[1:7:3].tolist()
    assert count_labels(source, places=[]).shape == (0, 3)


def test_labels_on_disk_go_through_their_map(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", first=1)
    files = sorted((root / "annotations" / "train").iterdir())
    labels = LabelMap.plain(("background", "disc", "bar"), reduce_labels=True)
    source = Source([Sample(b"", file, file.stem) for file in files], labels)
    assert count_labels(source).tolist() == [
        counted(np.array(Image.open(file)), (1, 2, 3)) for file in files
    ]


def test_a_sample_with_a_map_of_its_own_is_counted_by_it() -> None:
    own = LabelMap(("a", "b", "c"), {10: 2, 11: 0, 12: 255, 17: 1})
    sample = Sample(b"", encode(label(0, first=10)), "own", own)
    found = count_labels(Source([sample], LABELS))
    assert found.tolist() == [counted(label(0, first=10), (11, 17, 10))]


class Kept(Source):
    """A split that is kept decoded elsewhere; its samples cannot be read any more."""

    def read(self, index: int) -> Any:
        found = torch.from_numpy(np.where(label(index) == 7, 255, label(index)))
        return torch.zeros(3, *found.shape, dtype=torch.uint8), found


def test_a_cache_is_asked_in_place_of_the_files() -> None:
    gone = [Sample(b"", b"gone", f"s{k}") for k in range(3)]
    assert count_labels(Kept(gone, LABELS)).tolist() == [counted(label(k)) for k in range(3)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_labels_that_cannot_be_read_stop_the_count_or_are_told(
    tmp_path: Path, num_workers: int
) -> None:
    missing = tmp_path / "b.png"
    source = Source([*samples(2), Sample(b"", missing, "b"), *samples(1)], LABELS)
    text = f"{missing}: the label is missing; each image needs a label with the same name."
    with pytest.raises(UnreadableError) as error:
        count_labels(source, num_workers)
    assert str(error.value) == text
    unreadable: set[str] = set()
    found = count_labels(source, num_workers, unreadable=unreadable)
    assert unreadable == {text}
    assert found.tolist() == [counted(label(0)), counted(label(1)), [0, 0, 0], counted(label(0))]


def test_ids_outside_the_map_are_an_error_unless_faulty_samples_are_passed_over() -> None:
    wrong = Sample(b"", encode(np.full((2, 2), 5, np.uint8)), "wrong")
    with pytest.raises(DataError, match="sample wrong: label values outside the 3 classes: 5"):
        count_labels(Source([wrong], LABELS))
    passed = set[str]()
    assert not count_labels(Source([wrong], LABELS), unreadable=passed).any()
    assert "label values outside the 3 classes" in passed.pop()


# ------------------------------------------------------------------------------------- weights

COUNTS = np.array(
    [
        [700, 300, 0, 0],
        [900, 80, 20, 0],
        [1000, 0, 0, 0],
        [500, 500, 0, 0],
        [0, 0, 0, 0],  # all ignored
    ]
)
PIXELS = (3100, 880, 20)
"""Of the three classes that occur; 4000 in all."""


def mean_one(weights: Sequence[float]) -> list[float]:
    return [weight * len(weights) / sum(weights) for weight in weights]


def test_shares_are_those_of_the_labelled_pixels() -> None:
    assert shares(COUNTS).tolist() == pytest.approx([0.775, 0.22, 0.005, 0])


def test_inverse_weighs_all_classes_the_same_in_all() -> None:
    weights = class_weights("inverse", COUNTS)
    assert weights == pytest.approx([*mean_one([1 / n for n in PIXELS]), 1])
    products = [w * n for w, n in zip(weights, PIXELS, strict=False)]
    assert products == pytest.approx([products[0]] * 3)


def test_enet_is_its_logarithm() -> None:
    raw = [1 / math.log(1.02 + n / 4000) for n in PIXELS]
    assert class_weights("enet", COUNTS) == pytest.approx([*mean_one(raw), 1])
    rare = np.array([[10**9, 1]])
    low, high = class_weights("enet", rare)
    assert high / low == pytest.approx(math.log(2.02) / math.log(1.02), rel=1e-6)


def test_effective_is_one_over_the_effective_number_of_labels() -> None:
    beta = 3 / 4  # four labels are not all ignored
    held = (4, 3, 1)  # labels that hold each class
    effective_numbers = [sum(beta**k for k in range(n)) for n in held]
    raw = [1 / number for number in effective_numbers]
    assert class_weights("effective", COUNTS) == pytest.approx([*mean_one(raw), 1])
    assert class_weights("effective", COUNTS[:1]) == (1, 1, 1, 1)


@pytest.mark.parametrize("rule", ["inverse", "enet", "effective"])
def test_the_mean_over_the_classes_that_occur_is_one(rule: str) -> None:
    weights = class_weights(rule, COUNTS)
    assert sum(weights[:3]) == pytest.approx(3) and weights[3] == 1
    assert all(isinstance(weight, float) for weight in weights), "plain numbers, for JSON"
    assert weights[2] > weights[0], "the rarest class weighs more than the commonest"


# --------------------------------------------------------------------------- rare-class sampling


def test_class_chances_are_daformers() -> None:
    f = [n / 4000 for n in PIXELS]
    raised = [math.exp((1 - share) / 0.3) for share in f]
    expected = [one / sum(raised) for one in raised]
    assert class_chances(COUNTS, 0.3).tolist() == pytest.approx([*expected, 0])


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1e-5, [0, 0, 1, 0]), (1e6, [1 / 3, 1 / 3, 1 / 3, 0])]
)
def test_extreme_temperatures_are_no_overflow(temperature: float, expected: list[float]) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = class_chances(COUNTS, temperature)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_an_images_chance_is_that_of_drawing_a_class_and_then_an_image() -> None:
    p = class_chances(COUNTS, 0.5)
    holders = [[0, 1, 2, 3], [0, 1, 3], [1]]
    expected = [sum(p[c] / len(h) for c, h in enumerate(holders) if k in h) for k in range(5)]
    found = rare_class_chances(COUNTS, 0.5)
    assert found.tolist() == pytest.approx(expected)
    assert found.sum() == pytest.approx(1) and found[4] == 0

    random, drawn = np.random.default_rng(0), np.zeros(5)
    for _ in range(20_000):  # as DAFormer does it
        drawn[random.choice(holders[random.choice(3, p=p[:3])])] += 1
    wanted = 20_000 * found[:4]
    assert ((drawn[:4] - wanted) ** 2 / wanted).sum() < 16.3  # chi-square, 3 degrees, p = 0.001


def test_the_order_of_training_draws_by_these_chances() -> None:
    chances = rare_class_chances(COUNTS, 0.5)
    order = Order(5, seed=2, chances=chances.tolist())
    drawn = np.bincount(np.concatenate([order.epoch(k) for k in range(2000)]), minlength=5)
    wanted = 10_000 * chances
    assert drawn[4] == 0
    assert ((drawn[:4] - wanted[:4]) ** 2 / wanted[:4]).sum() < 16.3
    assert drawn[1] == max(drawn), "the one image with the rare class"


def test_a_class_of_few_pixels_is_not_held_unless_no_image_has_more() -> None:
    assert pytest.approx(3000 / (1024 * 2048)) == MIN_SHARE
    size = 1024 * 2048
    counts = np.array([[size - 3001, 3001, 0], [size - 3000, 3000, 0], [size - 5, 0, 5]])
    p = class_chances(counts, 1.0)
    third = p[0] / 3
    assert rare_class_chances(counts, 1.0).tolist() == pytest.approx(
        [third + p[1], third, third + p[2]]
    )
