"""`boundary_iou`: IoU of the bands along the inside of the classes' edges."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from segacc.contracts import IGNORE, Facts
from segacc.hookspecs import Metric, hookimpl
from segacc.plugins.metrics.counts import by_class

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BoundaryIouOptions:
    """Options of boundary_iou."""

    dilation: Annotated[float, Gt(0), Le(1)] = 0.02
    """Width of the bands, as a share of the image's diagonal; at least one pixel."""


class BoundaryIou:
    """Boundary IoU of each class (Cheng et al., "Boundary IoU", CVPR 2021).

    A pixel lies in its class's band where another value, or the outside of the image, is at most d
    pixels away, rows and columns counted apart. Ignored pixels are in no band; they, and the
    predictions under them, are another value to their neighbours in labels and predictions alike.
    """

    def __init__(self, options: BoundaryIouOptions, facts: Facts) -> None:
        """Start empty."""
        import torch

        self.dilation, self.names = options.dilation, facts.class_names
        self.state = {
            name: torch.zeros(facts.num_classes, dtype=torch.int64)
            for name in ("intersection", "union")
        }

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Count the bands of predictions (N, H, W) against those of labels (N, H, W)."""
        import torch

        valid = labels != IGNORE
        truth, guess = (one.where(valid, IGNORE).to(torch.uint8) for one in (labels, predictions))
        distance = band_width(labels.shape[-2:], self.dilation)
        edge, guessed = inner_band(truth, distance) & valid, inner_band(guess, distance) & valid
        counts = {"intersection": self._count(truth[edge & guessed & (truth == guess)])}
        counts["union"] = self._count(truth[edge]) + self._count(guess[guessed])
        counts["union"] -= counts["intersection"]
        for name, count in counts.items():
            self.state[name] = self.state[name].to(count.device) + count

    def _count(self, classes: "Tensor") -> "Tensor":
        return classes.long().bincount(minlength=len(self.names))

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return mean and scores per category, 0..1; a class without a band has none (nan)."""
        iou = self.state["intersection"].cpu().double() / self.state["union"].cpu()
        return {
            "mean_boundary_iou": iou.nanmean().item(),
            "per_category_boundary_iou": by_class(self.names, iou),
        }


def band_width(size: tuple[int, ...], dilation: float) -> int:
    """Return d, in pixels, of an image of (H, W) pixels."""
    return max(1, round(dilation * math.hypot(*size)))


def inner_band(maps: "Tensor", distance: int) -> "Tensor":
    """Mark the pixels that have another value, or the outside, within a distance.

    For the mask of one value that is the mask less its erosion by a square of 2 * distance + 1
    pixels, with zeros around the image; here it is done for all values at once.

    Args:
        maps: (N, H, W) integers.
        distance: in pixels, the larger one of rows and columns.

    Returns:
        (N, H, W) bool.
    """
    import torch

    lowest = highest = maps
    for axis in (1, 2):
        lowest = sliding(torch.minimum, lowest, 2 * distance + 1, axis)
        highest = sliding(torch.maximum, highest, 2 * distance + 1, axis)
    band = torch.ones_like(maps, dtype=torch.bool)
    if lowest.numel():  # some squares lie inside the image
        band[:, distance:-distance, distance:-distance] = lowest != highest
    return band


def sliding(
    extreme: "Callable[[Tensor, Tensor], Tensor]", values: "Tensor", width: int, axis: int
) -> "Tensor":
    """Take the minimum or maximum over each window of `width` that fits: fewer places along `axis`.

    Windows double in width, so that the work grows with the logarithm of `width` only.
    """

    def joined(values: "Tensor", shift: int) -> "Tensor":
        rest = values.shape[axis] - shift
        return extreme(values.narrow(axis, 0, rest), values.narrow(axis, shift, rest))

    if values.shape[axis] < width:
        return values.narrow(axis, 0, 0)
    span = 1
    while 2 * span <= width:
        values, span = joined(values, span), 2 * span
    return joined(values, width - span) if span < width else values


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register it."""
    return [
        Metric(
            name="boundary_iou",
            summary="IoU of bands along the classes' edges (Cheng et al. 2021)",
            options=BoundaryIouOptions,
            build=BoundaryIou,
        )
    ]
