"""What a run leaves behind for later: metrics.jsonl, pictures/ and accelerate's trackers."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segacc.curves import draw_curves, read_metrics
from segacc.data.pictures import draw_examples
from segacc.errors import WriteError
from segacc.evaluation.scores import Scores
from segacc.events import Evaluated, Event, Fitted, Skipped, Started, StepDone, Stopped, finite
from segacc.labels import Color

Log = Callable[[dict[str, float], int], None]
"""Takes numbers by flat name and the step they belong to, as `Accelerator.log` does."""


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
    """Write each event into the run folder, then pass it on; on the main process only.

    Args:
        run_folder: gets metrics.jsonl, pictures/step-N.png and pictures/curves.png.
        events: what `train` yields.
        names: K class names.
        palette: K RGB colours, 0..255.
        best_by: the score that curves.png shows beside the usual ones.
        log: called with `train/...` and `eval/...` numbers, for trackers.
        failed: told what could not be written, as on a full disk; raised where this is None.
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

    for event in events:
        try:
            write(event)
        except OSError as error:
            if failed is None:
                raise
            failed(WriteError(f"{run_folder}: the run's records cannot be written: {error}."))
        yield event


def start_metrics(path: Path, step: int) -> None:
    """Make metrics.jsonl hold what happened up to `step`, and nothing at step 0.

    A run that was killed after its checkpoint wrote lines that the resumed run writes again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_metrics(path) if step and path.exists() else []
    text = "".join(_line(row) for row in rows if row["step"] <= step)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def note_fitted(path: Path, max_steps: int) -> None:
    """Say in config.yaml, behind `max_time`, how many steps were fitted."""
    note, text = f"; fitted: {max_steps} steps", path.read_text(encoding="utf-8")
    line = re.compile(r"^(max_time: .*?)(; fitted: \d+ steps)?$", re.MULTILINE)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(line.sub(lambda found: found[1] + note, text), encoding="utf-8")
    temporary.replace(path)


def train_row(event: StepDone) -> dict[str, Any]:
    """Return a logged step as metrics.jsonl holds it."""
    values = asdict(event)
    del values["logged"]
    return {"kind": "train", **values}


def eval_row(event: Evaluated) -> dict[str, Any]:
    """Return an evaluation as metrics.jsonl holds it, each score under its own name."""
    facts = {name: getattr(event, name) for name in ("step", "seconds", "best")}
    return {"kind": "eval", **facts, **asdict(event.terms), **event.scores}


def flat(scores: Mapping[str, Any] | Scores) -> dict[str, float]:
    """Return the numbers by name, those of a mapping as `per_category_iou/nucleus`."""
    numbers: dict[str, float] = {}
    for key, value in scores.items():
        if isinstance(value, Mapping):
            numbers |= {f"{key}/{name}": number for name, number in value.items()}
        elif isinstance(value, int | float):
            numbers[key] = value
    return numbers


def _write(path: Path, row: dict[str, Any], log: Log | None) -> None:
    """Append one line, closed and so flushed each time: what was shown is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))
    if log is not None:
        numbers = {key: value for key, value in flat(row).items() if key not in ("step", "best")}
        kind = "eval_ema" if row.get("weights") == "ema" else row["kind"]
        log({f"{kind}/{key}": value for key, value in numbers.items()}, row["step"])


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"
