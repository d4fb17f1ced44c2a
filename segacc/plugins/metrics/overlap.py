"""`mean_iou`, `dice`, `frequency_weighted_iou`: overlap of labels and predictions."""

from dataclasses import dataclass
from math import nan

from segacc.hookspecs import Metric, hookimpl
from segacc.plugins.metrics.counts import Confusion, by_class


@dataclass(frozen=True, kw_only=True)
class MeanIouOptions:
    """mean_iou has no options."""


class MeanIou(Confusion):
    """IoU and accuracy, with the names of the `evaluate` library's mean_iou.

    A class that is absent from labels and predictions has no IoU; one without labelled pixels has
    no accuracy.
    """

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the three means and the two per-class scores, 0..1, computed in float64."""
        right, labelled, predicted = self.areas()
        iou, accuracy = right / (labelled + predicted - right), right / labelled
        return {
            "mean_iou": iou.nanmean().item(),
            "mean_accuracy": accuracy.nanmean().item(),
            "overall_accuracy": (right.sum() / labelled.sum()).item(),
            "per_category_iou": by_class(self.names, iou),
            "per_category_accuracy": by_class(self.names, accuracy),
        }


@dataclass(frozen=True, kw_only=True)
class DiceMetricOptions:
    """dice has no options."""


class DiceScores(Confusion):
    """Dice (F1), with precision and recall, of which it is the harmonic mean.

    A class that is labelled but never predicted has precision 0, one that is predicted but never
    labelled has recall 0; one that is absent from both has no score.
    """

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return means and per-class scores, 0..1, computed in float64."""
        right, labelled, predicted = self.areas()
        scores = {
            "dice": 2 * right / (labelled + predicted),
            "precision": (right / predicted.clamp(min=1)).where(labelled + predicted > 0, nan),
            "recall": (right / labelled.clamp(min=1)).where(labelled + predicted > 0, nan),
        }
        means = {f"mean_{name}": values.nanmean().item() for name, values in scores.items()}
        parts = {f"per_category_{name}": by_class(self.names, scores[name]) for name in scores}
        return {**means, **parts}


@dataclass(frozen=True, kw_only=True)
class FrequencyWeightedIouOptions:
    """frequency_weighted_iou has no options."""


class FrequencyWeightedIou(Confusion):
    """IoU averaged over classes with their labelled pixels as weights (Long et al., CVPR 2015)."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the score, 0..1, computed in float64."""
        right, labelled, predicted = self.areas()
        iou = right / (labelled + predicted - right)
        return {"frequency_weighted_iou": ((labelled * iou).nansum() / labelled.sum()).item()}


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register mean_iou, dice and frequency_weighted_iou."""
    return [
        Metric(
            name="mean_iou",
            summary="mean and per-class IoU and accuracy from one integer confusion matrix",
            options=MeanIouOptions,
            build=lambda options, facts: MeanIou(facts),
        ),
        Metric(
            name="dice",
            summary="mean and per-class Dice (F1), precision and recall",
            options=DiceMetricOptions,
            build=lambda options, facts: DiceScores(facts),
        ),
        Metric(
            name="frequency_weighted_iou",
            summary="IoU weighted by each class's labelled pixels (Long et al. 2015)",
            options=FrequencyWeightedIouOptions,
            build=lambda options, facts: FrequencyWeightedIou(facts),
        ),
    ]
