"""metrics.jsonl: its lines, which trackers get as flat numbers."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segacc.data.atomic import replacing
from segacc.errors import DataError
from segacc.evaluation.scores import VAL_LOSS, finite, flat, row_key
from segacc.training.events import Evaluated, StepDone

Log = Callable[[dict[str, float], int], None]
"""A function that logs numbers by flat name for a step, as `Accelerator.log` does."""


def start_metrics(path: Path, step: int, evaluated: int | None = None) -> None:
    """Start metrics.jsonl, keeping only what the checkpoint of a resumed run knows.

    The lines after it are written again by the resumed run: those after `step`, and those of
    evaluations after the step `evaluated`.
    """
    rows = read_metrics(path) if step and path.exists() else []
    ends = {"eval": step if evaluated is None else evaluated}
    text = "".join(_line(row) for row in rows if row["step"] <= ends.get(row["kind"], step))
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def train_row(event: StepDone) -> dict[str, Any]:
    """Return the row of a logged step in metrics.jsonl."""
    values = asdict(event)
    del values["logged"]
    return {"kind": "train", **values}


def eval_row(event: Evaluated) -> dict[str, Any]:
    """Return the row of an evaluation in metrics.jsonl, each score under its `row_key`."""
    scores = {row_key(name): score for name, score in event.scores.items()}
    facts = {name: getattr(event, name) for name in ("step", "seconds", "best")}
    return {"kind": "eval", **facts, **asdict(event.terms), VAL_LOSS: None, **scores}


def write_row(path: Path, row: dict[str, Any], log: Log | None) -> None:
    """Append one line and close the file, so that each printed number is on disk."""
    size = path.stat().st_size if path.is_file() else None
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
    except OSError:
        if size is not None:  # removes the half of a line that a full disk took
            os.truncate(path, size)
        raise
    if log is not None:
        kind = "eval_ema" if row.get("weights") == "ema" else row["kind"]
        numbers = {
            f"{kind}/{key}": value
            for key, value in flat(row).items()
            if isinstance(value, int | float) and key not in ("step", "best")
        }
        log(numbers, row["step"])


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl, skipping an incomplete last line of a killed run.

    Raises:
        DataError: another line is not JSON.
    """
    rows = []
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}: line {number} is not JSON: {error}. Remove it.") from None
    return rows
