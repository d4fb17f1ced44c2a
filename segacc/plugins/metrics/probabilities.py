"""`binary` and `calibration`: scores that need the probability of the predicted class."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from segacc.contracts import IGNORE, Facts
from segacc.errors import OptionError
from segacc.hookspecs import Metric, hookimpl
from segacc.plugins.metrics.counts import Confusion

if TYPE_CHECKING:
    from torch import Tensor

BINS, SPAN = 2**12, 16.0
"""Bins of the histogram of log-odds, and the log-odds at its ends (1 in 9 million)."""
ONE = 2**20
"""A probability of 1 in the integers that are summed: sums stay exact in any order, each term is
rounded by 5e-7 at most."""


@dataclass(frozen=True, kw_only=True)
class BinaryOptions:
    """Options of binary."""

    positive: str | int | None = None
    """Name or number of the class that is looked for; default the second one."""


class Binary:
    """How well one of two classes is found.

    The area under the ROC curve comes from a histogram of the foreground's log-odds: pixels of one
    bin count as ties, so it is off by half the pairs that share a bin, at most.
    """

    def __init__(self, options: BinaryOptions, facts: Facts) -> None:
        """Start empty.

        Raises:
            OptionError: there are not two classes, or `positive` is none of them.
        """
        import torch

        self.positive = positive_class(options.positive, facts.class_names)
        self.counts = Confusion(facts)
        self.state = self.counts.state  # one mapping, as the states may be exchanged in it
        self.state["log_odds"] = torch.zeros(2, BINS, dtype=torch.int64)

    def update(self, predictions: "Tensor", labels: "Tensor", confidence: "Tensor") -> None:
        """Count predictions and labels (N, H, W) int64, with confidence (N, H, W) float32."""
        self.counts.update(predictions, labels)
        valid = labels != IGNORE
        sure = confidence[valid].float().clamp(0, 1)
        odds = sure.where(predictions[valid] == self.positive, 1 - sure).logit()
        place = ((odds + SPAN) * (BINS / (2 * SPAN))).clamp(0, BINS - 1).long()
        place += BINS * (labels[valid] == self.positive)
        counts = place.bincount(minlength=2 * BINS).view(2, BINS)
        self.state["log_odds"] = self.state["log_odds"].to(counts.device) + counts

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return IoU, precision and recall of the foreground, and the AUROC, 0..1."""
        right, labelled, predicted = (one[self.positive] for one in self.counts.areas())
        background, foreground = self.state["log_odds"].cpu().double()
        below = background.cumsum(0) - background / 2
        pairs = foreground.sum() * background.sum()
        return {
            "foreground_iou": (right / (labelled + predicted - right)).item(),
            "foreground_precision": (right / predicted).item(),
            "foreground_recall": (right / labelled).item(),
            "auroc": ((foreground * below).sum() / pairs).item(),
        }


def positive_class(given: str | int | None, names: tuple[str, ...]) -> int:
    """Return the class, 0 or 1, that is looked for.

    Raises:
        OptionError: there are not two classes, or `given` is none of them.
    """
    if len(names) != 2:
        raise OptionError(
            f"--metric binary: it is for 2 classes, and the data set has {len(names)}: "
            f"{', '.join(names[:8])}{' ...' if len(names) > 8 else ''}. For more, take mean_iou or "
            "dice."
        )
    if given is None:
        return 1
    if given in names:
        return names.index(str(given))
    if str(given) in ("0", "1"):
        return int(given)
    raise OptionError(
        f"--metric binary: positive={given} is neither of the classes {names[0]} (0) and "
        f"{names[1]} (1)."
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Options of calibration."""

    bins: Annotated[int, Ge(2), Le(1000)] = 15
    """Bins of equal width that confidences are sorted into."""


class Calibration:
    """How far confidence is from the share of right pixels (Guo et al., ICML 2017)."""

    def __init__(self, options: CalibrationOptions) -> None:
        """Start empty."""
        import torch

        self.bins = options.bins
        self.state = {
            name: torch.zeros(self.bins, dtype=torch.int64)
            for name in ("pixels", "right", "confidence")
        }

    def update(self, predictions: "Tensor", labels: "Tensor", confidence: "Tensor") -> None:
        """Sort pixels by confidence (N, H, W) float32 into bins; count, and sum confidence.

        A confidence on the edge of two bins belongs to the lower one.
        """
        valid = labels != IGNORE
        sure = (confidence[valid].float().clamp(0, 1) * ONE).round().long()
        place = ((sure * self.bins - 1) // ONE).clamp(min=0)
        hits = place[predictions[valid] == labels[valid]]
        counts = {
            "pixels": place.bincount(minlength=self.bins),
            "right": hits.bincount(minlength=self.bins),
            "confidence": sure.new_zeros(self.bins).index_add_(0, place, sure),
        }
        for name, count in counts.items():
            self.state[name] = self.state[name].to(count.device) + count

    def reliability(self) -> "tuple[Tensor, Tensor, Tensor]":
        """Return pixels, accuracy and mean confidence of each bin: (bins,) float64 on the CPU."""
        pixels, right, total = (one.cpu().double() for one in self.state.values())
        return pixels, right / pixels, total / ONE / pixels

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the expected and the maximum calibration error, 0..1; lower is better."""
        pixels, accuracy, confidence = self.reliability()
        gap = (accuracy - confidence).abs()
        return {
            "ece": ((gap * pixels).nansum() / pixels.sum()).item(),
            "mce": max(gap[pixels > 0].tolist(), default=math.nan),
        }

    def write(self, folder: Path) -> None:
        """Write calibration.csv: a line for each bin, empty where no pixel fell into it."""
        columns = [one.tolist() for one in self.reliability()]
        with (folder / "calibration.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["above", "up to", "pixels", "accuracy", "mean confidence"])
            for place, (pixels, *numbers) in enumerate(zip(*columns, strict=True)):
                edges = (f"{(place + end) / self.bins:.6f}" for end in (0, 1))
                told = (f"{number:.6f}" if pixels else "" for number in numbers)
                table.writerow([*edges, int(pixels), *told])


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register both."""
    return [
        Metric(
            name="binary",
            summary="of two classes: IoU, precision and recall of the foreground, and the AUROC",
            options=BinaryOptions,
            build=Binary,
            wants_confidence=True,
        ),
        Metric(
            name="calibration",
            summary="expected and maximum calibration error, and a table (Guo et al. 2017)",
            options=CalibrationOptions,
            build=lambda options, facts: Calibration(options),
            wants_confidence=True,
            writes=True,
            lower_is_better=("ece", "mce"),
        ),
    ]
