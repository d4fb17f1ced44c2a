"""The output of `segacc evaluate`: evaluation.json, per_image.parquet and pictures/worst/."""

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
    """Print the scores with their intervals."""
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
    folder: Path,
    found: Evaluation,
    report: Mapping[str, Any],
    *,
    labels: LabelMap,
    metrics: Sequence[Chosen],
    counted: Mapping[str, MetricState],
) -> None:
    """Write the folder of an evaluation, with evaluation.json as the last file.

    Args:
        folder: the folder; it is created if missing.
        found: the results.
        report: the content of evaluation.json.
        labels: the label map, with the names and the palette for pictures.
        metrics: the metrics of the evaluation; some write files of their own.
        counted: the same metrics, keyed by text, with the states of the whole split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = write_metric_files(folder, [counted[one.text] for one in metrics if one.record.writes])
    found.images.write(folder / FILE)
    worst = folder / "pictures" / "worst"
    draw_worst(found.worst, worst, names=labels.names, palette=labels.palette)
    temporary = folder / f".{REPORT}.tmp"
    temporary.write_text(json.dumps({**report, "files": files}, indent=1), encoding="utf-8")
    temporary.replace(folder / REPORT)


def write_metric_files(folder: Path, metrics: Sequence[Any]) -> list[str]:
    """Write the files of metrics into a folder, replacing those of an earlier evaluation.

    Returns:
        The names of the files.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".metrics-") as temporary:
        for metric in metrics:
            metric.write(Path(temporary))
        written = sorted(Path(temporary).iterdir())
        for name in stored_files(folder):
            (folder / name).unlink(missing_ok=True)
        for file in written:
            file.replace(folder / file.name)
    return [file.name for file in written]


def stored_files(folder: Path) -> list[str]:
    """Return the names of the metric files of an earlier evaluation in a folder."""
    try:
        names = json.loads((folder / REPORT).read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError):
        return []
    return [name for name in names if Path(name).name == name]
