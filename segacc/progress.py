"""What a person sees of a run: a live bar and tables on a terminal, plain lines elsewhere."""

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeGuard

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from segacc.amounts import clock_text
from segacc.events import (
    Evaluated,
    Event,
    Fitted,
    Saved,
    Scores,
    Skipped,
    Started,
    StepDone,
    Stopped,
)
from segacc.labels import Color
from segacc.step_text import numbers_of, score_of
from segacc.tracking import flat

MANY_CLASSES = 25
"""Classes of which a running training still prints every one."""
NEWS = 0.1
"""Share by which a fitted number of steps must change to be told again."""
QUIET = 5.0
"""Seconds without an event after which the bar says so (an evaluation, a checkpoint)."""


class Display:
    """Shows the events of a run, on the main process only.

    On a terminal a bar and the latest numbers stay at the bottom, with a clock that ticks between
    events; elsewhere each logged step is one line without control characters.

        with Display(console, names=labels.names, palette=labels.palette) as screen:
            for event in train(config):
                screen.show(event)
        console.print(screen.summary())
    """

    def __init__(
        self,
        console: Console,
        *,
        names: Sequence[str],
        palette: Sequence[Color],
        best_by: str = "mean_iou",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare for a run with these K class names and colours; nothing is shown yet.

        Args:
            console: where to write; whether it is a terminal decides between bar and lines.
            names: K class names.
            palette: K RGB colours, 0..255.
            best_by: the score beside the bar, as in `mean_iou` or `per_category_iou/nucleus`.
            clock: seconds, for elapsed and remaining time.
        """
        self.console, self.names, self.palette = console, names, palette
        self.best_by, self.clock = best_by, clock
        self.started = Started(folder=Path(), step=0, max_steps=0, notes=())
        self.logged: StepDone | None = None
        self.latest: Evaluated | None = None
        self.best: Evaluated | None = None
        self.step = self.told = 0
        self.begin = self.last = clock()
        self.live = Live(console=console, get_renderable=self._view, refresh_per_second=4)

    def __enter__(self) -> "Display":
        """Return itself; the bar appears with the Started event."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last state of the bar on the screen."""
        self.live.stop()

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Started():
                self._show_start(event)
            case StepDone():
                self._show_step(event)
            case Evaluated():
                self._show_scores(event)
            case Skipped():
                self.console.out(event.text(), highlight=False)
            case Fitted():
                self._show_fitted(event)
            case Saved():
                self.console.out(f"saved {event.folder}", highlight=False)
            case Stopped():
                self._show_stop(event)

    def summary(self) -> str:
        """Say where the results are and which command comes next; for the end of a run."""
        folder, lines = self.started.folder, []
        for path in (folder / "best", folder / "pictures", folder / "metrics.jsonl"):
            score = (
                f"  ({score_of(self.best, self.best_by)})"
                if self.best and path.name == "best"
                else ""
            )
            if path.exists():
                lines.append(f"{path.stem:<10}{path}{score}")
        if (folder / "best").exists():
            model = shlex.quote(str(folder / "best"))
            lines.append(f"try next  segacc predict {model} IMAGE --output-dir predictions")
        return "\n".join(lines)

    def _show_start(self, event: Started) -> None:
        self.started, self.step = event, event.step
        self.begin = self.last = self.clock()
        for note in event.notes:
            self.console.out(note, highlight=False)
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live.start()

    def _show_step(self, event: StepDone) -> None:
        self.step, self.last = event.step, self.clock()
        if not event.logged:
            return
        self.logged = event
        if not self.live.is_started:
            where = f"step {self._count()}  epoch {event.epoch:.1f}"
            told = [where, *(text for text, _ in numbers_of(event)), f"eta {self._eta()}"]
            self.console.out("  ".join(told), highlight=False)

    def _show_fitted(self, event: Fitted) -> None:
        """Let the bar have the new number; tell it only where it is clearly another one."""
        self.started = replace(self.started, max_steps=event.max_steps)
        if abs(event.max_steps - self.told) > NEWS * self.told:
            self.told, used = event.max_steps, clock_text(event.used)
            text = f"{event.max_steps} steps fit into {event.limit}, {used} of it used"
            self.console.out(text, highlight=False)

    def _show_scores(self, event: Evaluated) -> None:
        self.latest, self.last = event, self.clock()
        self.best = event if event.best else self.best
        title = f"evaluation at step {event.step}: {event.terms.num_images} images in "
        title += f"{event.seconds:.1f} s, {event.terms.short()}"
        title += " (best so far)" if event.best else ""
        print_classes = partial(print_scores, names=self.names, palette=self.palette)
        print_classes(self.console, event.scores, title=title, limit=MANY_CLASSES)

    def _show_stop(self, event: Stopped) -> None:
        self.live.stop()
        how = f"stopped by {event.reason}" if event.resume else event.reason
        told = f"{how} at step {self._count()} after {clock_text(self.clock() - self.begin)}"
        self.console.out(told + ("; go on with:" if event.resume else ""), highlight=False)
        if event.resume:
            self.console.out(event.resume, highlight=False)

    def _count(self) -> str:
        return f"{self.step}/{self.started.max_steps}"

    def _eta(self) -> str:
        """Tell the remaining time at the mean pace so far, evaluations included."""
        if self.step == self.started.step:
            return "-:--"
        pace = (self.last - self.begin) / (self.step - self.started.step)
        return clock_text(pace * (self.started.max_steps - self.step))

    def _view(self) -> Group:
        """Build what stays at the bottom of a terminal; called by rich's refresh thread."""
        now = self.clock()
        bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for place in range(4):
            bar.add_column(ratio=1 if place == 1 else None, no_wrap=True)
        progress = ProgressBar(total=self.started.max_steps, completed=self.step)
        times = f"{clock_text(now - self.begin)} elapsed", f"eta {self._eta()}"
        bar.add_row(f"step {self._count()}", progress, *times)
        standing: list[tuple[str, str]] = []
        numbers = [("waiting for the first numbers", "dim")]
        if self.logged:
            numbers = [(f"epoch {self.logged.epoch:.1f}", ""), *numbers_of(self.logged)]
        if self.latest:
            standing.append((self._standing(), "green"))
        if now - self.last > QUIET:
            standing.append((f"last news {clock_text(now - self.last)} ago", "dim"))
        return Group(bar, _styled(numbers), *([_styled(standing)] if standing else []))

    def _standing(self) -> str:
        assert self.latest is not None
        told = score_of(self.latest, self.best_by)
        if self.best and self.best is not self.latest:
            told += f" (best {score_of(self.best, self.best_by).removeprefix(self.best_by + ' ')})"
        return told


def _styled(parts: Sequence[tuple[str, str]]) -> Text:
    # A console that leaves wrapping to the terminal would have the line cut at its width.
    between = Text("  ", no_wrap=False, overflow="fold")
    return between.join(Text(text, style=style) for text, style in parts)


def print_scores(
    console: Console,
    scores: Scores,
    *,
    names: Sequence[str],
    palette: Sequence[Color],
    title: str,
    limit: int | None = None,
) -> None:
    """Print a title and the scores: with colours on a terminal, as plain text elsewhere."""
    if console.is_terminal:
        console.print(Text(title, style="bold"))
        console.print(scores_table(scores, names, palette, limit=limit))
    else:
        console.out(title, highlight=False)
        console.out(scores_text(scores, names, limit=limit), highlight=False)


def scores_table(
    scores: Scores, names: Sequence[str], palette: Sequence[Color], *, limit: int | None = None
) -> Group:
    """Build the means and a table with one row for each of the K classes, for a terminal.

    With more classes than `limit`, only the best and the worst are shown, and a line says so.
    """
    columns, rows, note = _by_class(scores, names, limit)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    for header in columns:
        table.add_column(header, justify="right")
    colors = dict(zip(names, palette, strict=True))
    for name in rows:
        cells = [_cell(values, name) for values in columns.values()]
        # A coloured background, not a block character: it also works where the output is ASCII.
        swatch = Text("  ", style=Style(bgcolor="rgb({},{},{})".format(*colors[name])))
        table.add_row(Text.assemble(swatch, " ", name), *cells)
    return Group(Text(_means(scores, names)), *([table] if rows else []), *([note] if note else []))


def scores_text(scores: Scores, names: Sequence[str], *, limit: int | None = None) -> str:
    """Write what `scores_table` shows as lines of plain text."""
    columns, rows, note = _by_class(scores, names, limit)
    wide = max(map(len, ("class", *rows)))
    lines = [_means(scores, names)]
    if rows:
        lines.append("  ".join(["class".ljust(wide), *(header.rjust(8) for header in columns)]))
    for name in rows:
        cells = (_cell(v, name).rjust(max(8, len(header))) for header, v in columns.items())
        lines.append("  ".join([name.ljust(wide), *cells]))
    return "\n".join(f"  {line}" for line in [*lines, note] if line)


def _by_class(
    scores: Scores, names: Sequence[str], limit: int | None
) -> tuple[dict[str, Mapping[str, float]], list[str], str]:
    """Return the columns by header, the classes to show, and a line on the ones left out."""
    columns: dict[str, Mapping[str, float]] = {
        _header(key): values for key, values in scores.items() if _by_name(values, names)
    }
    if not columns or limit is None or len(names) <= limit:
        return columns, list(names) if columns else [], ""
    header, first = next(iter(columns.items()))
    present = [name for name in names if not math.isnan(first.get(name, math.nan))]
    ranked = sorted(present, key=lambda name: -first[name])
    if len(ranked) <= limit:
        return columns, ranked, f"the {len(ranked)} of {len(names)} classes that occur"
    half, note = limit // 2, "the {0} best and {0} worst of {1} classes by {2}; all: metrics.jsonl"
    return columns, ranked[:half] + ranked[-half:], note.format(half, len(names), header)


def _by_name(values: object, names: Sequence[str]) -> TypeGuard[dict[str, float]]:
    return isinstance(values, dict) and set(values) <= set(names)


def _header(key: str) -> str:
    name = key.removeprefix("per_category_")
    return "IoU" if name == "iou" else name


def _cell(values: Mapping[str, float], name: str) -> str:
    """Tell a score; a class that does not occur has none."""
    value = values.get(name, math.nan)
    return "-" if math.isnan(value) else f"{value:.4f}"


def _means(scores: Scores, names: Sequence[str]) -> str:
    """Tell the numbers that belong to no class."""
    rest = {key: values for key, values in scores.items() if not _by_name(values, names)}
    return "  ".join(f"{key} {value:.4f}" for key, value in flat(rest).items())
