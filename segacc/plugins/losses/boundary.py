"""`boundary`: probabilities weighted by their distance to the class's region in the label."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segacc.contracts import Facts
from segacc.hookspecs import Loss, LossOptions, Weight, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BoundaryOptions(LossOptions):
    """Options of boundary."""

    weight: Weight = 0.01
    """Factor of this term in the sum of all losses. The term is a distance in pixels, meant to be
    used with another loss; the paper also starts from 0.01."""


@dataclass(frozen=True)
class Boundary:
    """Mean distance of misplaced probability to each class's boundary, for labels with several."""

    options: BoundaryOptions
    facts: Facts

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the classes of all labels (N, H, W) with more than one class: a float32 scalar."""
        from segacc.kernels.boundary import boundary_count

        return boundary_count(labels, self.facts.num_classes).float()

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images and classes for logits (N, K, h, w): a float32 scalar."""
        from segacc.kernels.boundary import boundary_sum

        return boundary_sum(logits, labels)


@hookimpl
def segacc_losses() -> list[Loss]:
    """Register the boundary loss."""
    return [
        Loss(
            name="boundary",
            summary="probability times distance to each class's boundary (Kervadec et al. 2019)",
            options=BoundaryOptions,
            build=Boundary,
        )
    ]
