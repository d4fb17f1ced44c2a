"""What holds of every metric, over random shapes, classes, absent classes and ignored pixels."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_tools import METRICS, drawn, fed

COUNTING = sorted({*METRICS} - {"evaluate"})
"""Metrics with a state that adds up."""
often = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@st.composite
def cases(draw: Any) -> tuple[int, tuple[torch.Tensor, ...]]:
    """Draw K and pixels; some classes are absent, and some or all pixels ignored."""
    num_classes = draw(st.integers(2, 6))
    classes = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=num_classes))
    pixels = drawn(
        num_classes,
        size=(draw(st.integers(1, 12)), draw(st.integers(1, 12))),
        count=draw(st.integers(1, 3)),
        classes=classes,
        ignored=draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        right=draw(st.sampled_from([0.0, 0.5, 1.0])),
        seed=draw(st.integers(0, 2**31)),
    )
    return num_classes, pixels


def of_two(case: tuple[int, tuple[torch.Tensor, ...]], name: str) -> Any:
    """Fold the classes into two for a metric of two."""
    if name != "binary":
        return case
    _, (predictions, labels, confidence) = case
    folded = (labels % 2).where(labels != 255, 255)
    return 2, (predictions % 2, folded, confidence.clamp(min=0.5))


def numbers(scores: dict[str, Any]) -> list[float]:
    """List all numbers of scores."""
    many = [list(one.values()) if isinstance(one, dict) else [one] for one in scores.values()]
    return [value for part in many for value in part]


@pytest.mark.parametrize("name", COUNTING)
def test_scores_lie_between_0_and_1_and_are_nan_of_nothing(name: str) -> None:
    @often
    @given(cases())
    def holds(case: Any) -> None:
        num_classes, pixels = of_two(case, name)
        found = numbers(fed(name, [pixels], num_classes).compute())
        assert all(math.isnan(value) or 0 <= value <= 1 for value in found)
        if (pixels[1] == 255).all():
            assert all(map(math.isnan, found))

    holds()


@pytest.mark.parametrize("name", COUNTING)
def test_images_add_up_and_ignored_pixels_do_not_matter(name: str) -> None:
    @often
    @given(cases(), st.integers(0, 2**31))
    def holds(case: Any, seed: int) -> None:
        num_classes, pixels = of_two(case, name)
        whole = fed(name, [pixels], num_classes)
        singles = [tuple(one[k : k + 1] for one in pixels) for k in range(len(pixels[0]))]
        one_by_one = fed(name, singles, num_classes)
        states = [fed(name, [single], num_classes).state for single in singles]
        other = drawn(num_classes, size=tuple(pixels[0].shape[1:]), count=len(states), seed=seed)
        nothing = pixels[1] == 255
        changed = [torch.where(nothing, other[k], pixels[k]) for k in (0, 2)]
        again = fed(name, [(changed[0], pixels[1], changed[1])], num_classes)
        for key, state in whole.state.items():
            assert state.dtype == torch.int64
            assert torch.equal(sum(one[key] for one in states), state)
            assert torch.equal(one_by_one.state[key], state)
            assert torch.equal(again.state[key], state)

    holds()


NAN_WITHOUT = {
    "per_category_iou": "either",
    "per_category_boundary_iou": "either",
    "per_category_dice": "either",
    "per_category_accuracy": "labelled",
    "per_category_recall": "either",
    "per_category_precision": "either",
}
"""Where a class must occur to have the score."""


@pytest.mark.parametrize("name", ["boundary_iou", "dice", "mean_iou"])
def test_exactly_absent_classes_have_no_score(name: str) -> None:
    @often
    @given(cases())
    def holds(case: Any) -> None:
        num_classes, pixels = case
        labels = pixels[1].numpy()
        labelled = set(np.unique(labels)) - {255}
        predicted = set(np.unique(pixels[0].numpy()[labels != 255]))
        there = {"labelled": labelled, "either": labelled | predicted}
        scores = fed(name, [pixels], num_classes).compute()
        parts = {key: list(one.values()) for key, one in scores.items() if isinstance(one, dict)}
        assert parts
        for key, values in parts.items():
            present = {k for k, value in enumerate(values) if value == value}
            assert present == there[NAN_WITHOUT[key]], key

    holds()


@pytest.mark.parametrize("name", ["dice", "frequency_weighted_iou", "mean_iou", "boundary_iou"])
def test_a_perfect_prediction_scores_1(name: str) -> None:
    @often
    @given(cases())
    def holds(case: Any) -> None:
        num_classes, (_, labels, confidence) = case
        perfect = labels.where(labels != 255, 0)
        found = numbers(fed(name, [(perfect, labels, confidence)], num_classes).compute())
        assert all(math.isnan(value) or value == 1 for value in found)
        assert any(value == 1 for value in found) or (labels == 255).all()

    holds()
