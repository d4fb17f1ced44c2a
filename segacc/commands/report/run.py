"""Read what a run folder holds: settings, metrics, starts, classes and the evaluation of best/."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segacc.commands.evaluate.per_image import REPORT
from segacc.commands.evaluate.sides import Side, read_side, told_of
from segacc.errors import OptionError, expand, read_text
from segacc.evaluation.model_folder import NETWORK, SETTINGS, side_file
from segacc.evaluation.scores import flat
from segacc.kernels.counts import iou
from segacc.labels import LabelMap
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Settings, plain_values, read_yaml
from segacc.training.folders import ENVIRONMENT, MARK, RunLock
from segacc.training.tracking.environment import read_starts
from segacc.training.tracking.metrics import read_metrics

ORIGIN = re.compile(r"^(\w+):.* # (.*)$", re.MULTILINE)
"""Finds the origin of each value in config.yaml."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a run, with what it depends on."""

    name: str
    value: float | None
    interval: Sequence[float] | None
    """Lower and upper end of the 95 % interval; None if the run was not evaluated."""
    terms: dict[str, Any]
    """The evaluation's line of metrics.jsonl, or its evaluation.json."""
    step: int | None


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """The IoU of a class."""

    name: str
    color: tuple[int, int, int]
    value: float | None
    """None if the class is in neither labels nor predictions."""
    interval: Sequence[float] | None
    share: float | None
    """Share of the labelled pixels, 0..1; None if the run was not evaluated."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The content of a run folder."""

    name: str
    """Name of the folder; the path if several have this name."""
    folder: Path
    """As the user gave it."""
    settings: dict[str, Any]
    """The values of config.yaml."""
    origins: dict[str, str]
    """Where each of them came from, such as `default` or `--lr`."""
    rows: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    starts: list[dict[str, Any]]
    """The entries of environment.json."""
    evaluation: Side | None
    """What `segacc evaluate` wrote to best/evaluation/."""
    labels: LabelMap | None
    """The classes; None before the first files of the run are written."""
    running: bool
    """Whether the run is training now."""

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl of one kind."""
        return [row for row in self.rows if row["kind"] == kind]

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """The line of the best evaluation during training; None before the first one."""
        return next((row for row in reversed(self.of_kind("eval")) if row["best"]), None)

    @property
    def best_by(self) -> str:
        """The name of the score that selects best/."""
        return str(self.settings.get("best_by", "mean_iou"))

    @cached_property
    def score(self) -> Score | None:
        """The score of best/: that of its evaluation, or else of the validation in training."""
        terms = self.evaluation.report if self.evaluation else self.best
        if terms is None:
            return None
        scores = flat(terms["scores"] if self.evaluation else terms)
        single = (key for key in scores if "/" not in key)
        name = next((key for key in (self.best_by, "mean_iou") if key in scores), next(single, ""))
        ends = flat(terms["intervals"]) if self.evaluation else {}
        step = self.best["step"] if self.best else None
        value, interval = scores.get(name), ends.get(name)
        return Score(name=name, value=value, interval=interval, terms=terms, step=step)

    @cached_property
    def classes(self) -> list[ClassScore]:
        """The IoU of each class in the order of the labels; empty before the first evaluation."""
        side = self.evaluation
        terms: dict[str, Any] = side.report["scores"] if side else self.best or {}
        scores = terms.get("per_category_iou", {})
        if side and not scores:  # another metric was asked for; the counts have it all
            known = iou(side.images.total()).tolist()
            pairs = zip(side.images.names, known, strict=True)
            scores = {name: None if value != value else value for name, value in pairs}
        ends = side.report["intervals"]["per_category_iou"] if side else {}
        shares = self._shares()
        colors = (
            dict(zip(self.labels.names, self.labels.palette, strict=True)) if self.labels else {}
        )
        return [
            ClassScore(
                name=name,
                color=colors.get(name, (128, 128, 128)),
                value=value,
                interval=None if value is None else ends.get(name),
                share=shares.get(name),
            )
            for name, value in scores.items()
        ]

    def _shares(self) -> dict[str, float]:
        if self.evaluation is None:
            return {}
        images = self.evaluation.images
        labelled = images.total()[:, 1]
        total = max(1, int(labelled.sum()))
        return dict(zip(images.names, (labelled / total).tolist(), strict=True))

    @property
    def seconds(self) -> float | None:
        """Seconds of all starts; None if one did not end, or none is recorded."""
        taken = [start["seconds"] for start in self.starts]
        return None if not taken or None in taken else sum(taken)

    @property
    def max_steps(self) -> int | None:
        """The number of steps of the whole run, if it is known."""
        fitted = [row["max_steps"] for row in self.of_kind("fitted")]
        found = fitted[-1] if fitted else self.settings.get("max_steps")
        return found if isinstance(found, int) else None

    @property
    def step(self) -> int:
        """The last step in metrics.jsonl."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def repeat(self) -> str:
        """The command that repeats the run."""
        count = len(self.starts[0]["devices"]) if self.starts else 1
        words = ["segacc", "train", "--config", str(self.folder / SETTINGS)]
        words += ["--output-dir", f"{self.folder}-again"]
        return shlex.join(words + (["--processes", str(count)] if count > 1 else []))

    def evaluate(self, *flags: str) -> str:
        """Return the command that evaluates the run."""
        return shlex.join(["segacc", "evaluate", str(self.folder), *flags])

    def told(self, key: str) -> str:
        """Return a setting as text, a component as on the command line."""
        return told_of(self.settings.get(key))


def read_run(given: str | Path, where: str, *, name: str) -> RunData:
    """Read a run folder.

    Args:
        given: the folder.
        where: how it was given.
        name: how the report calls it.

    Raises:
        SegaccError: it is no run folder, or a file in it is damaged.
    """
    folder = expand(given, where)
    if not (folder / SETTINGS).is_file():
        raise OptionError(f"{where}: {given} {_not_a_run(folder)}")
    metrics, starts = folder / "metrics.jsonl", folder / ENVIRONMENT
    evaluation = folder / "best" / "evaluation"
    text = read_text(folder / SETTINGS)
    return RunData(
        name=name,
        folder=folder,
        settings=dict(read_yaml(folder / SETTINGS, where).values),
        origins={found[1]: found[2].strip() for found in ORIGIN.finditer(text)},
        rows=read_metrics(metrics) if metrics.is_file() else [],
        starts=read_starts(starts) if starts.is_file() else [],
        evaluation=read_side(evaluation, where) if (evaluation / REPORT).is_file() else None,
        labels=_labels(folder),
        running=_running(folder),
    )


def _not_a_run(folder: Path) -> str:
    if not folder.exists():
        return "does not exist; give the run folder, the --output-dir of a training."
    below = sorted(path.parent for path in folder.glob(f"*/{SETTINGS}"))
    above = next((path for path in folder.resolve().parents if (path / SETTINGS).is_file()), None)
    near = below[0] if below else above
    hint = f" Did you mean {near}?" if near else ""
    return f"is not a run folder: it has no {SETTINGS}.{hint}"


def _labels(folder: Path) -> LabelMap | None:
    sides = (side_file(folder / name) for name in ("best", NETWORK, "last"))
    found = next((side["labels"] for side in sides if "labels" in side), None)
    return LabelMap.from_dict(found) if found else None


def _running(folder: Path) -> bool:
    try:
        return (folder / MARK).is_file() and RunLock(folder).held()
    except OptionError:  # a folder of another user
        return False


def defaults() -> dict[str, Any]:
    """Return the default of each setting as config.yaml holds it."""
    return plain_values(Settings(TrainConfig()))
