"""`binary` and `calibration`: scores that use the probabilities of classes."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from segacc.contracts import IGNORE, Facts
from segacc.errors import OptionError, first_of
from segacc.hookspecs import Metric, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

BINS, FINEST, SPAN = 2**16, 0.01, 1e4
"""The histogram of the log-odds x: its bins are equal in asinh(x / FINEST), so 0.05 % of x wide and
finer below FINEST, up to SPAN on both sides."""
ONE = 2**20
"""The integer that stands for a probability of 1: integer sums are exact in any order, and each
term is rounded by at most 5e-7."""


@dataclass(frozen=True, kw_only=True)
class BinaryOptions:
    """Options of binary."""

    positive: str | int | None = None
    """Name or index of the foreground class; default the second one."""


class Binary:
    """Scores of the foreground for two classes.

    The area under the ROC curve is computed from a histogram of the foreground's log-odds, which
    are taken from the logits: pixels in the same bin are ties, so the error is at most half the
    share of the pairs that share a bin, about 3e-5, and mostly below 1e-6.
    """

    def __init__(self, options: BinaryOptions, facts: Facts) -> None:
        """Start with empty counts.

        Raises:
            OptionError: there are not two classes, or `positive` is not one of them.
        """
        import torch

        self.positive = positive_class(options.positive, facts.class_names)
        # Pixels by label and by prediction (0 background, 1 foreground) and by their log-odds.
        self.state = {"log_odds": torch.zeros(2, 2, BINS, dtype=torch.int64)}

    def update(self, predictions: "Tensor", labels: "Tensor", log_odds: "Tensor") -> None:
        """Add predictions and labels (N, H, W) int64, with log_odds (N, H, W) float32."""
        valid = labels != IGNORE
        truth, guess = (one[valid] == self.positive for one in (labels, predictions))
        odds = log_odds[valid] if self.positive else -log_odds[valid]
        share = (odds / FINEST).asinh() / math.asinh(SPAN / FINEST)  # -1..1
        index = ((share + 1) * (BINS / 2)).clamp(0, BINS - 1).long()
        index += BINS * (2 * truth + guess)
        counts = index.bincount(minlength=4 * BINS).view(2, 2, BINS)
        self.state["log_odds"] = self.state["log_odds"].to(counts.device) + counts

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return IoU, precision and recall of the foreground, and the AUROC, 0..1."""
        from segacc.kernels.counts import class_counts, divided, iou

        counts = class_counts(self.state["log_odds"].sum(2))[1]
        hit, labelled, predicted = counts
        background, foreground = self.state["log_odds"].sum(1).cpu().double()
        below = background.cumsum(0) - background / 2
        pairs = foreground.sum() * background.sum()
        return {
            "foreground_iou": float(iou(counts)),
            "foreground_precision": float(divided(hit, predicted)),
            "foreground_recall": float(divided(hit, labelled)),
            "auroc": ((foreground * below).sum() / pairs).item(),
        }


def positive_class(given: str | int | None, names: tuple[str, ...]) -> int:
    """Return the foreground class, 0 or 1.

    Raises:
        OptionError: there are not two classes, or `given` is not one of them.
    """
    if len(names) != 2:
        raise OptionError(
            f"--metric binary: it needs 2 classes, but the data set has {len(names)}: "
            f"{first_of(names, 8)}. For more classes, use mean_iou or dice."
        )
    if given is None:
        return 1
    if given in names:
        return names.index(str(given))
    if str(given) in ("0", "1"):
        return int(given)
    raise OptionError(
        f"--metric binary: positive={given} is not one of the classes {names[0]} (0) and "
        f"{names[1]} (1)."
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Options of calibration."""

    bins: Annotated[int, Ge(2), Le(1000)] = 15
    """Number of confidence bins of equal width."""


class Calibration:
    """Difference between confidence and accuracy (Guo et al., ICML 2017)."""

    def __init__(self, options: CalibrationOptions) -> None:
        """Start with empty counts."""
        import torch

        self.bins = options.bins
        self.state = {
            name: torch.zeros(self.bins, dtype=torch.int64)
            for name in ("pixels", "right", "confidence")
        }

    def update(self, predictions: "Tensor", labels: "Tensor", confidence: "Tensor") -> None:
        """Add pixels to bins by confidence (N, H, W) float32: counts, and sums of confidence.

        A confidence at the boundary of two bins belongs to the lower one.
        """
        valid = labels != IGNORE
        sure = (confidence[valid].float().clamp(0, 1) * ONE).round().long()
        index = ((sure * self.bins - 1) // ONE).clamp(min=0)
        hits = index[predictions[valid] == labels[valid]]
        counts = {
            "pixels": index.bincount(minlength=self.bins),
            "right": hits.bincount(minlength=self.bins),
            "confidence": sure.new_zeros(self.bins).index_add_(0, index, sure),
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
        """Write calibration.csv: one line per bin, without values for an empty bin."""
        columns = [one.tolist() for one in self.reliability()]
        with (folder / "calibration.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["above", "up to", "pixels", "accuracy", "mean confidence"])
            for index, (pixels, *numbers) in enumerate(zip(*columns, strict=True)):
                edges = (f"{(index + end) / self.bins:.6f}" for end in (0, 1))
                told = (f"{number:.6f}" if pixels else "" for number in numbers)
                table.writerow([*edges, int(pixels), *told])


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register binary and calibration."""
    return [
        Metric(
            name="binary",
            summary="IoU, precision, recall and AUROC of the foreground, for two classes",
            options=BinaryOptions,
            build=Binary,
            wants_log_odds=True,
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
