"""curves.png: loss, learning rate and scores of a run by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segacc.data.atomic import replacing
from segacc.evaluation.scores import VAL_LOSS, flat, row_key
from segacc.training.tracking.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEANS = ("mean_iou", "mean_accuracy", "overall_accuracy")
KINDS = (("raw", "", "-"), ("ema", " (EMA)", "--"))
"""Each kind of weights with its addition to a label and its line style."""


def draw_curves(metrics_jsonl: Path, path: Path, *, best_by: str = "mean_iou") -> None:
    """Plot loss, learning rate and scores of a run by step, with a mark at the best score."""
    with replacing(path) as part:
        curves(read_metrics(metrics_jsonl), best_by=best_by).savefig(part, format="png")


def curves(rows: Sequence[dict[str, Any]], *, best_by: str) -> "Figure":
    """Build the figure of `draw_curves` from the lines of metrics.jsonl."""
    from matplotlib.figure import Figure

    train = [row for row in rows if row["kind"] == "train"]
    scored = [row for row in rows if row["kind"] == "eval"]
    figure = Figure(figsize=(13, 4), dpi=110)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.13, top=0.92, wspace=0.22)
    loss, lr, scores = figure.subplots(1, 3, sharex=True)
    _draw_losses(loss, train, scored)
    _draw_line(lr, train, "lr", "learning rate")
    lr.set_ylim(bottom=0)
    lr.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _draw_scores(scores, scored, best_by)
    for axes, name in ((loss, "loss"), (lr, "learning rate"), (scores, "validation score")):
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_losses(
    axes: "Axes", rows: Sequence[dict[str, Any]], scored: Sequence[dict[str, Any]]
) -> None:
    _draw_line(axes, rows, "loss", "loss")
    terms = list(rows[0]["losses"]) if rows else []
    for term in terms if len(terms) > 1 else ():
        points = [{"step": row["step"], term: row["losses"].get(term)} for row in rows]
        _draw_line(axes, points, term, term, alpha=0.7)
    for weights, told, style in KINDS:
        of_these = [row for row in scored if row.get("weights", "raw") == weights]
        if any(row.get(VAL_LOSS) is not None for row in of_these):
            _draw_line(axes, of_these, VAL_LOSS, VAL_LOSS + told, linestyle=style, color="black")
    if len(axes.lines) > 1:
        axes.legend(frameon=False)


def _draw_line(
    axes: "Axes", rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any
) -> None:
    """Plot one number by step, with gaps where it is null."""
    values = [np.nan if row.get(key) is None else row[key] for row in rows]
    marker = "o" if len(rows) < 20 else ""
    axes.plot([row["step"] for row in rows], values, marker=marker, ms=4, label=label, **style)


def _draw_scores(axes: "Axes", rows: Sequence[dict[str, Any]], best_by: str) -> None:
    best_by = row_key(best_by)
    found = [{**row, best_by: flat(row).get(best_by)} for row in rows]
    for weights, told, style in KINDS:
        of_these = [row for row in found if row.get("weights", "raw") == weights]
        for number, key in enumerate(dict.fromkeys((best_by, *MEANS))):
            if any(row.get(key) is not None for row in of_these):
                _draw_line(axes, of_these, key, key + told, linestyle=style, color=f"C{number}")
    best = next((row for row in reversed(found) if row["best"]), None)
    if best is not None and best[best_by] is not None:
        axes.plot(best["step"], best[best_by], "*", ms=15, color="black", mfc="gold", zorder=5)
        axes.set_title(f"best {best_by} {best[best_by]:.4f} at step {best['step']}", fontsize=10)
    if axes.lines:
        axes.legend(frameon=False)
