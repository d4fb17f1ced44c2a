"""Scores, and the rules of an evaluation that make them comparable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from segacc.contracts import IGNORE
from segacc.errors import count_of, first_of
from segacc.labels import LabelMap

Scores = dict[str, float | dict[str, float]]

Weights = Literal["raw", "ema"]
"""The trained weights, or their exponential moving average."""
VAL_LOSS = "val_loss"
"""Name of the loss of a validation split among its scores."""
IGNORED = f"ignore_index={IGNORE}"
ABSENT = "classes absent from labels and predictions excluded from the mean"


def row_key(score: str) -> str:
    """Return the key of a score in metrics.jsonl: `precision_score`, as a row has a `precision`."""
    own = {"kind", "step", "seconds", "best", *Terms.__dataclass_fields__}
    return f"{score}_score" if score in own else score


def flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores by name; those of classes get names as `per_category_iou/nucleus`."""
    numbers: dict[str, Any] = {}
    for key, value in scores.items():
        many = isinstance(value, Mapping)
        numbers |= {f"{key}/{name}": one for name, one in value.items()} if many else {key: value}
    return numbers


def finite(value: Any) -> Any:
    """Replace nan and infinities, which JSON does not have, with None, also in nested scores."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ignored_by(labels: LabelMap) -> str:
    """Return which pixels do not count, by the raw ids or colours in the label files."""
    ids = labels.ignored
    return IGNORED if ids == [IGNORE] else f"{labels.told(ids) if ids else 'no raw id'} ignored"


def classes_in(names: tuple[str, ...]) -> str:
    """Return the number of classes and the first names, as `2 classes (a, b)`."""
    return f"{count_of(len(names), 'class', 'classes')} ({first_of(names, 6)})"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The rules, the images and the weights of an evaluation."""

    protocol: str
    """How images became the network's input, as text of `Protocol`."""
    num_images: int
    """Number of scored images, without unreadable ones."""
    weights: Weights = "raw"
    """The trained weights, or their exponential moving average."""
    precision: str = "no"
    """Accelerate's mixed precision; `no` is float32, and `tf32` is float32 with GPU products in
    TF32 (10-bit mantissa), torch's default for convolutions."""
    ignored: str = IGNORED
    absent_classes: str = ABSENT
    label_size: str = "original"
    """The size at which predictions and labels are compared: that of the label."""

    def short(self) -> str:
        """Return what may differ between evaluations: protocol, weights and number format."""
        parts = [f"protocol {self.protocol}", *self._average, self.number_format]
        return ", ".join(parts)

    def rules(self) -> str:
        """Return the rules by which pixels and classes count."""
        size = f"evaluated at {self.label_size} label size"
        return f"{size}, {self.ignored}, {self.absent_classes}"

    def settled(self) -> str:
        """Return what is the same in all evaluations of a run."""
        return f"protocol {self.protocol}, {self.number_format}, {self.rules()}"

    def text(self) -> str:
        """Return all of it in one line."""
        images = f"{self.num_images} images"
        return ", ".join([images, f"protocol {self.protocol}", *self._average, self.rules()]) + (
            f", {self.number_format}"
        )

    @property
    def _average(self) -> list[str]:
        return ["EMA weights"] if self.weights == "ema" else []

    @property
    def number_format(self) -> str:
        """The number format of the network's computations."""
        return {"no": "float32", "tf32": "float32 (products in TF32)"}.get(
            self.precision, self.precision
        )
