"""The worst images of a split: kept while it is scored, then drawn."""

import re
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from segacc.data.pictures import Example, draw_examples, shrunk
from segacc.evaluation.per_image import ImageCounts
from segacc.labels import Color

if TYPE_CHECKING:
    from torch import Tensor

    from segacc.data.batches import Item

COUNT = 20
"""Images that are kept."""


@dataclass(frozen=True)
class Bad:
    """An image, its scores, and what a panel shows of it."""

    counts: ImageCounts
    example: Example
    """At the size of a panel, so that what is kept stays small."""

    @property
    def key(self) -> tuple[float, str]:
        """The worst comes first; of equal ones the first by id."""
        return self.counts.mean_iou, self.counts.id


@dataclass
class Worst:
    """The images of this process with the lowest mean IoU so far."""

    count: int = COUNT
    kept: list[Bad] = field(default_factory=list)
    """At most `count`, the worst one first."""

    def add(self, counts: ImageCounts, item: "Item", prediction: "Tensor") -> None:
        """Keep an image if it is one of the worst; one without a valid pixel is none."""
        score = counts.mean_iou
        full = len(self.kept) == self.count
        if isnan(score) or (full and (score, counts.id) >= self.kept[-1].key):
            return
        example = Example(item.id, item.image, item.label, prediction.cpu())
        insort(self.kept, Bad(counts, shrunk(example)), key=lambda bad: bad.key)
        del self.kept[self.count :]

    def of_all(self) -> list[Bad]:
        """Return the worst of all processes, on each of them; all must call it."""
        keys: Any = gather_object([bad.key for bad in self.kept])
        chosen = set(sorted(keys)[: self.count])
        found: list[Bad] = gather_object([bad for bad in self.kept if bad.key in chosen])
        return sorted(found, key=lambda bad: bad.key)


def draw_worst(
    worst: Sequence[Bad], folder: Path, *, names: Sequence[str], palette: Sequence[Color]
) -> None:
    """Write a panel for each: RANK-iou-SCORE-ID.png; those of an earlier evaluation go.

    Args:
        worst: the worst first.
        folder: is made when it is missing.
        names: K class names.
        palette: K RGB colours, 0..255.
    """
    for old in folder.glob("[0-9][0-9]-iou-[01].[0-9][0-9][0-9][0-9]-*.png"):
        old.unlink()
    for rank, bad in enumerate(worst, 1):
        counts = bad.counts
        plain = re.sub(r"[^\w.+-]+", "_", counts.id)[-80:]
        told = f"mean IoU {counts.mean_iou:.4f} over {len(counts.classes)} classes, "
        told += f"{100 * counts.overall_accuracy:.1f} % of the pixels right"
        draw_examples(
            [bad.example],
            names=names,
            palette=palette,
            path=folder / f"{rank:02}-iou-{counts.mean_iou:.4f}-{plain}.png",
            title=f"{rank} of the {len(worst)} worst images: {counts.id}",
            captions=[told],
        )
