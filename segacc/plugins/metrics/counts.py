"""What the scores of whole regions share: one confusion matrix of integers."""

from typing import TYPE_CHECKING

from segacc.contracts import Facts

if TYPE_CHECKING:
    from torch import Tensor


class Confusion:
    """Counts pixels by label (rows) and prediction (columns): (K, K) int64.

    A score that has nothing to divide by, as that of a class without a pixel, is nan and left out
    of the means.
    """

    def __init__(self, facts: Facts) -> None:
        """Start empty."""
        import torch

        self.names = facts.class_names
        classes = facts.num_classes
        self.state = {"confusion": torch.zeros(classes, classes, dtype=torch.int64)}

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Count predictions (N, H, W) against labels (N, H, W), 255 ignored."""
        from segacc.kernels.resize import confusion

        counts = confusion(predictions, labels, len(self.names))
        self.state["confusion"] = self.state["confusion"].to(counts.device) + counts

    def areas(self) -> "tuple[Tensor, Tensor, Tensor]":
        """Return each class's right, labelled and predicted pixels: (K,) float64 on the CPU."""
        matrix = self.state["confusion"].cpu().double()
        return matrix.diag(), matrix.sum(1), matrix.sum(0)


def by_class(names: tuple[str, ...], scores: "Tensor") -> dict[str, float]:
    """Name the scores (K,) of the classes."""
    return dict(zip(names, scores.tolist(), strict=True))
