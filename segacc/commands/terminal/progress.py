"""Console output of a run: a progress bar and tables on a terminal, plain lines elsewhere."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from segacc.commands.terminal.console import NotebookView, in_notebook
from segacc.commands.terminal.tables import SLOW_DATA, numbers_of, print_scores, score_of
from segacc.evaluation.scores import Scores
from segacc.labels import Color
from segacc.settings.units import clock_text
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

MANY_CLASSES = 25
"""Maximum number of classes for which an evaluation during training prints all scores."""
NEWS = 0.1
"""Relative change of the fitted number of steps above which it is printed again."""
QUIET = 5.0
"""Seconds after which the bar shows how long ago the last event was, as during an evaluation."""


class Display:
    """Shows the events of a run, on the main process only.

    On a terminal a bar, the latest numbers and a running clock stay at the bottom, with a line for
    each tenth of the run above; in a notebook they are updated with each event; elsewhere each
    logged step is one line without control characters.

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
        slow_data: str = "",
        notebook: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the display of a run; nothing is printed yet.

        Args:
            console: the console; a bar on a terminal, plain lines elsewhere.
            names: K class names.
            palette: K RGB colours, 0..255.
            best_by: the score shown with the bar, such as `mean_iou` or `per_category_iou/nucleus`.
            slow_data: what to do if the run waits for data; printed once, if it does.
            notebook: show a bar below the cell of a notebook; default: if this is a notebook.
            clock: returns the time in seconds, for elapsed and remaining time.
        """
        self.console, self.names, self.palette = console, names, palette
        self.best_by, self.slow_data, self.clock = best_by, slow_data, clock
        self.started = Started(folder=Path(), step=0, max_steps=0, notes=())
        self.logged: StepDone | None = None
        self.latest: Evaluated | None = None
        self.best: Evaluated | None = None
        self.step = self.told = self.tenth = self.scored = 0
        self.scored_of: int | None = None
        self.begin = self.last = clock()
        self.live: Live | NotebookView = (
            NotebookView(self._view)
            if (in_notebook() if notebook is None else notebook)
            else Live(console=console, get_renderable=self._view, refresh_per_second=4)
        )

    def __enter__(self) -> "Display":
        """Return the display; the bar appears with the Started event."""
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
            case Skipped() | Halved():
                self.console.out(event.text(), highlight=False)
            case Fitted():
                self._show_fitted(event)
            case Saved():
                self.console.out(f"saved {event.folder}", highlight=False)
            case Stopped():
                self._show_stop(event)
        if isinstance(self.live, NotebookView):
            self.live.refresh()

    def count_image(self, total: int | None) -> None:
        """Count a scored image of an evaluation, out of this process's `total`, if it is known."""
        self.scored = 1 if self.scored == total else self.scored + 1
        self.scored_of, self.last = total, self.clock()
        if isinstance(self.live, NotebookView):
            self.live.refresh()

    def summary(self) -> str:
        """Return the last lines of a run: where the results are, and a command to try next."""
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
        terminal = self.console.is_terminal and not self.console.is_dumb_terminal
        if terminal or isinstance(self.live, NotebookView):
            self.live.start()

    def _show_step(self, event: StepDone) -> None:
        self.step, self.last = event.step, self.clock()
        if not event.logged:
            return
        first, self.logged = self.logged is None, event
        before, self.tenth = self.tenth, 10 * event.step // max(1, self.started.max_steps)
        if first or self.tenth > before or not self.live.is_started:
            where = f"step {self._count()}  epoch {event.epoch:.1f}"
            told = [where, *(text for text, _ in numbers_of(event)), f"eta {self._eta()}"]
            self.console.out("  ".join(told), highlight=False)
        if not first and self.slow_data and (event.data_wait or 0) > SLOW_DATA:
            wait = f"waiting for data takes {100 * (event.data_wait or 0):.0f} % of the time; "
            self.console.out(wait + self.slow_data, highlight=False)
            self.slow_data = ""

    def _show_fitted(self, event: Fitted) -> None:
        """Update the bar's number of steps; print it only if it changed by more than NEWS."""
        self.started = replace(self.started, max_steps=event.max_steps)
        if abs(event.max_steps - self.told) > NEWS * self.told:
            self.told, used = event.max_steps, clock_text(event.used)
            text = f"{event.max_steps} steps fit in {event.limit} ({used} used)"
            self.console.out(text, highlight=False)

    def _show_scores(self, event: Evaluated) -> None:
        rules = "" if self.latest else event.terms.settled()  # once per run, as they never change
        warning = "" if self.latest else unlabelled(event.scores, self.best_by)
        self.latest, self.last, self.scored = event, self.clock(), 0
        self.best = event if event.best else self.best
        title = f"evaluation at step {event.step}: {event.terms.num_images} images in "
        title += f"{event.seconds:.1f} s"
        title += ", EMA weights" if event.terms.weights == "ema" else ""
        title += " (best so far)" if event.best else ""
        print_scores(
            self.console,
            event.scores,
            names=self.names,
            palette=self.palette,
            title=title,
            rules=rules,
            limit=MANY_CLASSES,
        )
        if warning:
            self.console.out(warning, highlight=False)

    def _show_stop(self, event: Stopped) -> None:
        self.live.stop()
        how = f"stopped by {event.reason}" if event.resume else event.reason
        told = f"{how} at step {self._count()} after {clock_text(self.clock() - self.begin)}"
        self.console.out(told + ("; resume with:" if event.resume else ""), highlight=False)
        if event.resume:
            self.console.out(event.resume, highlight=False)

    def _count(self) -> str:
        return f"{self.step}/{self.started.max_steps}"

    def _eta(self) -> str:
        """Return the remaining time at the mean speed so far, evaluations included."""
        if self.step == self.started.step:
            return "-:--"
        pace = (self.last - self.begin) / (self.step - self.started.step)
        return clock_text(pace * (self.started.max_steps - self.step))

    def _view(self) -> Group:
        """Build the lines at the bottom of a terminal; called by rich's refresh thread."""
        now = self.clock()
        bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for column in range(4):
            bar.add_column(ratio=1 if column == 1 else None, no_wrap=True)
        progress = ProgressBar(total=self.started.max_steps, completed=self.step)
        times = f"{clock_text(now - self.begin)} elapsed", f"eta {self._eta()}"
        bar.add_row(f"step {self._count()}", progress, *times)
        standing: list[tuple[str, str]] = []
        numbers = [("waiting for the first logged step", "dim")]
        if self.logged:
            numbers = [(f"epoch {self.logged.epoch:.1f}", ""), *numbers_of(self.logged)]
        if self.latest:
            standing.append((self._standing(), "green"))
        if now - self.last > QUIET:
            standing.append((f"last event {clock_text(now - self.last)} ago", "dim"))
        if self.scored:
            total = self.scored_of
            done = ProgressBar(total=total, completed=self.scored, pulse=total is None)
            bar.add_row(f"evaluation {self.scored}{f'/{total}' if total else ''}", done, "", "")
        return Group(bar, _styled(numbers), *([_styled(standing)] if standing else []))

    def _standing(self) -> str:
        assert self.latest is not None
        told = score_of(self.latest, self.best_by)
        if self.best and self.best is not self.latest:
            told += f" (best {score_of(self.best, self.best_by).removeprefix(self.best_by + ' ')})"
        return told


def unlabelled(scores: Scores, best_by: str) -> str:
    """Return a warning if `best_by` is a score of a class that no validation label has."""
    name = best_by.partition("/")[2]
    accuracy = scores.get("per_category_accuracy")  # nan without a labelled pixel
    if not isinstance(accuracy, dict) or not math.isnan(accuracy.get(name, 0.0)):
        return ""
    return (
        f"warning: no pixel of the validation split is labelled {name}, so {best_by} does not tell "
        "which weights are best; choose another --best-by"
    )


def _styled(parts: Sequence[tuple[str, str]]) -> Text:
    # With soft_wrap rich would crop the line at the terminal's width; fold it instead.
    between = Text("  ", no_wrap=False, overflow="fold")
    return between.join(Text(text, style=style) for text, style in parts)
