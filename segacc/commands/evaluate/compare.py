"""`segacc compare`: test whether B scores better than A, by a paired bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from segacc.commands.evaluate.bootstrap import (
    Interval,
    Intervals,
    differences,
    mean_over_runs,
)
from segacc.commands.evaluate.per_image import PerImage
from segacc.commands.evaluate.sides import Side, differing, refuse_other_classes
from segacc.commands.terminal.console import text_of
from segacc.commands.terminal.tables import interval_text, print_columns
from segacc.data.atomic import replacing
from segacc.errors import OptionError, count_of, first_of
from segacc.evaluation.scores import finite
from segacc.kernels.counts import iou, mean_of_known

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INKS = {"A": "#c0392b", "B": "#1b7f4b", "": "#8a8a8a"}
"""Colour of a difference, by which side is better."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A score of both sides (nan if missing), and B - A."""

    a: float
    b: float
    interval: Interval | None
    """Interval of B - A; None if a side has no score."""

    @property
    def value(self) -> float:
        """B - A."""
        return self.b - self.a

    @property
    def better(self) -> str:
        """`A` or `B`; empty if the interval contains 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "B" if self.interval[0] > 0 else "A"

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        numbers = {"a": self.a, "b": self.b, "difference": self.value}
        return {**finite(numbers), "interval": self.interval, "better": self.better or None}


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """The comparison of B with A on their common images; `print` shows it as a table."""

    a: Side
    b: Side
    alone: tuple[int, int]
    """Number of images that only A has, and that only B has."""
    intervals: Intervals
    """Intervals of the differences B - A."""
    mean_iou: Difference
    per_category_iou: dict[str, Difference]
    mean_ious: tuple[dict[str, float], dict[str, float]]
    """mean_iou of each run of A and of B on the common images, by folder."""

    def __repr__(self) -> str:
        """Return the verdict."""
        return f"<Comparison: {self.verdict()}>"

    def __str__(self) -> str:
        """Return what `segacc compare` prints."""
        return text_of(self.show)

    def show(self, console: Console) -> None:
        """Print the two sides, the table, and the verdict."""
        print_comparison(console, self)

    def notes(self) -> list[str]:
        """Return a line for each property in which the two evaluations differ."""
        lines = []
        for key, one, other in differing(self.a, self.b):
            name = "held-out split" if key == "carved" else key.replace("_", " ")
            told = f"different {name}: A {one}, B {other}"
            lines.append(f"{told}; this affects the difference of the scores")
        if any(self.alone):
            left = f"{self.alone[0]} of A, {self.alone[1]} of B"
            lines.append(f"images in only one evaluation are left out: {left}")
        return lines

    def terms(self) -> list[str]:
        """Return the rules of the evaluations: one line if they are equal, else one per side."""
        told = [side.terms() for side in (self.a, self.b)]
        return told[:1] if told[0] == told[1] else [f"A {told[0]}", f"B {told[1]}"]

    def verdict(self) -> str:
        """Return a line on whether one is better."""
        found, ends = self.mean_iou, self.mean_iou.interval
        assert ends
        says = f"{found.better} is better" if found.better else "no difference"
        told = (
            f"{says} at {self.intervals.percent}: mean_iou B - A = {found.value:+.4f} "
            f"({ends[0]:+.4f} to {ends[1]:+.4f}) on {self.intervals.num_images} images"
        )
        one, other = self.intervals.num_runs
        return told if one == other == 1 else f"{told}, runs {one} and {other}"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of compare.json."""
        about = ("level", "resamples", "seed", "num_images")
        return {
            "a": str(self.a.folder),
            "b": str(self.b.folder),
            "runs": {"a": self.mean_ious[0], "b": self.mean_ious[1]},
            "verdict": self.verdict(),
            "notes": self.notes(),
            "terms": self.terms(),
            **{key: getattr(self.intervals, key) for key in about},
            "what": self.intervals.text(),
            "mean_iou": self.mean_iou.to_dict(),
            "per_category_iou": {k: one.to_dict() for k, one in self.per_category_iou.items()},
        }


def compare(a: Side, b: Side, *, resamples: int, seed: int) -> Comparison:
    """Compare two sides by a paired bootstrap over the images that all their runs have.

    Raises:
        OptionError: the classes or labels differ, fewer than two images are common, or no pixel is
            labelled.
    """
    refuse_other_classes(a, b)
    both = frozenset.intersection(*(frozenset(one.images.ids) for one in (*a.runs, *b.runs)))
    if len(both) < 2:
        raise OptionError(
            f"{a.folder} and {b.folder} have {count_of(len(both), 'image')} in common, of "
            f"{len(a.images)} and {len(b.images)}: A has {first_of(a.images.ids, 4)}; B has "
            f"{first_of(b.images.ids, 4)}. Score both networks on the same split."
        )
    one, other = ([run.images.among(both) for run in side.runs] for side in (a, b))
    for run, images in zip((*a.runs, *b.runs), (*one, *other), strict=True):
        refuse_other_labels(one[0], images, a, run)
    found = differences(one, other, resamples=resamples, seed=seed)
    if found.mean_iou is None:
        raise OptionError(f"{a.folder} and {b.folder}: no pixel of the images is labelled.")
    scores = [np.stack([iou(run.total()) for run in side]) for side in (one, other)]  # (M, K)
    classes = (mean_over_runs(side).tolist() for side in scores)
    rows = zip(*classes, found.per_category_iou.items(), strict=True)
    means = [mean_of_known(side) for side in scores]
    both_means = (float(mean_over_runs(side)) for side in means)
    return Comparison(
        a=a,
        b=b,
        alone=(len(a.images) - len(both), len(b.images) - len(both)),
        intervals=found,
        mean_iou=Difference(a=next(both_means), b=next(both_means), interval=found.mean_iou),
        per_category_iou={
            name: Difference(a=x, b=y, interval=None if isnan(y - x) else ends)
            for x, y, (name, ends) in rows
        },
        mean_ious=(by_folder(a, means[0].tolist()), by_folder(b, means[1].tolist())),
    )


def by_folder(side: Side, values: Sequence[float]) -> dict[str, float]:
    """Return a value of each run by its folder."""
    return {str(run.folder): value for run, value in zip(side.runs, values, strict=True)}


def refuse_other_labels(one: PerImage, other: PerImage, a: Side, b: Side) -> None:
    """Refuse to compare evaluations whose labels differ.

    Raises:
        OptionError: the number of labelled pixels of a class differs for a common image.
    """
    wrong = [
        x.id
        for x, y in zip(one, other, strict=True)
        if {k: n for k, n in zip(x.classes.tolist(), x.counts[:, 1].tolist(), strict=True) if n}
        != {k: n for k, n in zip(y.classes.tolist(), y.counts[:, 1].tolist(), strict=True) if n}
    ]
    if wrong:
        raise OptionError(
            f"{a.folder} and {b.folder} have different labels for {len(wrong)} of the {len(one)} "
            f"common images, such as {first_of(wrong, 4)}: each class must have the same number of "
            "labelled pixels. Evaluate both networks on the same files, with the same label map."
        )


def print_comparison(console: Console, found: Comparison) -> None:
    """Print the two sides, the table, and the verdict."""
    sides = [f"A {found.a.told()}", f"B {found.b.told()}"]
    for name, scores in zip("AB", found.mean_ious, strict=True):
        each = "  ".join(f"{score:.4f}" for score in scores.values())
        sides += [f"mean_iou of the runs of {name}: {each}"] if len(scores) > 1 else []
    lines = [*sides, *found.notes(), *found.terms()]
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
    print_columns(console, columns, list(rows))
    console.out(f"{found.intervals.text()}; both sides on the same resamples", highlight=False)
    console.out(chance(found), highlight=False)
    style = {"A": "bold red", "B": "bold green", "": "bold"}[found.mean_iou.better]
    console.print(Text(found.verdict(), style=style), highlight=False)


def chance(found: Comparison) -> str:
    """Return a line on how many classes differ, and how many would by chance."""
    known = [row for row in found.per_category_iou.values() if row.interval]
    marked = sum(bool(row.better) for row in known)
    by_chance = (1 - found.intervals.level) * len(known)
    return f"{marked} of {len(known)} classes differ; {by_chance:.2g} expected by chance"


def draw_comparison(found: Comparison, path: Path) -> None:
    """Plot the differences with their intervals: mean_iou on top, then classes, B's best first.

    The file is replaced atomically; its folder is created if missing.
    """
    with replacing(path) as part:
        comparison_figure(found).savefig(part, format="png")


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
    for y, (_, row) in enumerate(rows):
        _draw_row(axes, y, row, bold=y == len(rows) - 1)
    axes.axvline(0, color="black", lw=0.8)
    axes.axhline(len(rows) - 1.5, color="black", lw=0.5)
    axes.set_yticks(range(len(rows)), [name[:40] for name, _ in rows], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    between = f"IoU, B - A, with {found.intervals.percent} intervals"
    axes.set_xlabel(f"A better  \N{LEFTWARDS ARROW}  {between}  \N{RIGHTWARDS ARROW}  B better")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"A {found.a.told(1)}\nB {found.b.told(1)}\n{found.verdict()}", fontsize=9)
    return figure


def _draw_row(axes: "Axes", y: int, row: Difference, *, bold: bool) -> None:
    assert row.interval
    ink, wide = INKS[row.better], 2.5 if bold else 1.4
    axes.plot(row.interval, (y, y), color=ink, lw=wide, solid_capstyle="butt")
    axes.plot([row.value], [y], "D" if bold else "o", color=ink, ms=6 if bold else 4)
