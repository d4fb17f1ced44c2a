"""What `segacc evaluate` leaves behind: evaluation.json, per_image.parquet, pictures/worst/."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segacc.chosen import Chosen
from segacc.evaluation.per_image import FILE, REPORT
from segacc.evaluation.score import Evaluation
from segacc.evaluation.worst import draw_worst
from segacc.hookspecs import MetricState
from segacc.labels import LabelMap
from segacc.score_tables import print_scores
from segacc.terms import Terms


def show(
    console: Console, found: Evaluation, labels: LabelMap, *, title: str, terms: Terms
) -> None:
    """Print the table of scores with their intervals."""
    print_scores(
        console,
        found.scores,
        names=labels.names,
        palette=labels.palette,
        title=title,
        rules=terms.rules(),
        intervals=found.intervals,
    )


def write_evaluation(
    place: Path,
    found: Evaluation,
    report: Mapping[str, Any],
    *,
    labels: LabelMap,
    metrics: Sequence[Chosen],
    counted: Mapping[str, MetricState],
) -> None:
    """Write the folder of an evaluation; evaluation.json comes last.

    Args:
        place: the folder; it is made when it is missing.
        found: what was scored.
        report: what evaluation.json holds.
        labels: whose names and palette the pictures have.
        metrics: those that were asked for; some write files of their own.
        counted: the same by name, with the states of the whole split.
    """
    place.mkdir(parents=True, exist_ok=True)
    for one in metrics:
        if one.record.writes:
            metric: Any = counted[one.name]
            metric.write(place)
    found.images.write(place / FILE)
    worst = place / "pictures" / "worst"
    draw_worst(found.worst, worst, names=labels.names, palette=labels.palette)
    temporary = place / f".{REPORT}.tmp"
    temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
    temporary.replace(place / REPORT)
