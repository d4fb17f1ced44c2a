"""Tables of scores, and the console line of a step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from segacc.evaluation.scores import Scores, flat
from segacc.labels import Color
from segacc.training.events import Evaluated, StepDone

if TYPE_CHECKING:
    from segacc.commands.evaluate.bootstrap import Interval, Intervals

Columns = Mapping[str, Mapping[str, str]]
"""Cells by heading and class name; a missing cell is shown as `-`."""

COLUMN = 8
"""Minimum width of a column of numbers, in characters."""

SLOW_DATA = 0.1
"""Share of the time spent waiting for data above which is printed what to do."""


def print_scores(
    console: Console,
    scores: Scores,
    *,
    names: Sequence[str],
    palette: Sequence[Color],
    title: str,
    rules: str = "",
    limit: int | None = None,
    intervals: "Intervals | None" = None,
) -> None:
    """Print a title, the means, and a table with one row for each of the K classes.

    Args:
        console: the console; a terminal gets colours, others get plain text.
        scores: scores by name.
        names: K class names.
        palette: K RGB colours, 0..255.
        title: the first line.
        rules: a line under the title on how pixels and classes are counted; empty for none.
        limit: with more classes than this, only the best and the worst are shown, with a note.
        intervals: intervals of mean_iou and of each class's IoU, shown next to them.
    """
    columns, rows, note = _by_class(scores, names, limit)
    _say(console, title, style="bold", indent="")
    _say(console, rules, style="dim")
    _say(console, _means(scores, names, intervals))
    if rows:
        colors = dict(zip(names, palette, strict=True))
        print_columns(console, _texts(columns, intervals), rows, colors)
    _say(console, note)
    _say(console, intervals.text() if intervals else "")


def _say(console: Console, line: str, *, style: str = "", indent: str = "  ") -> None:
    """Print a line unless it is empty; it is indented except on a terminal."""
    if line and console.is_terminal:
        console.print(Text(line, style=style))
    elif line:
        console.out(f"{indent}{line}", highlight=False)


def print_columns(
    console: Console,
    columns: Columns,
    rows: Sequence[str],
    colors: Mapping[str, Color] | None = None,
    *,
    heading: str = "class",
) -> None:
    """Print one row for each class, with its colour if `colors` are given.

    Columns that do not fit a terminal are printed below the others, with the class names again.
    """
    if not console.is_terminal:
        for line in _lines(columns, rows, heading):
            _say(console, line)
        return
    half = console.width // 2

    def table(headers: Sequence[str]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        made.add_column(heading, overflow="fold", max_width=half)
        for header in headers:
            made.add_column(header, justify="right", no_wrap=True)
        for name in rows:
            cells = (Text(columns[header].get(name, "-")) for header in headers)
            made.add_row(swatch(name, colors[name]) if colors else Text(name), *cells)
        return made

    print_in_parts(console, table, list(columns))


def print_in_parts(
    console: Console, table: Callable[[Sequence[str]], Table], columns: Sequence[str]
) -> None:
    """Print a table of some columns, in several parts if they do not fit the console."""
    endless, shown = console.options.update(width=10**4), list[str]()
    for column in columns:
        wide = console.measure(table([*shown, column]), options=endless).maximum
        if shown and wide > console.width:
            console.print(table(shown), soft_wrap=False)
            shown = []
        shown.append(column)
    console.print(table(shown), soft_wrap=False)


def swatch(name: str, color: Color) -> Text:
    """Return a class name behind its colour."""
    # A coloured background, not a block character: it also works where the output is ASCII.
    style = Style(bgcolor="rgb({},{},{})".format(*color))
    return Text.assemble(Text("  ", style=style), " ", name)


def _lines(columns: Columns, rows: Sequence[str], heading: str) -> list[str]:
    """Return the rows as lines of plain text, the headings first."""
    lines = [[heading, *rows]]
    for header, values in columns.items():
        lines.append([header, *(values.get(name, "-") for name in rows)])
    wide = [max(map(len, column)) for column in lines]
    rows_of_cells = []
    for name, *cells in zip(*lines, strict=True):
        placed = (cell.rjust(max(COLUMN, w)) for cell, w in zip(cells, wide[1:], strict=True))
        rows_of_cells.append("  ".join([name.ljust(wide[0]), *placed]))
    return rows_of_cells


def _by_class(
    scores: Scores, names: Sequence[str], limit: int | None
) -> tuple[dict[str, Mapping[str, float]], list[str], str]:
    """Return the columns by header, the classes to show, and a note on omitted classes."""
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


def _texts(columns: Mapping[str, Mapping[str, float]], intervals: "Intervals | None") -> Columns:
    """Format the scores; the interval of the IoU gets a column next to it."""
    texts: dict[str, dict[str, str]] = {}
    for header, values in columns.items():
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        texts[header] = {name: f"{value:.4f}" for name, value in known.items()}
        if header == "IoU" and intervals is not None:
            found = intervals.per_category_iou
            texts[f"{intervals.percent} interval"] = {
                name: interval_text(ends) for name, ends in found.items() if ends
            }
    return texts


def interval_text(ends: "Interval", *, sign: str = "") -> str:
    """Format an interval as `0.4310 to 0.5021`; `sign` is that of a format specification."""
    return " to ".join(f"{end:{sign}.4f}" for end in ends)


def _means(scores: Scores, names: Sequence[str], intervals: "Intervals | None") -> str:
    """Format the scores over all classes."""
    rest = {key: values for key, values in scores.items() if not _by_name(values, names)}
    told = {key: f"{key} {value:.4f}" for key, value in flat(rest).items()}
    if intervals is not None and intervals.mean_iou and "mean_iou" in told:
        told["mean_iou"] += f" ({interval_text(intervals.mean_iou)})"
    return "  ".join(told.values())


def score_of(event: Evaluated, key: str) -> str:
    """Format one score of an evaluation with its step."""
    average = " (EMA)" if event.terms.weights == "ema" else ""
    value = flat(event.scores).get(key, math.nan)
    return f"{key} {value:.4f} at step {event.step}{average}"


def numbers_of(event: StepDone) -> list[tuple[str, str]]:
    """Return the numbers of a logged step as pairs of text and style."""
    assert event.loss is not None and event.data_wait is not None
    terms = ", ".join(f"{name} {value:.4f}" for name, value in event.losses.items())
    terms = f" ({terms})" if len(event.losses) > 1 else ""
    slow = event.data_wait > SLOW_DATA
    memory = f"memory {event.peak_memory / 1e9:.2f} GB" if event.peak_memory else ""
    share = "" if event.mfu is None else f"mfu {100 * event.mfu:.0f} %"
    return [
        (f"loss {event.loss:.4f}{terms}", "bold" if math.isfinite(event.loss) else "bold red"),
        (f"lr {event.lr:.1e}", ""),
        (f"{event.images_per_second:.1f} images/s", ""),
        *((text, "") for text in (memory, share) if text),
        (f"data wait {100 * event.data_wait:.0f} %", "yellow" if slow else ""),
    ]
