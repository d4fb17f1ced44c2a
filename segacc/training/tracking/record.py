"""Record the events of a run in its folder and with its trackers."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from segacc.data.atomic import replacing
from segacc.data.pictures import draw_examples
from segacc.errors import WriteError
from segacc.evaluation.scores import flat
from segacc.labels import Color
from segacc.training.events import (
    Evaluated,
    Event,
    Fitted,
    Saved,
    Skipped,
    Started,
    StepDone,
    Stopped,
)
from segacc.training.folders import ENVIRONMENT
from segacc.training.tracking.curves import draw_curves
from segacc.training.tracking.environment import note_end
from segacc.training.tracking.metrics import Log, eval_row, start_metrics, train_row, write_row

Show = Callable[[str, Path, int], None]
"""A function that logs a picture by name, file and step."""


def record(
    run_folder: Path,
    events: Iterator[Event],
    *,
    names: Sequence[str],
    palette: Sequence[Color],
    best_by: str,
    log: Log | None = None,
    show: Show | None = None,
    failed: Callable[[Exception], None] | None = None,
) -> Iterator[Event]:
    """Record each event in the run folder, then yield it; on the main process only.

    Args:
        run_folder: folder for metrics.jsonl, pictures/step-N.png and pictures/curves.png.
        events: the events of `train`.
        names: K class names.
        palette: K RGB colours, 0..255.
        best_by: a score that curves.png shows besides the usual ones.
        log: called with `train/...`, `eval/...` and `best/...` numbers, for trackers.
        show: called with each picture that was drawn, for trackers.
        failed: called with an error of writing, as on a full disk; None raises it.
    """
    metrics, pictures = run_folder / "metrics.jsonl", run_folder / "pictures"
    show_picture = show or (lambda name, path, step: None)

    def write(event: Event) -> None:
        if isinstance(event, Started):
            start_metrics(metrics, event.step)
        elif isinstance(event, StepDone) and event.logged:
            write_row(metrics, train_row(event), log)
        elif isinstance(event, Evaluated):
            row = eval_row(event)
            write_row(metrics, row, log)
            if log is not None and event.best:
                log({f"best/{best_by}": flat(row)[best_by]}, event.step)
            if event.examples:
                average = "-ema" if event.terms.weights == "ema" else ""
                path = pictures / f"step-{event.step:08d}{average}.png"
                title = f"step {event.step}{average.replace('-', ', ').upper()}"
                draw_examples(event.examples, names=names, palette=palette, path=path, title=title)
                show_picture(f"validation{average}", path, event.step)
        elif isinstance(event, Skipped | Fitted):
            write_row(metrics, {"kind": type(event).__name__.lower(), **asdict(event)}, log)
            if isinstance(event, Fitted):
                note_fitted(run_folder / "config.yaml", event.max_steps)
        elif isinstance(event, Saved) and event.folder.name == "last":
            draw_curves(metrics, pictures / "curves.png", best_by=best_by)
            show_picture("curves", pictures / "curves.png", event.step)
        elif isinstance(event, Stopped):
            note_end(run_folder / ENVIRONMENT)

    for event in events:
        try:
            write(event)
        except OSError as error:
            if failed is None:
                raise
            failed(WriteError(f"{run_folder}: metrics or pictures cannot be written: {error}."))
        yield event


def note_fitted(path: Path, max_steps: int) -> None:
    """Add the fitted number of steps to the comment of `max_time` in config.yaml."""
    note, text = f"; fitted: {max_steps} steps", path.read_text(encoding="utf-8")
    line = re.compile(r"^(max_time: .*?)(; fitted: \d+ steps)?$", re.MULTILINE)
    with replacing(path) as part:
        part.write_text(line.sub(lambda found: found[1] + note, text), encoding="utf-8")
