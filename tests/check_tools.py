"""Spoils data sets and looks at them, as `segacc check-data` does."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from cli_tools import NAMES, draw
from segacc.commands.check_data.check import Findings, check, open_data
from segacc.commands.check_data.fixes import fixes, paste
from segacc.commands.check_data.verdict import Finding, judge
from segacc.hookspecs import Chosen, Dataset, DataSplits
from segacc.labels import LabelMap
from segacc.registry import choose, load_registry
from segacc.settings.commands import CheckConfig

LABEL, IMAGE = "annotations/train/train1.png", "images/train/train1.png"
QUIET = Console(quiet=True)


registry = cache(load_registry)  # a tenth of a second each time


def chosen(typed: Any, kind: str = "dataset") -> Chosen:
    """Choose a component as the command line does."""
    return choose(registry(), kind, typed, f"--{kind}")


def look(typed: str, **settings: Any) -> Findings:
    """Check a data set, in this process unless told otherwise."""
    given: dict[str, Any] = {"num_workers": 0, **settings}
    return check(open_data(chosen(typed), CheckConfig(dataset=typed, **given)), QUIET)


def change_label(path: Path, **values: tuple[int, int]) -> None:
    """Set the first pixels of the rows of a label: `v7=(0, 5)` sets 5 pixels of row 0 to 7."""
    label = np.array(Image.open(path))
    for name, (row, count) in values.items():
        label[row, :count] = int(name[1:])
    Image.fromarray(label).save(path)


def foreign_values(path: Path) -> None:
    """Put two raw ids into a label that are outside the map."""
    change_label(path, v7=(0, 5), v9=(1, 2))


def truncate(path: Path) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[:70])


def smaller(path: Path) -> None:
    """Shrink a label."""
    Image.open(path).resize((32, 24), Image.Resampling.NEAREST).save(path)


def colors(path: Path) -> None:
    """Turn ids into greys of three channels."""
    Image.open(path).convert("RGB").save(path)


def fractions(path: Path) -> None:
    """Replace a picture by one of 32-bit fractions, whatever its name says."""
    Image.fromarray(np.zeros((48, 64), np.float32)).save(path, format="TIFF")


def photograph(path: Path) -> None:
    """Replace a label by a picture."""
    Image.fromarray(draw((1, 1), (48, 64))[0]).convert("L").save(path)


def dangling(path: Path) -> None:
    """Replace a file by a link that leads nowhere."""
    path.unlink()
    path.symlink_to("gone.png")


SPOILS: dict[str, tuple[str, Callable[[Path], Any], str, str]] = {
    "values outside the map": (
        LABEL,
        foreign_values,
        "values",
        "1 label of train has values without a class: 7 (5 pixels), 9 (2 pixels)",
    ),
    "a missing label": (LABEL, Path.unlink, "missing label", "1 label of train is missing"),
    "a missing image": (IMAGE, dangling, "missing image", "1 image of train is missing"),
    "a truncated image": (
        IMAGE,
        truncate,
        "unreadable image",
        "1 image of train cannot be read: image file is truncated",
    ),
    "a truncated label": (
        LABEL,
        truncate,
        "unreadable label",
        "1 label of train cannot be read: image file is truncated",
    ),
    "a label that is no picture": (
        LABEL,
        lambda path: path.write_text("hello"),
        "unreadable label",
        "1 label of train cannot be read: not an image of a known format",
    ),
    "a label of another size": (
        LABEL,
        smaller,
        "size",
        "1 label of train differs in size from its image: the label is 24x32 pixels, its image "
        "48x64 (height x width). They must be of one size: export the label again, or resize it "
        "with nearest neighbour",
    ),
    "a label in colours": (
        LABEL,
        colors,
        "label",
        "1 label of train is invalid: the label is a RGB image with 3 channels; expected one "
        "channel of class ids. Name the class of each colour (colors=FILE of --dataset folder), "
        "or export index masks (palette PNGs are read as ids)",
    ),
    "a label of fractions": (
        LABEL,
        fractions,
        "label",
        "1 label of train is invalid: the label has fractional values (mode F); expected class "
        "ids. Save "
        "them as 8-bit or 16-bit integers",
    ),
    "an image of 32 bits": (
        IMAGE,
        fractions,
        "image",
        "1 image of train is invalid: the image has 32 bits per pixel (mode F), whose value "
        "range is unknown. "
        "Save it with 8 or 16 bits",
    ),
}
"""By name: the file, what is done to it, the kind of fault, and what is said of it."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """None."""


def of_samples(splits: dict[str, Any], names: tuple[str, ...] = NAMES, **settings: Any) -> Findings:
    """Check samples that lie in memory, or streams."""

    def build(options: NoOptions) -> DataSplits:
        return DataSplits(splits, LabelMap.plain(names))

    record = Dataset(name="here", summary="", options=NoOptions, build=build)
    given: dict[str, Any] = {"num_workers": 0, **settings}
    config = CheckConfig(dataset="here", **given)
    return check(open_data(Chosen(record, NoOptions(), "here"), config), QUIET)


def problems(found: Findings) -> list[Finding]:
    """Return what would stop a run."""
    return [finding for finding in judge(found) if finding.level == "problem"]


def texts(found: Findings) -> list[str]:
    """Return the texts of all findings, problems first."""
    return [finding.text for finding in judge(found)]


def pastes(found: Findings, *, sure: bool | None = None) -> list[str]:
    """Return what is suggested, all of it or only what is (not) sure."""
    return [paste(found.data.dataset, [c]) for c in fixes(found) if sure in (None, c.sure)]
