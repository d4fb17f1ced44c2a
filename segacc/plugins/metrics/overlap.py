"""The scores of a confusion matrix: `mean_iou`, `dice`, `frequency_weighted_iou`; `confusion`."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.contracts import Facts
from segacc.hookspecs import Metric, hookimpl

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    Array = np.ndarray[Any, Any]

NUMBERED = 20
"""Maximum number of classes for which the cells of the figure contain numbers."""
LONGEST = 28
"""Maximum length of class names in the figure."""


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

        self.add(confusion(predictions, labels, len(self.names)))

    def add(self, confusion: "Tensor") -> None:
        """Add the confusion matrix (K, K) of an image."""
        self.state["confusion"] = self.state["confusion"].to(confusion.device) + confusion

    def counts(self) -> "Array":
        """Return each class's correct, labelled and predicted pixels: (K, 3) int64."""
        from segacc.kernels.counts import class_counts

        return class_counts(self.state["confusion"])

    def by_class(self, scores: "Array") -> dict[str, float]:
        """Return the scores (K,) by class name."""
        return dict(zip(self.names, scores.tolist(), strict=True))


class MeanIou(Confusion):
    """IoU and accuracy, with the names of the `evaluate` library's mean_iou.

    A class that is absent from labels and predictions has no IoU; one without labelled pixels has
    no accuracy.
    """

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the three means and the two per-class scores, 0..1, computed in float64."""
        from segacc.kernels.counts import divided, iou, mean_of_known

        counts = self.counts()
        hit, labelled, _ = counts.T
        overlap, accuracy = iou(counts), divided(hit, labelled)
        return {
            "mean_iou": float(mean_of_known(overlap)),
            "mean_accuracy": float(mean_of_known(accuracy)),
            "overall_accuracy": float(divided(hit.sum(), labelled.sum())),
            "per_category_iou": self.by_class(overlap),
            "per_category_accuracy": self.by_class(accuracy),
        }


class DiceScores(Confusion):
    """Dice (F1), with precision and recall, of which it is the harmonic mean.

    A class that is labelled but never predicted has precision 0, one that is predicted but never
    labelled has recall 0; one that is absent from both has no score.
    """

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return means and per-class scores, 0..1, computed in float64."""
        from segacc.kernels.counts import divided, mean_of_known

        hit, labelled, predicted = self.counts().T
        present = labelled + predicted > 0
        scores = {
            "dice": divided(2 * hit, labelled + predicted),
            "precision": divided(hit, predicted.clip(min=present)),
            "recall": divided(hit, labelled.clip(min=present)),
        }
        means = {f"mean_{name}": float(mean_of_known(values)) for name, values in scores.items()}
        parts = {f"per_category_{name}": self.by_class(scores[name]) for name in scores}
        return {**means, **parts}


class FrequencyWeightedIou(Confusion):
    """IoU averaged over classes with their labelled pixels as weights (Long et al., CVPR 2015)."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the score, 0..1, computed in float64."""
        import numpy as np

        from segacc.kernels.counts import divided, iou

        counts = self.counts()
        labelled = counts[:, 1]
        weighted = np.nansum(labelled * iou(counts))
        return {"frequency_weighted_iou": float(divided(weighted, labelled.sum()))}


class ConfusionFiles(Confusion):
    """Writes confusion.png and confusion.csv; has no score of its own."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return no scores: those of this matrix are computed by mean_iou."""
        return {}

    def write(self, folder: Path) -> None:
        """Write both files; rows are labels, columns are predictions."""
        counts = self.state["confusion"].cpu().numpy()
        with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["label \\ prediction", *self.names])
            table.writerows(zip(self.names, *counts.T.tolist(), strict=True))
        draw(counts, self.names).savefig(folder / "confusion.png")


def draw(counts: "Array", names: tuple[str, ...]) -> "Figure":
    """Draw counts (K, K), with each row normalized by its sum; grey if the sum is 0."""
    import matplotlib.colors
    import numpy as np
    from matplotlib.figure import Figure

    labelled = counts.sum(1, keepdims=True)
    shares = np.where(labelled > 0, counts / np.maximum(labelled, 1), np.nan)
    ticks = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    cell, size = cell_and_font(len(names))
    side = max(2.5, cell * len(names)) + 0.0085 * size * max(map(len, ticks)) + 0.5
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.colormaps["Blues"].with_extremes(bad="0.82")
    norm = matplotlib.colors.PowerNorm(0.5, 0, 1)  # makes errors of a few percent visible
    image = axes.imshow(shares, norm=norm, cmap=colors, interpolation="nearest")
    axes.set_xticks(range(len(names)), ticks, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), ticks, fontsize=size)
    axes.set(xlabel="prediction", ylabel="label")
    axes.tick_params(top=len(names) > NUMBERED, right=len(names) > NUMBERED)
    figure.colorbar(
        image, ax=axes, fraction=0.03, label="fraction of the label's pixels (grey: no pixels)"
    )
    if len(names) <= NUMBERED:
        number(axes, shares)
    return figure


def number(axes: "Axes", shares: "Array") -> None:
    """Write the fractions (K, K) in percent into the cells; grey rows stay empty."""
    for row, values in enumerate(shares.tolist()):
        for column, share in enumerate(values):
            if share == share:
                ink = "white" if share > 0.4 else "black"
                text = f"{100 * share:.1f}" if 0 < share < 0.0995 else f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)


def cell_and_font(num_classes: int) -> tuple[float, float]:
    """Return the side of a cell in inches and the font size of names in points."""
    if num_classes <= NUMBERED:
        return 0.45, 9.0
    return (0.22, 8.0) if num_classes <= 60 else (0.14, 7.0)


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register the four."""
    return [
        Metric(
            name="mean_iou",
            summary="mean and per-class IoU and accuracy from one integer confusion matrix",
            build=lambda options, facts: MeanIou(facts),
            from_confusion=True,
        ),
        Metric(
            name="dice",
            summary="mean and per-class Dice (F1), precision and recall",
            build=lambda options, facts: DiceScores(facts),
            from_confusion=True,
        ),
        Metric(
            name="frequency_weighted_iou",
            summary="IoU weighted by each class's labelled pixels (Long et al. 2015)",
            build=lambda options, facts: FrequencyWeightedIou(facts),
            from_confusion=True,
        ),
        Metric(
            name="confusion",
            summary="writes the confusion matrix as a figure and a CSV file; no score",
            build=lambda options, facts: ConfusionFiles(facts),
            from_confusion=True,
            writes=True,
        ),
    ]
