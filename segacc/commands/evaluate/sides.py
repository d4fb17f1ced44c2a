"""The sides of a comparison: evaluations that are read from their folders, alone or as a group."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from os.path import normpath
from pathlib import Path
from typing import Any

from segacc.commands.evaluate.per_image import FILE, REPORT, PerImage
from segacc.errors import DataError, OptionError, first_of, twice_in
from segacc.evaluation.model_folder import PROGRESS
from segacc.evaluation.scores import Terms, classes_in
from segacc.settings.options import parse_component
from segacc.training.folders import seed_folders

TERMS = tuple(one.name for one in fields(Terms) if one.name != "num_images")
PLAIN = {"no": "float32", "None": "none"}
"""How values of evaluation.json are shown: mixed precision `no`, and no held-out split."""
DIFFER = ("dataset", "split", "carved", *TERMS)
"""Keys of evaluation.json whose values should be equal on both sides; differences are printed."""


@dataclass(frozen=True)
class Side:
    """One of two sides: an evaluation, or those of several runs."""

    folder: Path
    report: dict[str, Any]
    """The content of evaluation.json, of the first run."""
    images: PerImage
    """The counts of the first run."""
    others: tuple["Side", ...] = ()
    """The other runs."""

    @property
    def runs(self) -> tuple["Side", ...]:
        """All runs, each as a side of its own."""
        return (replace(self, others=()), *self.others)

    def terms(self) -> str:
        """Return the rules of the evaluation in one line."""
        terms = Terms(**{field.name: self.report[field.name] for field in fields(Terms)})
        return f"{terms.short()}; {terms.rules()}"

    def told(self, most: int = 8) -> str:
        """Return the folders, at most so many, and how many there are if several."""
        several = f"{len(self.runs)} runs: " if self.others else ""
        return several + first_of([str(one.folder) for one in self.runs], most)


def told_of(value: Any) -> str:
    """Return a value of evaluation.json as text: a held-out split, a data set, or a word."""
    match value:
        case {"val_fraction": share, "train_split": split, "seed": seed}:
            return f"{100 * share:g} % of {split} (seed {seed})"
        case {"name": name, **options}:
            return ":".join(filter(None, (name, ",".join(f"{k}={v}" for k, v in options.items()))))
    return PLAIN.get(str(value), str(value))


def differing(a: Side, b: Side) -> list[tuple[str, str, str]]:
    """Return each key of DIFFER whose values differ, and the two values as text."""
    keys = [key for key in DIFFER if _plainest(a, key) != _plainest(b, key)]
    return [(key, told_of(a.report.get(key)), told_of(b.report.get(key))) for key in keys]


def _plainest(side: Side, key: str) -> Any:
    """Return a value in the form that all ways to write it share, as data/a and ./data/a/."""
    value = side.report.get(key)
    if key != "dataset" or not value:
        return told_of(value)
    given = parse_component(value, f"{side.folder / REPORT}: dataset")
    values = {one or "root": told_of(option) for one, option in given.values.items()}
    if "root" in values:
        values["root"] = normpath(values["root"])
    return normpath(given.name), values


def read_sides(given: Sequence[Path], where: str) -> Side:
    """Read one side: a run, several, or the folder of a group that `--seeds` has trained.

    Raises:
        SegaccError: an evaluation is missing or damaged, there is none, or the runs do not belong
            together.
    """
    if not given:
        raise OptionError(f"{where}: no evaluation is given.")
    folders = [run for path in given for run in seed_folders(path) or [path]]
    return joined([read_side(evaluation_in(one, where), where) for one in folders], where)


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


def joined(sides: Sequence[Side], where: str) -> Side:
    """Join the evaluations of runs to one side.

    Raises:
        OptionError: one is given twice, or their classes, data or rules differ.
    """
    first, *others = sides
    if twice := twice_in([str(one.folder.resolve()) for one in sides]):
        raise OptionError(f"{where}: {twice[0]} is given twice; give each run once.")
    for other in others:
        refuse_other_classes(first, other)
        for key, one, two in differing(first, other):
            raise OptionError(
                f"{where}: {first.folder} and {other.folder} differ in {key}: {one} and {two}. "
                "The runs of a side differ in their seed only: evaluate them in the same way."
            )
    return replace(first, others=tuple(others))


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
