"""Built-in metrics."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segacc.hookspecs import Facts, Metric, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MeanIouOptions:
    """mean_iou has no options."""


class MeanIou:
    """Scores from one integer confusion matrix, named as the `evaluate` library's mean_iou.

    A class that occurs neither in labels nor in predictions has no IoU (nan) and is left out of
    the means;
    likewise for accuracy where a class has no labelled pixel.
    """

    def __init__(self, facts: Facts) -> None:
        """Start empty."""
        import torch

        self.names = facts.class_names
        self.state = {
            "confusion": torch.zeros(facts.num_classes, facts.num_classes, dtype=torch.int64)
        }

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Count predictions (N, H, W) against labels (N, H, W), 255 ignored."""
        from segacc.functional import confusion

        counts = confusion(predictions, labels, len(self.names))
        self.state["confusion"] = self.state["confusion"].to(counts.device) + counts

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the three means and the two scores per category, 0..1, computed in float64."""
        matrix = self.state["confusion"].cpu().double()
        hit, labelled, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
        iou, accuracy = hit / (labelled + predicted - hit), hit / labelled
        return {
            "mean_iou": iou.nanmean().item(),
            "mean_accuracy": accuracy.nanmean().item(),
            "overall_accuracy": (hit.sum() / matrix.sum()).item(),
            "per_category_iou": dict(zip(self.names, iou.tolist(), strict=True)),
            "per_category_accuracy": dict(zip(self.names, accuracy.tolist(), strict=True)),
        }


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register the built-in metrics."""
    return [
        Metric(
            name="mean_iou",
            summary="mean and per-class IoU and accuracy from one integer confusion matrix",
            options=MeanIouOptions,
            build=lambda options, facts: MeanIou(facts),
        )
    ]
