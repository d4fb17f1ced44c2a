"""`confusion`: the confusion matrix as a picture and as a table of integers."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.hookspecs import Metric, hookimpl
from segacc.plugins.metrics.counts import Confusion

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Counts = np.ndarray[Any, np.dtype[np.int64]]

NUMBERED = 20
"""Classes up to which the cells of the picture bear numbers."""
LONGEST = 28
"""Characters of a class name that the picture shows."""


@dataclass(frozen=True, kw_only=True)
class ConfusionOptions:
    """confusion has no options."""


class ConfusionFiles(Confusion):
    """Writes confusion.png and confusion.csv; it gives no score of its own."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return nothing: the scores of this matrix are those of mean_iou."""
        return {}

    def write(self, folder: Path) -> None:
        """Write both files; rows are labels, columns predictions."""
        counts = self.state["confusion"].cpu().numpy()
        with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["label \\ prediction", *self.names])
            table.writerows(zip(self.names, *counts.T.tolist(), strict=True))
        draw(counts, self.names).savefig(folder / "confusion.png")


def draw(counts: "Counts", names: tuple[str, ...]) -> "Figure":
    """Draw counts (K, K), each row as shares of its sum; grey where that is 0."""
    import matplotlib.colors
    import numpy as np
    from matplotlib.figure import Figure

    labelled = counts.sum(1, keepdims=True)
    shares = np.where(labelled > 0, counts / np.maximum(labelled, 1), np.nan)
    cell, size = look(len(names))
    side = max(2.5, cell * len(names)) + 0.0085 * size * longest(names) + 0.5
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.colormaps["Blues"].with_extremes(bad="0.82")
    norm = matplotlib.colors.PowerNorm(0.5, 0, 1)  # errors of a few percent must be seen
    image = axes.imshow(shares, norm=norm, cmap=colors, interpolation="nearest")
    places, ticks = range(len(names)), [shortened(name) for name in names]
    axes.set_xticks(places, ticks, rotation=90, fontsize=size)
    axes.set_yticks(places, ticks, fontsize=size)
    axes.set(xlabel="prediction", ylabel="label")
    axes.tick_params(top=len(names) > NUMBERED, right=len(names) > NUMBERED)
    figure.colorbar(
        image, ax=axes, fraction=0.03, label="share of the label's pixels (grey: it has none)"
    )
    if len(names) <= NUMBERED:
        number(axes, shares)
    return figure


def number(axes: "Axes", shares: "np.ndarray[Any, Any]") -> None:
    """Write the shares (K, K) into the cells, in percent; none into a grey row."""
    for row, values in enumerate(shares.tolist()):
        for column, share in enumerate(values):
            if share == share:
                ink = "white" if share > 0.4 else "black"
                text = f"{100 * share:.1f}" if 0 < share < 0.0995 else f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)


def look(num_classes: int) -> tuple[float, float]:
    """Return a cell's side in inches and the size of names in points."""
    if num_classes <= NUMBERED:
        return 0.45, 9.0
    return (0.22, 8.0) if num_classes <= 60 else (0.14, 7.0)


def longest(names: tuple[str, ...]) -> int:
    """Return the characters of the longest name as it is shown."""
    return max(len(shortened(name)) for name in names)


def shortened(name: str) -> str:
    """Cut a long name, and end it in an ellipsis."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register it."""
    return [
        Metric(
            name="confusion",
            summary="the confusion matrix as a picture and a CSV file; it gives no score",
            options=ConfusionOptions,
            build=lambda options, facts: ConfusionFiles(facts),
            writes=True,
        )
    ]
