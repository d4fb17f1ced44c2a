"""Score tables with intervals: what a person reads, compared as text."""

import io
import math

import pytest
from rich.console import Console

from score_tools import plain_scores
from segacc.commands.evaluate.bootstrap import Intervals
from segacc.commands.terminal.tables import print_columns, print_scores

NAMES = ("background", "nucleus", "[red]")
PALETTE = ((40, 40, 40), (255, 200, 0), (200, 0, 80))
IOU = {"background": 0.9, "nucleus": 0.5, "[red]": math.nan}
SCORES = {"mean_iou": 0.7, "per_category_iou": IOU, "per_category_accuracy": dict(IOU)}
INTERVALS = Intervals(
    level=0.95,
    resamples=1000,
    seed=0,
    num_images=39,
    mean_iou=(0.61234, 0.7505),
    per_category_iou={"background": (0.85, 0.9312), "nucleus": (0.4, 0.55), "[red]": None},
)
NOTE = (
    "95 % intervals: bootstrap of 39 images, 1000 resamples, seed 0; "
    "training randomness is not included"
)


def test_intervals_stand_beside_the_scores() -> None:
    assert plain_scores(SCORES, NAMES, intervals=INTERVALS).splitlines() == [
        "  mean_iou 0.7000 (0.6123 to 0.7505)",
        "  class            IoU     95 % interval  accuracy",
        "  background    0.9000  0.8500 to 0.9312    0.9000",
        "  nucleus       0.5000  0.4000 to 0.5500    0.5000",
        "  [red]              -                 -         -",
        f"  {NOTE}",
    ]


def test_a_terminal_shows_rules_and_intervals() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    given = {"names": NAMES, "palette": PALETTE, "title": "validation", "rules": "by the rules"}
    print_scores(console, SCORES, **given, intervals=INTERVALS)
    lines = file.getvalue().splitlines()
    assert lines[:3] == ["validation", "by the rules", "mean_iou 0.7000 (0.6123 to 0.7505)"]
    assert "0.8500 to 0.9312" in lines[6] and "[red]" in lines[8]
    assert " ".join(lines[-1:]).startswith(NOTE[:60])


def test_150_classes_fit_a_terminal_of_80_columns() -> None:
    names = tuple(f"a class of some length {k}" for k in range(150))
    scores = dict.fromkeys(names, 0.5)
    found = Intervals(
        level=0.95,
        resamples=1000,
        seed=0,
        num_images=2000,
        mean_iou=(0.4, 0.6),
        per_category_iou=dict.fromkeys(names, (0.4, 0.6)),
    )
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    columns = {"per_category_iou": scores, "per_category_accuracy": scores}
    palette = ((1, 2, 3),) * 150
    print_scores(console, columns, names=names, palette=palette, title="", intervals=found)
    rows = [line for line in file.getvalue().splitlines() if "a class of some length" in line]
    assert len(rows) == 150 and all("0.4000 to 0.6000" in row for row in rows)
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize("width", [80, 60, 40])
def test_what_does_not_fit_a_terminal_is_printed_below(width: int) -> None:
    names = ("of some length", "x" * 50)
    values = {name: f"0.{k}{'9' * 3}" for k, name in enumerate(names)}
    columns = {"IoU": values, "95 % interval": dict.fromkeys(names, "0.4310 to 0.5021")}
    columns |= {name: values for name in ("accuracy", "dice", "precision", "boundary_iou")}
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    print_columns(console, columns, names)
    shown = file.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(map(len, shown.splitlines())) <= width
    tables = shown.count("class ")
    assert tables > 1 and shown.replace("\n", "").count("x") == 50 * tables
    assert shown.count("0.0999") == shown.count("0.1999") == 5
    assert shown.count("0.4310 to 0.5021") == 2 and all(shown.count(one) == 1 for one in columns)


def test_scores_without_mean_iou_have_no_interval_beside_them() -> None:
    text = plain_scores({"area_error": 0.25}, NAMES, intervals=INTERVALS)
    assert text.splitlines() == ["  area_error 0.2500", f"  {NOTE}"]
