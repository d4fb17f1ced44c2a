"""Built-in losses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt

from segacc.hookspecs import Loss, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CrossEntropyOptions:
    """Options of cross_entropy."""

    weight: Annotated[float, Gt(0)] = 1.0
    """Factor of this term in the sum of all losses."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target that is spread evenly over the classes."""


@dataclass(frozen=True)
class CrossEntropy:
    """Pixel-wise cross-entropy at the label's full size."""

    options: CrossEntropyOptions
    ignore_index: int

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the pixels of labels (N, H, W) that are not ignored: a float32 scalar."""
        return (labels != self.ignore_index).sum().float()

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over pixels, of logits (N, K, h, w) resized to labels (N, H, W): a float32 scalar."""
        from segacc.functional import cross_entropy_sum

        total = cross_entropy_sum(logits, labels, label_smoothing=self.options.label_smoothing)
        return self.options.weight * total


@hookimpl
def segacc_losses() -> list[Loss]:
    """Register the built-in losses."""
    return [
        Loss(
            name="cross_entropy",
            summary="pixel-wise cross-entropy at the label's full size, ignored pixels left out",
            options=CrossEntropyOptions,
            build=lambda options, facts: CrossEntropy(options, facts.ignore_index),
        )
    ]
