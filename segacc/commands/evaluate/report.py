"""The output of `segacc evaluate`: evaluation.json, per_image.parquet and pictures/worst/."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segacc.commands.evaluate.per_image import FILE, REPORT
from segacc.commands.evaluate.score import Evaluation, draw_worst
from segacc.data.atomic import replacing, writing
from segacc.evaluation.scoring import Scoring
from segacc.labels import LabelMap


def write_evaluation(
    folder: Path,
    scoring: Scoring,
    found: Evaluation,
    report: Mapping[str, Any],
    labels: LabelMap,
) -> list[str]:
    """Write the folder of an evaluation, with evaluation.json as the last file.

    Args:
        folder: the folder; it is created if missing.
        scoring: the evaluation, some of whose metrics write files of their own.
        found: the results.
        report: the content of evaluation.json.
        labels: the label map, with the names and the palette for pictures.

    Returns:
        The names of the metrics' own files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = write_metric_files(folder, scoring)
    found.images.write(folder / FILE)
    worst = folder / "pictures" / "worst"
    draw_worst(found.worst, worst, names=labels.names, palette=labels.palette)
    with replacing(folder / REPORT) as part:
        part.write_text(json.dumps({**report, "files": files}, indent=1), encoding="utf-8")
    return files


def write_metric_files(folder: Path, scoring: Scoring) -> list[str]:
    """Write the files of metrics into a folder, replacing those of an earlier evaluation.

    Returns:
        The names of the files.
    """
    inside = tempfile.TemporaryDirectory(dir=folder, prefix=".metrics-")
    with writing(folder), inside as temporary:
        for one in [one for one in scoring.chosen if one.record.writes]:
            metric: Any = scoring.counted[one.text]
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
