"""Write environment.json, metrics.jsonl, pictures and curves.png, and log to trackers."""

import json
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segacc.contracts import VERSION
from segacc.data.atomic import replacing
from segacc.data.pictures import draw_examples
from segacc.errors import DataError, WriteError
from segacc.evaluation.scores import VAL_LOSS, finite, flat
from segacc.labels import Color
from segacc.training.events import (
    Evaluated,
    Event,
    Fitted,
    Skipped,
    Started,
    StepDone,
    Stopped,
)
from segacc.training.folders import ENVIRONMENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = Callable[[dict[str, float], int], None]
"""A function that logs numbers by flat name for a step, as `Accelerator.log` does."""

MEANS = ("mean_iou", "mean_accuracy", "overall_accuracy")
KINDS = (("raw", "", "-"), ("ema", " (EMA)", "--"))
"""Each kind of weights with its addition to a label and its line style."""


def record(
    run_folder: Path,
    events: Iterator[Event],
    *,
    names: Sequence[str],
    palette: Sequence[Color],
    best_by: str,
    log: Log | None = None,
    failed: Callable[[Exception], None] | None = None,
) -> Iterator[Event]:
    """Record each event in the run folder, then yield it; on the main process only.

    Args:
        run_folder: folder for metrics.jsonl, pictures/step-N.png and pictures/curves.png.
        events: the events of `train`.
        names: K class names.
        palette: K RGB colours, 0..255.
        best_by: a score that curves.png shows besides the usual ones.
        log: called with `train/...` and `eval/...` numbers, for trackers.
        failed: called with an error of writing, as on a full disk; None raises it.
    """
    metrics, pictures = run_folder / "metrics.jsonl", run_folder / "pictures"

    def write(event: Event) -> None:
        if isinstance(event, Started):
            start_metrics(metrics, event.step)
        elif isinstance(event, StepDone) and event.logged:
            _write(metrics, train_row(event), log)
        elif isinstance(event, Evaluated):
            _write(metrics, eval_row(event), log)
            if event.examples:
                average = "-ema" if event.terms.weights == "ema" else ""
                path = pictures / f"step-{event.step:08d}{average}.png"
                title = f"step {event.step}{average.replace('-', ', ').upper()}"
                draw_examples(event.examples, names=names, palette=palette, path=path, title=title)
        elif isinstance(event, Skipped | Fitted):
            _write(metrics, {"kind": type(event).__name__.lower(), **asdict(event)}, log)
            if isinstance(event, Fitted):
                note_fitted(run_folder / "config.yaml", event.max_steps)
        elif isinstance(event, Stopped):
            draw_curves(metrics, pictures / "curves.png", best_by=best_by)
            note_end(run_folder / ENVIRONMENT)

    for event in events:
        try:
            write(event)
        except OSError as error:
            if failed is None:
                raise
            failed(WriteError(f"{run_folder}: metrics or pictures cannot be written: {error}."))
        yield event


def note_start(path: Path, *, step: int, devices: Sequence[str], started: float) -> None:
    """Add a start of the run to environment.json.

    Args:
        path: the file, a list with one entry for each start.
        step: optimizer steps already done.
        devices: the device of each process.
        started: when the process started, as a value of time.monotonic, in seconds.
    """
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    begin = datetime.now(UTC) - timedelta(seconds=time.monotonic() - started)
    start = {
        "started": begin.isoformat(timespec="seconds"),
        "seconds": None,
        "step": step,
        "command": command_line(),
        "directory": str(Path.cwd()),
        "git_commit": git_commit(),
        "segacc": VERSION,
        **{name: version(name) for name in ("torch", "transformers", "accelerate")},
        "python": platform.python_version(),
        "devices": list(devices),
    }
    _write_json(path, [*earlier, start])


def note_end(path: Path) -> None:
    """Add the duration in seconds to the newest start in environment.json, if it is still there."""
    if path.is_file():
        *earlier, start = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        taken = datetime.now(UTC) - datetime.fromisoformat(start["started"])
        _write_json(path, [*earlier, {**start, "seconds": round(taken.total_seconds(), 1)}])


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as part:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8", errors="surrogateescape")  # for paths


def command_line() -> str:
    """Return the command that started this process, as a shell reads it."""
    return shlex.join(sys.orig_argv)


def git_commit() -> str | None:
    """Return the commit of the working directory; None if it is in no repository or git is absent.

    Changes that are not committed are not looked for.
    """
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def start_metrics(path: Path, step: int) -> None:
    """Start metrics.jsonl, keeping only the lines up to `step` of a resumed run.

    The lines after the checkpoint are written again by the resumed run.
    """
    rows = read_metrics(path) if step and path.exists() else []
    text = "".join(_line(row) for row in rows if row["step"] <= step)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def note_fitted(path: Path, max_steps: int) -> None:
    """Add the fitted number of steps to the comment of `max_time` in config.yaml."""
    note, text = f"; fitted: {max_steps} steps", path.read_text(encoding="utf-8")
    line = re.compile(r"^(max_time: .*?)(; fitted: \d+ steps)?$", re.MULTILINE)
    with replacing(path) as part:
        part.write_text(line.sub(lambda found: found[1] + note, text), encoding="utf-8")


def train_row(event: StepDone) -> dict[str, Any]:
    """Return the row of a logged step in metrics.jsonl."""
    values = asdict(event)
    del values["logged"]
    return {"kind": "train", **values}


def eval_row(event: Evaluated) -> dict[str, Any]:
    """Return the row of an evaluation in metrics.jsonl, each score under its own name."""
    facts = {name: getattr(event, name) for name in ("step", "seconds", "best")}
    return {"kind": "eval", **facts, **asdict(event.terms), VAL_LOSS: None, **event.scores}


def _write(path: Path, row: dict[str, Any], log: Log | None) -> None:
    """Append one line and close the file, so that each printed number is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))
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


def draw_curves(metrics_jsonl: Path, path: Path, *, best_by: str = "mean_iou") -> None:
    """Plot loss, learning rate and scores of a run by step, with a mark at the best score."""
    with replacing(path) as part:
        curves(read_metrics(metrics_jsonl), best_by=best_by).savefig(part, format="png")


def curves(rows: Sequence[dict[str, Any]], *, best_by: str) -> "Figure":
    """Build the figure of `draw_curves` from the lines of metrics.jsonl."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    train = [row for row in rows if row["kind"] == "train"]
    scored = [row for row in rows if row["kind"] == "eval"]
    figure = Figure(figsize=(13, 4), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12))
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
