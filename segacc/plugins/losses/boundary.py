"""`boundary`: how far the probability of a class lies from its region in the label."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segacc.contracts import Facts
from segacc.hookspecs import Loss, hookimpl
from segacc.plugins.losses.weighing import LossOptions, Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BoundaryOptions(LossOptions):
    """Options of boundary."""

    weight: Weight = 0.01
    """Factor of this term in the sum of all losses; the term is in pixels of distance, and meant to
    stand beside another one. The paper starts from 0.01, too."""


@dataclass(frozen=True)
class Boundary:
    """Mean distance of wrong probability from each class's edge, where a label has several."""

    options: BoundaryOptions
    facts: Facts

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the classes in each of the labels (N, H, W) that has several: a float32 scalar."""
        from segacc.kernels.boundary import boundary_count

        return boundary_count(labels, self.facts.num_classes).float()

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images and classes, of logits (N, K, h, w): a float32 scalar."""
        from segacc.kernels.boundary import boundary_sum

        return self.options.weight * boundary_sum(logits, labels)


@hookimpl
def segacc_losses() -> list[Loss]:
    """Register the loss of boundaries."""
    return [
        Loss(
            name="boundary",
            summary="probability times distance from each class's edge (Kervadec et al. 2019)",
            options=BoundaryOptions,
            build=Boundary,
        )
    ]
