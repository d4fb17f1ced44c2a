"""`segacc compare`: test whether B scores better than A, by a paired bootstrap."""

import json
from dataclasses import dataclass, fields
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from segacc.commands.evaluate.bootstrap import Interval, Intervals, differences
from segacc.commands.evaluate.per_image import FILE, REPORT, PerImage
from segacc.commands.terminal.console import text_of
from segacc.commands.terminal.tables import interval_text, print_columns
from segacc.data.atomic import replacing
from segacc.errors import DataError, OptionError, count_of, first_of
from segacc.evaluation.model_folder import PROGRESS
from segacc.evaluation.scores import Terms, classes_in, finite
from segacc.kernels.counts import iou, mean_of_known

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TERMS = tuple(one.name for one in fields(Terms) if one.name != "num_images")
PLAIN = {"no": "float32", "None": "none"}
"""How values of evaluation.json are shown: mixed precision `no`, and no held-out split."""
DIFFER = ("dataset", "split", "carved", *TERMS)
"""Keys of evaluation.json whose values should be equal on both sides; differences are printed."""

INKS = {"A": "#c0392b", "B": "#1b7f4b", "": "#8a8a8a"}
"""Colour of a difference, by which side is better."""


@dataclass(frozen=True)
class Side:
    """One of two evaluations."""

    folder: Path
    report: dict[str, Any]
    """The content of evaluation.json."""
    images: PerImage


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
        for key in DIFFER:
            one, other = (told_of(side.report.get(key)) for side in (self.a, self.b))
            if one != other:
                name = "held-out split" if key == "carved" else key.replace("_", " ")
                told = f"different {name}: A {one}, B {other}"
                lines.append(f"{told}; this affects the difference of the scores")
        if any(self.alone):
            left = f"{self.alone[0]} of A, {self.alone[1]} of B"
            lines.append(f"images in only one evaluation are left out: {left}")
        return lines

    def terms(self) -> list[str]:
        """Return the rules of the evaluations: one line if they are equal, else one per side."""
        told = []
        for side in (self.a, self.b):
            terms = Terms(**{field.name: side.report[field.name] for field in fields(Terms)})
            told.append(f"{terms.short()}; {terms.rules()}")
        return told[:1] if told[0] == told[1] else [f"A {told[0]}", f"B {told[1]}"]

    def verdict(self) -> str:
        """Return a line on whether one is better."""
        found, ends = self.mean_iou, self.mean_iou.interval
        assert ends
        says = f"{found.better} is better" if found.better else "no difference"
        return (
            f"{says} at {self.intervals.percent}: mean_iou B - A = {found.value:+.4f} "
            f"({ends[0]:+.4f} to {ends[1]:+.4f}) on {self.intervals.num_images} images"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of compare.json."""
        about = ("level", "resamples", "seed", "num_images")
        return {
            "a": str(self.a.folder),
            "b": str(self.b.folder),
            "verdict": self.verdict(),
            "notes": self.notes(),
            "terms": self.terms(),
            **{key: getattr(self.intervals, key) for key in about},
            "what": self.intervals.text(),
            "mean_iou": self.mean_iou.to_dict(),
            "per_category_iou": {k: one.to_dict() for k, one in self.per_category_iou.items()},
        }


def told_of(value: Any) -> str:
    """Return a value of evaluation.json as text: a held-out split, a data set, or a word."""
    match value:
        case {"val_fraction": share, "train_split": split, "seed": seed}:
            return f"{100 * share:g} % of {split} (seed {seed})"
        case {"name": name, **options}:
            return ":".join(filter(None, (name, ",".join(f"{k}={v}" for k, v in options.items()))))
    return PLAIN.get(str(value), str(value))


def evaluation_in(given: Path, where: str) -> Path:
    """Return the evaluation of a run folder (that of its best/), a model folder or a checkpoint.

    An output folder of `segacc evaluate`, and any other path, is returned unchanged.

    Raises:
        OptionError: the model was not evaluated.
    """
    if (given / REPORT).is_file() or not given.is_dir():
        return given
    best = given / "best"
    model = best if best.is_dir() and not (given / "config.json").is_file() else given
    if (model / "evaluation" / REPORT).is_file():
        return model / "evaluation"
    if any((model / name).is_file() for name in ("config.json", PROGRESS)):
        raise OptionError(
            f"{where}: {model} was not evaluated; run `segacc evaluate {model}` first. An "
            "evaluation with --output-dir DIR is given as DIR."
        )
    return given


def read_side(folder: Path, where: str) -> Side:
    """Read the output folder of `segacc evaluate`.

    Raises:
        OptionError: the files are missing.
        DataError: a file is damaged, or from another version.
    """
    for name in (REPORT, FILE):
        if not (folder / name).is_file():
            raise OptionError(
                f"{where}: {folder} has no {name}; give an output folder of `segacc evaluate`, or "
                "a run folder, model folder or checkpoint that was evaluated."
            )
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{folder / REPORT}: not JSON: {error}.") from None
    terms = [field.name for field in fields(Terms)]
    if not isinstance(report, dict) or (missing := [one for one in terms if one not in report]):
        told = ", ".join(missing) if isinstance(report, dict) else "all"
        raise DataError(
            f"{folder / REPORT}: {told} missing: another version of `segacc evaluate` wrote it. "
            "Evaluate the network again."
        )
    return Side(folder, report, PerImage.read(folder / FILE))


def compare(a: Side, b: Side, *, resamples: int, seed: int) -> Comparison:
    """Compare two evaluations by a paired bootstrap over their common images.

    Raises:
        OptionError: the classes or labels differ, fewer than two images are common, or no pixel is
            labelled.
    """
    refuse_other_classes(a, b)
    both = frozenset(a.images.ids) & frozenset(b.images.ids)
    if len(both) < 2:
        raise OptionError(
            f"{a.folder} and {b.folder} have {count_of(len(both), 'image')} in common, of "
            f"{len(a.images)} and {len(b.images)}: A has {first_of(a.images.ids, 4)}; B has "
            f"{first_of(b.images.ids, 4)}. Score both networks on the same split."
        )
    one, other = a.images.among(both), b.images.among(both)
    refuse_other_labels(one, other, a, b)
    found = differences(one, other, resamples=resamples, seed=seed)
    if found.mean_iou is None:
        raise OptionError(f"{a.folder} and {b.folder}: no pixel of the images is labelled.")
    scores_a, scores_b = iou(one.total()), iou(other.total())
    rows = zip(scores_a.tolist(), scores_b.tolist(), found.per_category_iou.items(), strict=True)
    means = (float(mean_of_known(scores)) for scores in (scores_a, scores_b))
    return Comparison(
        a=a,
        b=b,
        alone=(len(a.images) - len(both), len(b.images) - len(both)),
        intervals=found,
        mean_iou=Difference(a=next(means), b=next(means), interval=found.mean_iou),
        per_category_iou={
            name: Difference(a=x, b=y, interval=None if isnan(y - x) else ends)
            for x, y, (name, ends) in rows
        },
    )


def refuse_other_classes(a: Side, b: Side) -> None:
    """Refuse to compare evaluations with different classes.

    Raises:
        OptionError: the classes or their order differ.
    """
    one, other = a.images.names, b.images.names
    if one != other:
        raise OptionError(
            f"{a.folder} has {classes_in(one)}, but {b.folder} has {classes_in(other)}. A "
            "comparison needs the same classes in the same order."
        )


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
    figure.suptitle(f"A {found.a.folder}\nB {found.b.folder}\n{found.verdict()}", fontsize=9)
    return figure


def _draw_row(axes: "Axes", y: int, row: Difference, *, bold: bool) -> None:
    assert row.interval
    ink, wide = INKS[row.better], 2.5 if bold else 1.4
    axes.plot(row.interval, (y, y), color=ink, lw=wide, solid_capstyle="butt")
    axes.plot([row.value], [y], "D" if bold else "o", color=ink, ms=6 if bold else 4)
