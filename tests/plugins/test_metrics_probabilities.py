"""binary and calibration against torchmetrics, ranks and plain numpy."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional import classification

from metric_tools import assert_close, drawn, fed, metric_of
from segacc.errors import OptionError
from segacc.kernels.resize import decide


def two_classes(
    *, size: tuple[int, int] = (60, 70), seed: int = 0, sharpness: float = 2.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw pixels of two classes with their log-odds, which know something of the label."""
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(2, *size, generator=random) < 0.2).long()
    logits = sharpness * (2.0 * labels - 1.5 + torch.randn(labels.shape, generator=random))
    labels[torch.rand(labels.shape, generator=random) < 0.1] = 255
    return (logits > 0).long(), labels, logits


def exact_auroc(probability: Any, labels: Any) -> float:
    """Take the rank statistic: the share of pairs in which the foreground is ahead."""
    valid = labels != 255
    ranks = stats.rankdata(probability[valid])
    front = labels[valid] == 1
    count, rest = front.sum(), (~front).sum()
    return (ranks[front].sum() - count * (count + 1) / 2) / (count * rest)


def logits_of_scale(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw logits (2, 2, H, W) whose difference has this scale, and labels that they know of."""
    random = torch.Generator().manual_seed(int(10 * scale))
    labels = (torch.rand(2, 200, 300, generator=random) < 0.2).long()
    logits = torch.randn(2, 2, 200, 300, generator=random)
    logits[:, 1] += 1.2 * labels - 1
    labels[torch.rand(labels.shape, generator=random) < 0.1] = 255
    return logits * scale / 2**0.5, labels


@pytest.mark.parametrize("scale", [0.01, 0.5, 3.0, 10.0, 30.0, 300.0])
def test_auroc_is_that_of_the_logits_ranks(scale: float) -> None:
    """Also where a probability would be rounded to 0 or 1."""
    logits, labels = logits_of_scale(scale)
    found = decide(logits, (200, 300), odds="softmax")
    pixels = (found.classes.long(), labels, found.log_odds)
    metric = fed("binary", [pixels], 2)  # type: ignore[list-item]
    auroc, odds = metric.compute()["auroc"], (logits[:, 1] - logits[:, 0]).double()
    wanted = exact_auroc(odds.numpy(), labels.numpy())
    assert 0.6 < wanted < 0.9 and auroc == pytest.approx(wanted, abs=1e-6)
    background, foreground = metric.state["log_odds"].sum(1).double()
    tied = (background * foreground).sum() / background.sum() / foreground.sum()
    assert abs(auroc - wanted) <= tied.item() / 2 + 1e-12
    one, other = (
        fed("binary", [tuple(part[k : k + 1] for part in pixels)], 2)  # type: ignore[misc]
        for k in (0, 1)
    )
    whole = one.state["log_odds"] + other.state["log_odds"]
    assert torch.equal(whole, metric.state["log_odds"])


def test_the_foreground() -> None:
    pixels = two_classes()
    predictions, labels, _ = pixels
    said, true = (predictions == 1) & (labels != 255), labels == 1
    both = (said & true).sum().item()
    scores = fed("binary", [pixels], 2).compute()
    assert list(scores) == ["foreground_iou", "foreground_precision", "foreground_recall", "auroc"]
    assert_close(scores["foreground_iou"], both / (said | true).sum().item())
    assert_close(scores["foreground_precision"], both / said.sum().item())
    assert_close(scores["foreground_recall"], both / true.sum().item())
    other = classification.binary_jaccard_index(predictions, labels, ignore_index=255)
    assert scores["foreground_iou"] == pytest.approx(other.item(), abs=1e-6)


@pytest.mark.parametrize("positive", ["c0", "0", 0])
def test_the_other_class_as_foreground(positive: str | int) -> None:
    pixels = two_classes()
    first = fed("binary", [pixels], 2, positive=positive).compute()
    predictions, labels, log_odds = pixels
    turned = (1 - predictions, (1 - labels).where(labels != 255, 255), -log_odds)
    second = fed("binary", [turned], 2).compute()
    assert_close(first, list(second.values()))
    assert first["auroc"] == pytest.approx(fed("binary", [pixels], 2).compute()["auroc"], abs=1e-3)


def test_certain_pixels() -> None:
    labels = torch.tensor([[[0, 1, 1, 0]]])
    predictions = torch.tensor([[[0, 1, 0, 0]]])
    log_odds = torch.tensor([[[-torch.inf, torch.inf, -torch.inf, 0.0]]])
    scores = fed("binary", [(predictions, labels, log_odds)], 2).compute()
    assert scores["auroc"] == (0.5 + 0 + 1 + 1) / 4  # ties count half


@pytest.mark.parametrize(
    ("num_classes", "positive", "text"),
    [
        (
            3,
            None,
            "--metric binary: it needs 2 classes, but the data set has 3: c0, c1, c2. For more "
            "classes, use mean_iou or dice.",
        ),
        (
            2,
            "nucleus",
            "--metric binary: positive=nucleus is not one of the classes c0 (0) and c1 (1).",
        ),
        (2, 2, "--metric binary: positive=2 is not one of the classes c0 (0) and c1 (1)."),
    ],
)
def test_what_binary_refuses(num_classes: int, positive: Any, text: str) -> None:
    with pytest.raises(OptionError) as error:
        metric_of("binary", num_classes, positive=positive)
    assert str(error.value) == text


def multiclass(seed: int = 0) -> tuple[Any, torch.Tensor]:
    """Draw overconfident pixels of 5 classes, and all probabilities (N, K, H, W)."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (2, 50, 60), generator=random)
    logits = torch.randn(2, 5, 50, 60, generator=random) * 1.5
    logits.scatter_add_(1, labels[:, None], torch.ones(2, 1, 50, 60))
    probabilities = logits.softmax(1)
    confidence, predictions = probabilities.max(1)
    labels[torch.rand(labels.shape, generator=random) < 0.1] = 255
    return (predictions, labels, confidence), probabilities


@pytest.mark.parametrize("bins", [2, 15, 100])
def test_calibration_error_against_torchmetrics(bins: int) -> None:
    pixels, probabilities = multiclass()
    scores = fed("calibration", [pixels], 5, bins=bins).compute()
    for name, norm in (("ece", "l1"), ("mce", "max")):
        other = classification.multiclass_calibration_error(
            probabilities, pixels[1], 5, n_bins=bins, norm=norm, ignore_index=255
        )
        assert scores[name] == pytest.approx(other.item(), abs=3e-6), name
    assert scores["ece"] > 0.03


def test_the_definition_and_the_table(tmp_path: Path) -> None:
    pixels = drawn(4, size=(80, 90))
    metric = fed("calibration", [pixels], 4)
    valid = pixels[1].numpy() != 255
    right = (pixels[0] == pixels[1]).numpy()[valid]
    sure = pixels[2].double().numpy()[valid]
    metric.write(tmp_path)
    head, *rows = csv.reader((tmp_path / "calibration.csv").open())
    assert head == ["above", "up to", "pixels", "accuracy", "mean confidence"]
    total = 0.0
    for number, row in enumerate(rows):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        assert [float(row[0]), float(row[1])] == pytest.approx(
            [number / 15, (number + 1) / 15], abs=1e-6
        )
        assert int(row[2]) == inside.sum()
        if not inside.any():
            assert row[3:] == ["", ""]
            continue
        wanted = [right[inside].mean(), sure[inside].mean()]
        assert [float(one) for one in row[3:]] == pytest.approx(wanted, abs=1.1e-6)
        total += inside.sum() * abs(wanted[0] - wanted[1])
    assert len(rows) == 15 and rows[0][2] == "0"
    assert metric.compute()["ece"] == pytest.approx(total / valid.sum(), abs=1e-6)


def test_the_lower_bin_holds_its_upper_edge() -> None:
    ones = torch.ones(1, 1, 5, dtype=torch.int64)
    sure = torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]])
    metric = fed("calibration", [(ones, ones, sure)], 2, bins=4)
    assert metric.state["pixels"].tolist() == [2, 1, 1, 1]
    assert metric.state["confidence"].tolist() == [2**18, 2**19, 3 * 2**18, 2**20]


def test_nothing_counted_gives_nan(tmp_path: Path) -> None:
    for name in ("binary", "calibration"):
        assert all(math.isnan(value) for value in metric_of(name, 2).compute().values())
    metric_of("calibration", 2).write(tmp_path)
    rows = (tmp_path / "calibration.csv").read_text().splitlines()[1:]
    assert all(row.endswith(",0,,") for row in rows)


def test_sums_do_not_depend_on_the_order() -> None:
    pixels = drawn(3, size=(64, 64), count=6)
    whole = fed("calibration", [pixels], 3).state
    order = np.random.default_rng(1).permutation(6)
    parts = [tuple(one[k : k + 1] for one in pixels) for k in order]
    again = fed("calibration", parts, 3).state
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert all(one.dtype == torch.int64 for one in whole.values())
