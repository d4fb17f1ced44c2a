"""`boundary_iou`: IoU of bands along the inner boundaries of the classes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from segacc.contracts import IGNORE, Facts
from segacc.hookspecs import Metric, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BoundaryIouOptions:
    """Options of boundary_iou."""

    dilation: Annotated[float, Gt(0), Le(1)] = 0.02
    """Width of the bands as a fraction of the image diagonal; at least one pixel."""


class BoundaryIou:
    """Boundary IoU of each class (Cheng et al., "Boundary IoU", CVPR 2021).

    A pixel is in the band of its class if another value, or the outside of the image, is at most d
    pixels away in rows and columns. Ignored pixels are in no band; in labels and predictions alike
    they count as another value for their neighbours.
    """

    def __init__(self, options: BoundaryIouOptions, facts: Facts) -> None:
        """Start with empty counts."""
        import torch

        self.dilation, self.names = options.dilation, facts.class_names
        self.state = {
            name: torch.zeros(facts.num_classes, dtype=torch.int64)
            for name in ("intersection", "union")
        }

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Add the bands of predictions (N, H, W) and labels (N, H, W) to the counts."""
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
        """Return mean and per-class scores, 0..1; nan for a class without a band."""
        iou = self.state["intersection"].cpu().double() / self.state["union"].cpu()
        return {
            "mean_boundary_iou": iou.nanmean().item(),
            "per_category_boundary_iou": dict(zip(self.names, iou.tolist(), strict=True)),
        }


def band_width(size: tuple[int, ...], dilation: float) -> int:
    """Return the band width d in pixels for an image of (H, W) pixels."""
    return max(1, round(dilation * math.hypot(*size)))


def inner_band(maps: "Tensor", distance: int) -> "Tensor":
    """Mark the pixels that have another value, or the outside, within a distance.

    For the mask of a single value, this is the mask minus its erosion by a square of 2 * distance +
    1 pixels, with zeros outside the image; here it is computed for all values at once.

    Args:
        maps: (N, H, W) integers.
        distance: in pixels, the maximum of the distances in rows and columns.

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
    """Minimum or maximum over each complete window of `width` along `axis`, which gets shorter.

    The window doubles in each pass, so the work grows with the logarithm of `width`.
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
    """Register boundary_iou."""
    return [
        Metric(
            name="boundary_iou",
            summary="IoU of bands along the class boundaries (Cheng et al. 2021)",
            options=BoundaryIouOptions,
            build=BoundaryIou,
        )
    ]
