"""What `segacc evaluate` leaves behind: evaluation.json, per_image.parquet, pictures/worst/."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segacc.commands.evaluate.per_image import FILE, REPORT
from segacc.commands.evaluate.score import Evaluation, draw_worst
from segacc.commands.tables import print_scores
from segacc.contracts import MetricState
from segacc.evaluation.scores import Terms
from segacc.hookspecs import Chosen
from segacc.labels import LabelMap


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
        intervals=found.intervals if "mean_iou" in found.scores else None,
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
        counted: the same by their texts, with the states of the whole split.
    """
    place.mkdir(parents=True, exist_ok=True)
    files = write_metric_files(place, [counted[one.text] for one in metrics if one.record.writes])
    found.images.write(place / FILE)
    worst = place / "pictures" / "worst"
    draw_worst(found.worst, worst, names=labels.names, palette=labels.palette)
    temporary = place / f".{REPORT}.tmp"
    temporary.write_text(json.dumps({**report, "files": files}, indent=1), encoding="utf-8")
    temporary.replace(place / REPORT)


def write_metric_files(place: Path, metrics: Sequence[Any]) -> list[str]:
    """Let metrics write into a folder, in place of what those of the evaluation before wrote.

    Returns:
        The names of their files.
    """
    with tempfile.TemporaryDirectory(dir=place, prefix=".metrics-") as folder:
        for metric in metrics:
            metric.write(Path(folder))
        written = sorted(Path(folder).iterdir())
        for name in stored_files(place):
            (place / name).unlink(missing_ok=True)
        for file in written:
            file.replace(place / file.name)
    return [file.name for file in written]


def stored_files(place: Path) -> list[str]:
    """Name the files of metrics that an evaluation before left in its folder."""
    try:
        names = json.loads((place / REPORT).read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError):
        return []
    return [name for name in names if Path(name).name == name]
