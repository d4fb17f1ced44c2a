"""The scores in a model card: its section, its metadata, and their refresh by an evaluation."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.errors import count_of
from segacc.evaluation.scores import Terms
from segacc.settings.secrets import without_secrets
from segacc.training.saving.markdown import escaped, folded, printable, table

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
"""Name of the model card in a model folder."""
PLACE = "USER/NAME"
"""Stands in a card for the folder or the Hub id of the model; `segacc push` fills it in."""
SECTION = re.compile(r"^## Scores\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
_FOLDERS = re.compile(r"(?<==)[~/][^,]*/(?=[^/,])")
MANY = 30
"""Number of classes above which their table is folded."""
EVALUATION = Path("evaluation", "evaluation.json")
"""Where `segacc evaluate` writes the scores of a model, in its folder."""

Interval = Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores and all that they depend on, as a model card shows them."""

    scores: Mapping[str, Any]
    """By name, those of classes as dictionaries; nan or None for a class that does not occur."""
    terms: Terms
    dataset: str
    """The data set, as the user named it."""
    split: str
    step: int | None = None
    """Step of the scored weights, during training."""
    intervals: Mapping[str, Any] | None = None
    """The bootstrap intervals in an evaluation.json."""

    def section(self) -> str:
        """Return the section of the card, from its heading to the next one."""
        when = "Scored by `segacc evaluate`" if self.step is None else f"Scored at step {self.step}"
        where = f"on the split {escaped(self.split)} of {escaped(dataset_title(self.dataset))}"
        parts = [f"{when} {where}: {escaped(self.terms.text())}.", self._means(), *self._classes()]
        if self.intervals:
            parts.append(escaped(self.intervals["what"]) + ".")
        return "## Scores\n\n" + "\n\n".join(parts) + "\n\n"

    def results(self) -> "list[EvalResult]":
        """Return the scores for the `model-index` in the card's metadata."""
        from huggingface_hub import EvalResult

        rules = {"protocol": self.terms.protocol, "num_images": self.terms.num_images}
        rules |= {"rules": self.terms.rules(), "weights": self.terms.weights}
        dataset = printable(dataset_title(self.dataset))
        return [
            EvalResult(
                task_type="image-segmentation",
                task_name="Semantic segmentation",
                dataset_type=dataset.partition(":")[0],
                dataset_name=dataset,
                dataset_split=printable(self.split),
                metric_type=name,
                metric_name=name,
                metric_value=round(value, 6),
                metric_args={**rules, **self._interval_args(name)},
            )
            for name, value in self._known().items()
        ]

    def _known(self) -> dict[str, float]:
        found = {name: _number(value) for name, value in self.scores.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _interval(self, name: str) -> Interval:
        return (self.intervals or {}).get(name) if name == "mean_iou" else None

    def _interval_args(self, name: str) -> dict[str, Any]:
        found, level = self._interval(name), 100 * (self.intervals or {}).get("level", 0)
        return {f"interval_{level:g}": [round(end, 6) for end in found]} if found else {}

    def _means(self) -> str:
        known = self._known()
        if not known:
            return "There are no scores yet."
        rows = [
            [name, f"{value:.4f}", _ends(self._interval(name))] for name, value in known.items()
        ]
        return self._with_intervals(["score", "value"], rows)

    def _classes(self) -> list[str]:
        """Return the tables of the classes, one for each list of names, without absent ones."""
        groups: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
        for name, values in self.scores.items():
            if isinstance(values, Mapping):
                groups.setdefault(tuple(values), {})[name] = values
        return [self._table(names, columns) for names, columns in groups.items() if names]

    def _table(self, names: Sequence[str], columns: Mapping[str, Mapping[str, Any]]) -> str:
        numbers = {name: [_number(one[name]) for one in columns.values()] for name in names}
        there = {name: row for name, row in numbers.items() if any(one is not None for one in row)}
        ends = (self.intervals or {}).get("per_category_iou") or {}
        rows = [
            [name, *("" if one is None else f"{one:.4f}" for one in row), _ends(ends.get(name))]
            for name, row in there.items()
        ]
        absent = len(names) - len(there)
        note = f"{count_of(absent, 'class', 'classes')} of {len(names)} without a score"
        note += " (in neither labels nor predictions)"
        if not there:
            return f"{note}."
        text = self._with_intervals(["class", *map(escaped, columns)], rows)
        if len(there) > MANY:
            text = folded(text, f"Scores of {len(there)} classes")
        return f"{text}\n\n{note}." if absent else text

    def _with_intervals(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        if not self.intervals:
            return table(head, [row[:-1] for row in rows], numbers=len(head) - 1)
        level = f"{100 * self.intervals['level']:g} % interval"
        return table([*head, level], rows, numbers=len(head))


def dataset_title(text: str) -> str:
    """Return a data set as the user named it, without secrets and without the folders above it."""
    return _FOLDERS.sub("", without_secrets(text))


def _number(value: Any) -> float | None:
    """Return a score; None for scores of classes, and for one that is not a finite number."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None


def _ends(interval: Interval) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def read_evaluation(folder: Path) -> Scored | None:
    """Read the evaluation of a model folder by `segacc evaluate`; None if there is none."""
    try:
        found = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        given = found["dataset"]
        return Scored(
            scores=found["scores"],
            terms=Terms(**{one.name: found[one.name] for one in fields(Terms)}),
            dataset=given if isinstance(given, str) else str(given["name"]),
            split=found["split"],
            intervals=found["intervals"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refreshed(card: str, scored: Scored) -> str:
    """Return a model card of segacc with these scores in place of its own; others are unchanged."""
    from huggingface_hub import ModelCard

    if not card.startswith("---"):
        return card
    parsed = ModelCard(card, ignore_metadata_errors=True)
    data: Any = parsed.data
    if not SECTION.search(parsed.text) or not data.model_name:
        return card
    parsed.text = SECTION.sub(lambda _: scored.section(), parsed.text, count=1)
    data.eval_results = scored.results()
    return str(parsed)
