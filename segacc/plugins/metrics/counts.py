"""Common base of the overlap scores: one integer confusion matrix."""

from typing import TYPE_CHECKING

from segacc.contracts import Facts

if TYPE_CHECKING:
    from torch import Tensor


class Confusion:
    """Counts pixels by label (rows) and prediction (columns): (K, K) int64.

    A score with denominator 0, such as that of a class without pixels, is nan and excluded from the
    means.
    """

    def __init__(self, facts: Facts) -> None:
        """Start with empty counts."""
        import torch

        self.names = facts.class_names
        classes = facts.num_classes
        self.state = {"confusion": torch.zeros(classes, classes, dtype=torch.int64)}

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Add predictions (N, H, W) and labels (N, H, W), 255 ignored, to the counts."""
        from segacc.kernels.resize import confusion

        counts = confusion(predictions, labels, len(self.names))
        self.state["confusion"] = self.state["confusion"].to(counts.device) + counts

    def areas(self) -> "tuple[Tensor, Tensor, Tensor]":
        """Return each class's correct, labelled and predicted pixels: (K,) float64 on the CPU."""
        matrix = self.state["confusion"].cpu().double()
        return matrix.diag(), matrix.sum(1), matrix.sum(0)


def by_class(names: tuple[str, ...], scores: "Tensor") -> dict[str, float]:
    """Return the scores (K,) by class name."""
    return dict(zip(names, scores.tolist(), strict=True))
