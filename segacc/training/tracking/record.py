"""Record the events of a run in its folder and with its trackers."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segacc.data.atomic import replacing
from segacc.data.pictures import draw_examples
from segacc.errors import WriteError
from segacc.evaluation.scores import flat, row_key
from segacc.labels import Color
from segacc.training.events import (
    Evaluated,
    Event,
    Fitted,
    Halved,
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


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Writes each event to a run folder, and logs it with trackers."""

    folder: Path
    """The run folder, for metrics.jsonl, pictures/step-N.png and pictures/curves.png."""
    names: Sequence[str]
    """K class names."""
    palette: Sequence[Color]
    """K RGB colours, 0..255."""
    best_by: str
    """A score that curves.png shows besides the usual ones."""
    log: Log | None = None
    """Called with `train/...`, `eval/...` and `best/...` numbers."""
    show: Show | None = None
    """Called with each picture that was drawn."""

    def write(self, event: Event) -> None:
        """Write an event; those that leave no trace are passed over."""
        metrics = self.folder / "metrics.jsonl"
        if isinstance(event, Started):
            start_metrics(metrics, event.step, event.evaluated)
        elif isinstance(event, StepDone) and event.logged:
            write_row(metrics, train_row(event), self.log)
        elif isinstance(event, Evaluated):
            self._evaluation(metrics, event)
        elif isinstance(event, Skipped | Halved | Fitted):
            row = {"kind": type(event).__name__.lower(), **asdict(event)}
            write_row(metrics, row, self.log)
            if isinstance(event, Fitted):
                note_fitted(self.folder / "config.yaml", event.max_steps)
        elif isinstance(event, Saved) and event.folder.name == "last":
            path = self.folder / "pictures" / "curves.png"
            draw_curves(metrics, path, best_by=self.best_by)
            self._show("curves", path, event.step)
        elif isinstance(event, Stopped):
            note_end(self.folder / ENVIRONMENT)

    def _evaluation(self, metrics: Path, event: Evaluated) -> None:
        row = eval_row(event)
        if event.examples:
            average = "-ema" if event.terms.weights == "ema" else ""
            path = self.folder / "pictures" / f"step-{event.step:08d}{average}.png"
            title = f"step {event.step}{average.replace('-', ', ').upper()}"
            names, palette = self.names, self.palette
            draw_examples(event.examples, names=names, palette=palette, path=path, title=title)
            self._show(f"validation{average}", path, event.step)
        write_row(metrics, row, self.log)  # last, since an event that fails is written again
        if self.log is not None and event.best:
            self.log({f"best/{self.best_by}": flat(row)[row_key(self.best_by)]}, event.step)

    def _show(self, name: str, path: Path, step: int) -> None:
        if self.show is not None:
            self.show(name, path, step)


def record(
    recorder: Recorder,
    events: Iterator[Event],
    failed: Callable[[Exception], None] | None = None,
    *,
    patient: bool = False,
) -> Iterator[Event]:
    """Record each event, then yield it; on the main process only.

    Args:
        recorder: writes the events.
        events: the events of `train`.
        failed: called with an error of writing, as on a full disk, after which nothing is written;
            None raises it.
        patient: keep what cannot be written, and try again with the next event.

    Raises:
        WriteError: events are still unwritten at the end.
    """
    broken, reason, waiting = False, "", list[Event]()
    for event in events:
        waiting.append(event)
        try:
            while waiting and not broken:
                recorder.write(waiting[0])
                del waiting[0]
        except OSError as error:
            if failed is None:
                raise
            reason = f"{recorder.folder}: metrics or pictures cannot be written: {error}."
            if not patient:
                broken = True
                failed(WriteError(reason))
        yield event
    if waiting and not broken:
        raise WriteError(reason)


def note_fitted(path: Path, max_steps: int) -> None:
    """Add the fitted number of steps to the comment of `max_time` in config.yaml."""
    note, text = f"; fitted: {max_steps} steps", path.read_text(encoding="utf-8")
    line = re.compile(r"^(max_time: .*?)(; fitted: \d+ steps)?$", re.MULTILINE)
    with replacing(path) as part:
        part.write_text(line.sub(lambda found: found[1] + note, text), encoding="utf-8")
