"""What a person sees of a comparison: a table, and a picture of the differences."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from segacc.evaluation.compare import Comparison, Difference
from segacc.score_tables import class_lines, class_table, interval_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INKS = {"A": "#c0392b", "B": "#1b7f4b", "": "#8a8a8a"}
"""Colour of a difference by who is better."""


def print_comparison(console: Console, found: Comparison) -> None:
    """Print what is compared, the table, and the verdict last."""
    lines = [f"A {found.a.folder}", f"B {found.b.folder}", *found.notes(), *found.terms()]
    for line in lines:
        console.out(line, highlight=False)
    rows = {"mean_iou": found.mean_iou, **found.per_category_iou}
    percent = found.intervals.percent
    columns = {
        "A": {name: f"{row.a:.4f}" for name, row in rows.items() if row.a == row.a},
        "B": {name: f"{row.b:.4f}" for name, row in rows.items() if row.b == row.b},
        "B - A": {name: f"{row.value:+.4f}" for name, row in rows.items() if row.interval},
        f"{percent} interval": {
            name: interval_text(row.interval, sign="+")
            for name, row in rows.items()
            if row.interval
        },
        "better": {name: row.better or "-" for name, row in rows.items()},
    }
    if console.is_terminal:
        console.print(class_table(columns, list(rows)))
    else:
        for line in class_lines(columns, list(rows)):
            console.out(f"  {line}", highlight=False)
    console.out(f"{found.intervals.text()}; both sides on the same draws", highlight=False)
    console.out(chance(found), highlight=False)
    style = {"A": "bold red", "B": "bold green", "": "bold"}[found.mean_iou.better]
    console.print(Text(found.verdict(), style=style), highlight=False)


def chance(found: Comparison) -> str:
    """Tell how many classes would be marked if nothing differed."""
    known = [row for row in found.per_category_iou.values() if row.interval]
    marked = sum(bool(row.better) for row in known)
    by_chance = (1 - found.intervals.level) * len(known)
    return f"{marked} of {len(known)} classes differ; {by_chance:.2g} would by chance alone"


def draw_comparison(found: Comparison, path: Path) -> None:
    """Draw the differences with their intervals, the best for B on top; mean_iou above them.

    The file appears whole or not at all; its folder is made when it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    comparison_figure(found).savefig(temporary, format="png")
    temporary.replace(path)


def comparison_figure(found: Comparison) -> "Figure":
    """Build the figure of `draw_comparison`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    known = [(name, row) for name, row in found.per_category_iou.items() if row.interval]
    known.sort(key=lambda pair: pair[1].value)
    rows = [*known, ("mean_iou", found.mean_iou)]
    height = 1.6 + 0.21 * len(rows)
    figure = Figure(figsize=(8, height), dpi=110, layout=ConstrainedLayoutEngine())
    axes = figure.subplots()
    for place, (_, row) in enumerate(rows):
        _draw_row(axes, place, row, bold=place == len(rows) - 1)
    axes.axvline(0, color="black", lw=0.8)
    axes.axhline(len(rows) - 1.5, color="black", lw=0.5)
    axes.set_yticks(range(len(rows)), [name[:40] for name, _ in rows], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    between = f"IoU, B - A, with {found.intervals.percent} intervals"
    axes.set_xlabel(f"A better  \N{LEFTWARDS ARROW}  {between}  \N{RIGHTWARDS ARROW}  B better")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"A {found.a.folder}\nB {found.b.folder}\n{found.verdict()}", fontsize=9)
    return figure


def _draw_row(axes: "Axes", place: int, row: Difference, *, bold: bool) -> None:
    assert row.interval
    ink, wide = INKS[row.better], 2.5 if bold else 1.4
    axes.plot(row.interval, (place, place), color=ink, lw=wide, solid_capstyle="butt")
    axes.plot([row.value], [place], "D" if bold else "o", color=ink, ms=6 if bold else 4)
