"""mean_iou against a definition written in plain numpy, on random and on real label maps."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools import Counts, chosen_metric, facts
from metric_tools import metric_of
from segacc.errors import PluginError
from segacc.evaluation.metrics import check_metrics
from segacc.plugins.datasets.folder import FolderOptions, build_folder
from segacc.plugins.metrics.overlap import MeanIou


def mean_iou(num_classes: int) -> Any:
    return metric_of("mean_iou", num_classes)


def score(predictions: Any, labels: Any, num_classes: int) -> dict[str, Any]:
    """Score pairs of (H, W) arrays one by one, as an evaluation does."""
    metric = mean_iou(num_classes)
    for prediction, label in zip(predictions, labels, strict=True):
        pair = (torch.from_numpy(array.astype(np.int64))[None] for array in (prediction, label))
        metric.update(*pair)
    return metric.compute()


def by_definition(predictions: Any, labels: Any, num_classes: int) -> dict[str, Any]:
    """Follow the definition class by class; a mean skips what has nothing to divide by."""
    iou, accuracy, right, pixels = [], [], 0, 0
    for k in range(num_classes):
        both = either = labelled = 0
        for prediction, label in zip(predictions, labels, strict=True):
            said, true = (prediction == k) & (label != 255), label == k
            both += int((said & true).sum())
            either += int((said | true).sum())
            labelled += int(true.sum())
        iou.append(both / either if either else math.nan)
        accuracy.append(both / labelled if labelled else math.nan)
        right, pixels = right + both, pixels + labelled
    return {
        "mean_iou": mean(iou),
        "mean_accuracy": mean(accuracy),
        "overall_accuracy": right / pixels,
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


def mean(values: list[float]) -> float:
    there = [value for value in values if value == value]
    return math.fsum(there) / len(there)


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        given = list(found[key].values()) if isinstance(value, list) else found[key]
        np.testing.assert_allclose(given, value, rtol=0, atol=1e-12, equal_nan=True)


def test_an_example_worked_by_hand() -> None:
    labels = np.array([[0, 0, 0, 1], [1, 1, 255, 255]])
    predictions = np.array([[0, 0, 1, 1], [1, 2, 2, 0]])
    assert score([predictions], [labels], 4) == {
        "mean_iou": pytest.approx((2 / 3 + 2 / 4 + 0 / 1) / 3, abs=1e-15),
        "mean_accuracy": pytest.approx((2 / 3 + 2 / 3) / 2, abs=1e-15),
        "overall_accuracy": pytest.approx(4 / 6, abs=1e-15),
        "per_category_iou": pytest.approx(
            {"c0": 2 / 3, "c1": 2 / 4, "c2": 0.0, "c3": math.nan}, nan_ok=True
        ),
        "per_category_accuracy": pytest.approx(
            {"c0": 2 / 3, "c1": 2 / 3, "c2": math.nan, "c3": math.nan}, nan_ok=True
        ),
    }


@pytest.mark.parametrize("num_classes", [2, 7, 150])
def test_random_maps_with_absent_classes_and_ignored_pixels(num_classes: int) -> None:
    random = np.random.default_rng(num_classes)
    present = random.permutation(num_classes)[: max(2, num_classes * 2 // 3)]
    labels, predictions = [], []
    for height, width in ((31, 40), (8, 3), (25, 25)):  # images of several sizes
        label = random.choice(present, (height, width))
        prediction = np.where(
            random.random(label.shape) < 0.4, random.integers(0, num_classes, label.shape), label
        )
        label[random.random(label.shape) < 0.3] = 255
        labels.append(label)
        predictions.append(prediction)
    assert_same(
        score(predictions, labels, num_classes), by_definition(predictions, labels, num_classes)
    )


def test_real_street_labels_against_those_of_the_next_frames(shared: Path) -> None:
    files = sorted((shared / "camvid/annotations/val").glob("*.png"))[::10]
    labels = [np.array(Image.open(file)).astype(np.int64) for file in files]
    labels = [np.where(label == 11, 255, label) for label in labels]
    later = [np.where(label == 255, 3, label) for label in [*labels[1:], labels[0]]]
    shifted = [np.roll(label, 5, axis=1) for label in later]
    wanted = by_definition(shifted, labels, 11)
    assert 0.05 < wanted["mean_iou"] < 0.95 and any((label == 255).any() for label in labels)
    assert_same(score(shifted, labels, 11), wanted)


def test_real_indoor_and_outdoor_labels_of_150_classes_most_absent(shared: Path) -> None:
    splits = build_folder(FolderOptions(root=shared / "ade20k_sample"))
    labels = [
        splits.labels.apply(np.array(Image.open(sample.label)), sample.id).astype(np.int64)
        for sample in splits.splits["validation"][:5]
    ]
    wrong = [np.where(label == 255, 149, (label + (label % 7 == 0)) % 150) for label in labels]
    wanted = by_definition(wrong, labels, 150)
    assert sum(value != value for value in wanted["per_category_iou"]) > 60
    assert_same(score(wrong, labels, 150), wanted)
    perfect = score([np.where(label == 255, 7, label) for label in labels], labels, 150)
    assert (perfect["mean_iou"], perfect["mean_accuracy"], perfect["overall_accuracy"]) == (1, 1, 1)
    present = set(np.unique(np.concatenate([label.ravel() for label in labels]))) - {255}
    assert {name for name, value in perfect["per_category_iou"].items() if value == 1} == {
        f"c{k}" for k in present
    }


def test_states_of_parts_add_up_to_the_state_of_the_whole() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (6, 9, 9), generator=random)
    predictions = torch.randint(5, (6, 9, 9), generator=random)
    labels[labels == 4] = 255
    whole, odd, even = mean_iou(5), mean_iou(5), mean_iou(5)
    whole.update(predictions, labels)
    odd.update(predictions[1::2], labels[1::2])
    for place in (0, 2, 4):
        even.update(predictions[place, None].to(torch.uint8), labels[place, None].to(torch.uint8))
    assert list(whole.state) == ["confusion"]
    assert whole.state["confusion"].dtype == torch.int64
    assert torch.equal(odd.state["confusion"] + even.state["confusion"], whole.state["confusion"])
    assert whole.state["confusion"].sum() == (labels != 255).sum()


def test_nothing_counted_gives_nan() -> None:
    empty = mean_iou(2).compute()
    assert all(math.isnan(empty[key]) for key in ("mean_iou", "mean_accuracy", "overall_accuracy"))
    assert all(math.isnan(value) for value in empty["per_category_iou"].values())


def test_counts_beyond_what_float32_holds_stay_exact() -> None:
    metric = mean_iou(2)
    metric.state["confusion"] += torch.tensor([[2**40, 1], [0, 2**24 + 1]])
    scores = metric.compute()
    np.testing.assert_allclose(scores["per_category_iou"]["c0"], 2**40 / (2**40 + 1), atol=1e-15)
    np.testing.assert_allclose(
        scores["per_category_iou"]["c1"], (2**24 + 1) / (2**24 + 2), rtol=0, atol=1e-15
    )


class Sums(MeanIou):
    """Counts ignored pixels as class 0, but only where pixels are given."""

    def update(self, predictions: torch.Tensor, labels: torch.Tensor) -> None:
        super().update(predictions, labels.where(labels != 255, 0))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            Sums,
            '--metric sums: add() changes its state "confusion" differently from update(). This is '
            "a bug in its plugin.",
        ),
        (
            Counts,
            "metric sums: add() of a matrix (3, 3) failed: AttributeError: 'Counts' object has no "
            "attribute 'add'. SEGACC_TRACEBACK=1 shows the traceback.",
        ),
    ],
)
def test_a_metric_from_confusion_that_adds_otherwise_is_refused(kind: Any, text: str) -> None:
    build = Counts if kind is Counts else lambda: kind(facts(3))
    with pytest.raises(PluginError) as error:
        check_metrics([chosen_metric("sums", build, from_confusion=True)], facts(3), "--metric")
    assert str(error.value) == text
