"""Builds metrics by name, feeds them, and draws what they are fed."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_tools import facts
from segacc.testing import registry_of

METRICS = {one.record.name: one.record for one in registry_of().of_kind("metric")}


def metric_of(name: str, num_classes: int, **options: Any) -> Any:
    """Build an empty built-in metric on classes called c0, c1, ..."""
    record = METRICS[name]
    options = {"metric": "JaccardIndex"} | options if name == "torchmetrics" else options
    return record.build(record.options(**options), facts(num_classes))


def fed(name: str, pixels: "list[tuple[Tensor, ...]]", num_classes: int, **options: Any) -> Any:
    """Build a metric and update it with each (predictions, labels, confidence or log-odds)."""
    metric = metric_of(name, num_classes, **options)
    wants = METRICS[name].wants_confidence or METRICS[name].wants_log_odds
    for predictions, labels, third in pixels:
        more = (third,) if wants else ()
        metric.update(predictions, labels, *more)
    return metric


def drawn(
    num_classes: int,
    *,
    size: tuple[int, int] = (20, 31),
    count: int = 2,
    classes: Any = None,
    ignored: float = 0.2,
    right: float = 0.5,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw predictions and labels (N, H, W) int64 of `classes`, and confidence 1/K..1."""
    random = np.random.default_rng(seed)
    present = np.arange(num_classes) if classes is None else np.asarray(classes)
    shape = (count, *size)
    labels = random.choice(present, shape)
    predictions = np.where(random.random(shape) < right, labels, random.choice(present, shape))
    labels[random.random(shape) < ignored] = 255
    confidence = 1 / num_classes + (1 - 1 / num_classes) * random.random(shape, np.float32)
    return (
        torch.from_numpy(predictions),
        torch.from_numpy(labels),
        torch.from_numpy(confidence.astype(np.float32)),
    )


def mean(values: Any) -> float:
    """Take the mean of what is there."""
    there = [value for value in values if value == value]
    return math.fsum(there) / len(there) if there else math.nan


def assert_close(found: Any, wanted: Any, *, tolerance: float = 1e-12) -> None:
    """Compare a score, or scores by class, with numbers; nan equals nan."""
    given = list(found.values()) if isinstance(found, dict) else found
    np.testing.assert_allclose(given, wanted, rtol=0, atol=tolerance, equal_nan=True)
