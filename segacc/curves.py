"""curves.png: loss, learning rate and scores of a run, from its metrics.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from segacc.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEANS = ("mean_iou", "mean_accuracy", "overall_accuracy")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line that a killed run left half-written is passed over.

    Raises:
        DataError: another line is no JSON.
    """
    rows = []
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(
                    f"{path}: line {number} is no JSON: {error}. Take it out."
                ) from None
    return rows


def draw_curves(metrics_jsonl: Path, path: Path, *, best_by: str = "mean_iou") -> None:
    """Draw loss, learning rate and scores over the steps of a run, the best score marked.

    The file appears whole or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    curves(read_metrics(metrics_jsonl), best_by=best_by).savefig(temporary, format="png")
    temporary.replace(path)


def curves(rows: Sequence[dict[str, Any]], *, best_by: str) -> "Figure":
    """Build the figure of `draw_curves` from the lines of metrics.jsonl."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    train = [row for row in rows if row["kind"] == "train"]
    scored = [row for row in rows if row["kind"] == "eval"]
    figure = Figure(figsize=(13, 4), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12))
    loss, lr, scores = figure.subplots(1, 3, sharex=True)
    _draw_losses(loss, train)
    _draw_line(lr, train, "lr", "learning rate")
    lr.set_ylim(bottom=0)
    lr.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _draw_scores(scores, scored, best_by)
    for axes, name in ((loss, "loss"), (lr, "learning rate"), (scores, "validation score")):
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_losses(axes: "Axes", rows: Sequence[dict[str, Any]]) -> None:
    _draw_line(axes, rows, "loss", "loss")
    terms = list(rows[0]["losses"]) if rows else []
    if len(terms) > 1:
        for term in terms:
            points = [{"step": row["step"], term: row["losses"].get(term)} for row in rows]
            _draw_line(axes, points, term, term, alpha=0.7)
        axes.legend(frameon=False)


def _draw_line(
    axes: "Axes", rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any
) -> None:
    """Draw one number over the steps; where it is null the line has a gap."""
    values = [np.nan if row.get(key) is None else row[key] for row in rows]
    marker = "o" if len(rows) < 20 else ""
    axes.plot([row["step"] for row in rows], values, marker=marker, ms=4, label=label, **style)


def _draw_scores(axes: "Axes", rows: Sequence[dict[str, Any]], best_by: str) -> None:
    flat = [{**row, best_by: _look_up(row, best_by)} for row in rows]
    for weights, told, style in (("raw", "", "-"), ("ema", " (EMA)", "--")):
        of_these = [row for row in flat if row.get("weights", "raw") == weights]
        for number, key in enumerate(dict.fromkeys((best_by, *MEANS))):
            if any(row.get(key) is not None for row in of_these):
                _draw_line(axes, of_these, key, key + told, linestyle=style, color=f"C{number}")
    best = next((row for row in reversed(flat) if row["best"]), None)
    if best is not None and best[best_by] is not None:
        axes.plot(best["step"], best[best_by], "*", ms=15, color="black", mfc="gold", zorder=5)
        axes.set_title(f"best {best_by} {best[best_by]:.4f} at step {best['step']}", fontsize=10)
    if axes.lines:
        axes.legend(frameon=False)


def _look_up(row: dict[str, Any], key: str) -> float | None:
    """Find a score by its name, or by `per_category_iou/nucleus` inside a mapping."""
    outer, _, inner = key.partition("/")
    value = row.get(key) if key in row or not inner else row.get(outer, {}).get(inner)
    return cast("float | None", value)
