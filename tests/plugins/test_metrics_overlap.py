"""dice and frequency_weighted_iou against plain numpy and torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional import classification

from metric_tools import assert_close, drawn, fed, mean, metric_of


@pytest.mark.parametrize("num_classes", [2, 7, 150])
def test_dice_precision_and_recall_follow_their_definitions(num_classes: int) -> None:
    present = np.arange(0, num_classes, 1 if num_classes == 2 else 2)
    pixels = drawn(num_classes, classes=present, size=(40, 50))
    scores = fed("dice", [pixels], num_classes).compute()
    predictions, labels, _ = (one.numpy() for one in pixels)
    dice, precision, recall = [], [], []
    for k in range(num_classes):
        said, true = (predictions == k) & (labels != 255), labels == k
        both = (said & true).sum()
        dice.append(2 * both / (said.sum() + true.sum()) if (said | true).any() else np.nan)
        precision.append(both / said.sum() if said.any() else np.nan)
        recall.append(both / true.sum() if true.any() else np.nan)
    wanted = {"dice": dice, "precision": precision, "recall": recall}
    assert list(scores) == [f"{how}_{name}" for how in ("mean", "per_category") for name in wanted]
    for name, values in wanted.items():
        assert_close(scores[f"per_category_{name}"], values)
        assert_close(scores[f"mean_{name}"], mean(values))
    assert np.isnan(dice).sum() == num_classes - len(present)


def test_against_torchmetrics() -> None:
    pixels = drawn(9, size=(33, 47), count=3, right=0.7)
    predictions, labels, _ = pixels
    scores = fed("dice", [pixels], 9).compute()
    given = {"num_classes": 9, "ignore_index": 255}
    for name, other in (
        ("dice", classification.multiclass_f1_score),
        ("precision", classification.multiclass_precision),
        ("recall", classification.multiclass_recall),
    ):
        wanted = other(predictions, labels, average="none", **given)
        assert_close(scores[f"per_category_{name}"], wanted.numpy(), tolerance=1e-6)
    iou = fed("mean_iou", [pixels], 9).compute()["per_category_iou"]
    wanted = classification.multiclass_jaccard_index(predictions, labels, average="none", **given)
    assert_close(iou, wanted.numpy(), tolerance=1e-6)


def test_frequency_weighted_iou() -> None:
    pixels = drawn(6, classes=[0, 1, 1, 1, 4], size=(30, 30))
    predictions, labels, _ = pixels
    score = fed("frequency_weighted_iou", [pixels], 6).compute()
    total = 0.0
    for k in (0, 1, 4):
        said, true = (predictions == k) & (labels != 255), labels == k
        total += float(true.sum()) * float((said & true).sum()) / float((said | true).sum())
    assert list(score) == ["frequency_weighted_iou"]
    assert_close(score["frequency_weighted_iou"], total / float((labels != 255).sum()))
    wanted = classification.multiclass_jaccard_index(
        predictions, labels, num_classes=6, ignore_index=255, average="weighted"
    )
    assert_close(score["frequency_weighted_iou"], wanted.item(), tolerance=1e-6)


def test_a_wrongly_predicted_absent_class_weighs_nothing() -> None:
    labels = torch.zeros(1, 2, 4, dtype=torch.int64)
    predictions = labels.clone()
    predictions[0, 0, :2] = 1
    metric = metric_of("frequency_weighted_iou", 3)
    metric.update(predictions, labels)
    assert metric.compute() == {"frequency_weighted_iou": 6 / 8}
    metric = metric_of("dice", 3)
    metric.update(predictions, labels)
    scores = metric.compute()
    assert_close(scores["per_category_dice"], [2 * 6 / 14, 0, np.nan])
    assert_close(scores["per_category_precision"], [1, 0, np.nan])
    assert_close(scores["per_category_recall"], [6 / 8, 0, np.nan])
    missed = metric_of("dice", 3)
    missed.update(labels, predictions)  # class 1 is labelled and never predicted
    assert_close(missed.compute()["per_category_precision"], [6 / 8, 0, np.nan])
    assert missed.compute()["mean_precision"] == 3 / 8
