"""`confusion`: the confusion matrix as a figure and as a table of integers."""

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
"""Maximum number of classes for which the cells of the figure contain numbers."""
LONGEST = 28
"""Maximum length of class names in the figure."""


@dataclass(frozen=True, kw_only=True)
class ConfusionOptions:
    """confusion has no options."""


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


def draw(counts: "Counts", names: tuple[str, ...]) -> "Figure":
    """Draw counts (K, K), with each row normalized by its sum; grey if the sum is 0."""
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
    norm = matplotlib.colors.PowerNorm(0.5, 0, 1)  # makes errors of a few percent visible
    image = axes.imshow(shares, norm=norm, cmap=colors, interpolation="nearest")
    positions, ticks = range(len(names)), [shortened(name) for name in names]
    axes.set_xticks(positions, ticks, rotation=90, fontsize=size)
    axes.set_yticks(positions, ticks, fontsize=size)
    axes.set(xlabel="prediction", ylabel="label")
    axes.tick_params(top=len(names) > NUMBERED, right=len(names) > NUMBERED)
    figure.colorbar(
        image, ax=axes, fraction=0.03, label="fraction of the label's pixels (grey: no pixels)"
    )
    if len(names) <= NUMBERED:
        number(axes, shares)
    return figure


def number(axes: "Axes", shares: "np.ndarray[Any, Any]") -> None:
    """Write the fractions (K, K) in percent into the cells; grey rows stay empty."""
    for row, values in enumerate(shares.tolist()):
        for column, share in enumerate(values):
            if share == share:
                ink = "white" if share > 0.4 else "black"
                text = f"{100 * share:.1f}" if 0 < share < 0.0995 else f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)


def look(num_classes: int) -> tuple[float, float]:
    """Return the side of a cell in inches and the font size of names in points."""
    if num_classes <= NUMBERED:
        return 0.45, 9.0
    return (0.22, 8.0) if num_classes <= 60 else (0.14, 7.0)


def longest(names: tuple[str, ...]) -> int:
    """Return the length of the longest name as displayed."""
    return max(len(shortened(name)) for name in names)


def shortened(name: str) -> str:
    """Truncate a long name with an ellipsis."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register confusion."""
    return [
        Metric(
            name="confusion",
            summary="writes the confusion matrix as a figure and a CSV file; no score",
            options=ConfusionOptions,
            build=lambda options, facts: ConfusionFiles(facts),
            writes=True,
        )
    ]
