"""What a report says about its runs: facts, curves, classes, confusions and settings."""

import csv
import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from segacc.commands.report.run import RunData, defaults
from segacc.evaluation.scores import VAL_LOSS, flat, row_key

POINTS = 2000
"""Maximum number of points of a curve; of a longer one, evenly spaced points are drawn."""
TABLE = 24
"""Maximum number of classes for which the confusion matrix is shown as a table."""
PAIRS = 12
"""Number of the most confused pairs that are listed."""
VERSIONS = ("segacc", "torch", "transformers", "accelerate", "python")

Point = tuple[int, float | None]


def facts_of(run: RunData) -> list[tuple[str, str]]:
    """Return the header of a run as pairs of name and text."""
    score = run.score
    terms = score.terms if score else {}
    rows = [("Architecture", run.told("arch")), ("Data set", run.told("dataset"))]
    if score:
        split = terms.get("split") or run.settings.get("eval_split", "validation")
        kind = ", averaged weights" if terms.get("weights") == "ema" else ""
        rows += [
            ("Scored on", f"{terms['num_images']} images of {split}"),
            ("Protocol", f"{terms['protocol']}{kind}"),
        ]
    steps = f"{run.step:,}" + (f" of {run.max_steps:,}" if run.max_steps else "")
    best = f", best at {score.step:,}" if score and score.step is not None else ""
    rows += [("Steps", steps + best), ("Training time", _time(run)), ("Device", _devices(run))]
    return rows


def _time(run: RunData) -> str:
    if run.seconds is not None and not run.running:
        return str(timedelta(seconds=round(run.seconds)))
    if not run.starts:
        return "not recorded"
    return "still training" if run.running else "not recorded: the run did not end by itself"


def _devices(run: RunData) -> str:
    devices = run.starts[-1]["devices"] if run.starts else []
    counts = {name: devices.count(name) for name in devices}
    told = (
        f"{count} \N{MULTIPLICATION SIGN} {name}" if count > 1 else name
        for name, count in counts.items()
    )
    return ", ".join(told) or "not recorded"


def charts_of(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Return the charts: each has a title and tabs, a tab its lines, a line its run and points."""
    scores = dict.fromkeys(run.best_by for run in runs)
    for row in (row for run in runs for row in run.of_kind("eval")):
        scores |= dict.fromkeys(key for key in SCORES if row.get(key) is not None)
    terms = dict.fromkeys(
        name
        for run in runs
        for row in run.of_kind("train")
        if len(row["losses"]) > 1
        for name in row["losses"]
    )
    losses = [
        _tab("loss", "training", [*_trained(runs, "loss"), *_scored(runs, VAL_LOSS, dash=True)])
    ]
    losses += [_tab(name, name, _trained(runs, name, among="losses")) for name in terms]
    charts = [
        ("Loss", True, losses),
        ("Validation score", False, [_tab(name, name, _scored(runs, name)) for name in scores]),
        ("Learning rate", False, [_tab("lr", "learning rate", _trained(runs, "lr"))]),
        ("Gradient norm", True, [_tab("grad_norm", "norm", _trained(runs, "grad_norm"))]),
    ]
    return [
        {"title": title, "log": log, "tabs": [tab for tab in tabs if tab["lines"]]}
        for title, log, tabs in charts
    ]


SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy", "mean_dice", "boundary_iou")


def _tab(name: str, label: str, lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "label": label, "lines": [line for line in lines if line["points"]]}


def _trained(runs: Sequence[RunData], key: str, *, among: str = "") -> list[dict[str, Any]]:
    lines = []
    for number, run in enumerate(runs):
        rows = run.of_kind("train")
        points = [(row["step"], (row[among] if among else row).get(key)) for row in rows]
        lines.append(_line(number, key, points))
    return lines


def _scored(runs: Sequence[RunData], key: str, *, dash: bool = False) -> list[dict[str, Any]]:
    lines = []
    for number, run in enumerate(runs):
        for weights, told in (("raw", ""), ("ema", " (EMA)")):
            rows = [row for row in run.of_kind("eval") if row.get("weights", "raw") == weights]
            points = [(row["step"], flat(row).get(row_key(key))) for row in rows]
            lines.append(_line(number, f"{key}{told}", points, dash=dash or bool(told), dots=True))
    return lines


def _line(
    run: int, label: str, points: Sequence[Point], *, dash: bool = False, dots: bool = False
) -> dict[str, Any]:
    known = any(value is not None for _, value in points)
    every = math.ceil(len(points) / POINTS) or 1
    kept = [*points[:-1:every], *points[-1:]] if known else []
    numbers = [(step, None if value is None else float(f"{value:.6g}")) for step, value in kept]
    return {
        "run": run,
        "label": label,
        "points": numbers,
        "dash": dash,
        "dots": dots,
        "every": every,
    }


def classes_of(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Return a row for each class: name, colour, share, and for each run the score or a reason."""
    names = dict.fromkeys(one.name for run in runs for one in run.classes)
    found = [{one.name: one for one in run.classes} for run in runs]
    rows = []
    for name in names:
        some = [one[name] for one in found if name in one]
        cells = [
            _cell(one.get(name)) if run.classes else None
            for one, run in zip(found, runs, strict=True)
        ]
        shares = [one.share for one in some if one.share is not None]
        values = [cell["value"] for cell in cells if cell and cell["value"] is not None]
        mean = sum(values) / len(values) if values else -1.0
        rows.append(
            {
                "name": name,
                "color": some[0].color,
                "share": shares[0] if shares else None,
                "cells": cells,
                "mean": mean,
            }
        )
    return rows


def _cell(one: Any) -> dict[str, Any]:
    if one is None:
        return {"value": None, "why": "not a class of this run"}
    why = "absent from labels and predictions"
    return {"value": one.value, "interval": one.interval, "why": why}


def confusion_of(run: RunData) -> dict[str, Any] | None:
    """Return the confusion matrix of a run's evaluation.

    Returns:
        `names`, `shares` (the rows, normalized; None for many classes) and the most confused
        `pairs`; None if it was not written and cannot be computed.
    """
    counts = _counts(run)
    if counts is None or run.evaluation is None:
        return None
    names = run.evaluation.images.names
    sums = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(sums, 1)
    wrong = shares * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows, columns = np.unravel_index(order, wrong.shape)
    pairs = [
        {
            "label": names[i],
            "prediction": names[j],
            "share": float(wrong[i, j]),
            "pixels": int(counts[i, j]),
        }
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        if wrong[i, j] > 0
    ]
    known = (sums[:, 0] > 0).tolist()
    table = shares.tolist() if len(names) <= TABLE else None
    return {"names": names, "shares": table, "known": known, "pairs": pairs}


def _counts(run: RunData) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
    """Return the matrix (K, K) in confusion.csv; for two classes it follows from the counts."""
    if run.evaluation is None:
        return None
    path: Path = run.evaluation.folder / "confusion.csv"
    if "confusion.csv" in run.evaluation.report.get("files", ()) and path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            return np.array([[int(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]])
    images = run.evaluation.images
    if len(images.names) != 2:
        return None
    (hit0, all0, _), (hit1, all1, _) = images.total().tolist()
    return np.array([[hit0, all0 - hit0], [all1 - hit1, hit1]])


def settings_of(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Return the settings in which runs differ, or in which one run differs from the defaults."""
    normal = defaults()
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = []
    for key in keys:
        values = [run.settings.get(key) for run in runs]
        compared = values if len(runs) > 1 else [*values, normal.get(key)]
        if any(one != compared[0] for one in compared):
            cells = [
                {"value": told(run.settings.get(key)), "origin": run.origins.get(key, "")}
                for run in runs
            ]
            rows.append({"key": key, "cells": cells, "default": told(normal.get(key))})
    return rows


def told(value: Any) -> str:
    """Return a setting as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case [int(height), int(width)]:
            return f"{height}x{width}"
        case list():
            return ", ".join(map(told, value)) or "none"
        case {"name": name, **options}:
            return ":".join(
                filter(None, (str(name), ",".join(f"{k}={v}" for k, v in options.items())))
            )
    return str(value)


def environment_of(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """Return the rows of the table of environments, from the newest start of each run."""
    starts = [run.starts[-1] if run.starts else {} for run in runs]
    rows = [(name, [str(one.get(name) or "-") for one in starts]) for name in VERSIONS]
    rows.append(("devices", [_devices(run) for run in runs]))
    rows.append(("git commit", [str(one.get("git_commit") or "-") for one in starts]))
    rows.append(("directory", [str(one.get("directory") or "-") for one in starts]))
    rows.append(
        ("started", [" and ".join(one["started"] for one in run.starts) or "-" for run in runs])
    )
    return rows
