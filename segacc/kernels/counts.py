"""Scores from counts of pixels: IoU and accuracy by class, and means over the known ones."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

COUNTS = ("hit", "labelled", "predicted")
"""The counts of a class: correctly predicted, labelled, and predicted pixels, without those
labelled 255."""


def class_counts(confusion: "Tensor") -> Ints:
    """Return the COUNTS of each class of a confusion matrix (K, K) int64: (K, 3)."""
    import torch

    counts = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    found: Ints = torch.stack(counts, 1).cpu().numpy()
    return found


def iou(counts: NDArray[Any]) -> Floats:
    """Return the IoU, hit / (labelled + predicted - hit), of counts (..., 3); nan if absent."""
    hit, labelled, predicted = np.moveaxis(counts, -1, 0)
    return divided(hit, labelled + predicted - hit)


def divided(part: Any, whole: Any) -> Floats:
    """Divide arrays of one shape, or numbers; nan where `whole` is 0."""
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def mean_of_known(values: NDArray[Any]) -> Floats:
    """Return the means over the last axis without nan; nan where all values are nan."""
    known = ~np.isnan(values)
    return divided(np.where(known, values, 0).sum(-1), known.sum(-1))
