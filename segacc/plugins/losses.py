"""Built-in losses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan

from segacc.errors import OptionError
from segacc.hookspecs import Facts, Loss, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CrossEntropyOptions:
    """Options of cross_entropy."""

    weight: Annotated[float, Gt(0)] = 1.0
    """Factor of this term in the sum of all losses."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target that is spread evenly over the classes."""
    class_weights: tuple[Annotated[float, Ge(0), AllowInfNan(False)], ...] = ()
    """Factor of each class, in order, as in `class_weights=1/1/4.5`; default --class-weights, and
    without them all 1."""

    def __post_init__(self) -> None:
        """Refuse weights by which no pixel would count."""
        if self.class_weights and not any(self.class_weights):
            raise ValueError("class_weights: no weight is above 0")


@dataclass(frozen=True)
class CrossEntropy:
    """Pixel-wise cross-entropy at the label's full size."""

    options: CrossEntropyOptions
    facts: Facts

    def __post_init__(self) -> None:
        """Check that there is one weight for each class.

        Raises:
            OptionError: there are too many or too few, or those of --class-weights as well.
        """
        given, classes = len(self.options.class_weights), self.facts.num_classes
        if given and self.facts.class_weights is not None:
            raise OptionError(
                "--loss cross_entropy: class_weights is given here and as --class-weights; give "
                "one of them."
            )
        if given not in (0, classes):
            raise OptionError(
                f"--loss cross_entropy: class_weights has {given} numbers, the data set {classes} "
                f"classes: {', '.join(self.facts.class_names)}."
            )

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the pixels of labels (N, H, W) that are not ignored, by weight: a float scalar."""
        weights = self._weights(labels)
        valid = labels != self.facts.ignore_index
        return valid.sum().float() if weights is None else weights[labels[valid]].sum()

    def _weights(self, beside: "Tensor") -> "Tensor | None":
        import torch

        given = self.options.class_weights or self.facts.class_weights
        return torch.tensor(given, device=beside.device) if given else None

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over pixels, of logits (N, K, h, w) resized to labels (N, H, W): a float32 scalar."""
        from segacc.functional import cross_entropy_sum

        smoothing, weights = self.options.label_smoothing, self._weights(labels)
        total = cross_entropy_sum(logits, labels, class_weights=weights, label_smoothing=smoothing)
        return self.options.weight * total


@dataclass(frozen=True, kw_only=True)
class DiceOptions:
    """Options of dice."""

    weight: Annotated[float, Gt(0)] = 1.0
    """Factor of this term in the sum of all losses."""


@dataclass(frozen=True)
class Dice:
    """1 - Dice of each class in each image's label: thin classes count as much as wide ones."""

    options: DiceOptions
    facts: Facts

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the classes in each of the labels (N, H, W), summed: a float32 scalar."""
        import torch

        present = [label[label != self.facts.ignore_index].unique().numel() for label in labels]
        return torch.tensor(float(sum(present)), device=labels.device)

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images and classes, of logits (N, K, h, w): a float32 scalar."""
        from segacc.functional import dice_sum

        return self.options.weight * dice_sum(logits, labels)


@hookimpl
def segacc_losses() -> list[Loss]:
    """Register the built-in losses."""
    return [
        Loss(
            name="cross_entropy",
            summary="pixel-wise cross-entropy at the label's full size, ignored pixels left out",
            options=CrossEntropyOptions,
            build=CrossEntropy,
            class_weighted=True,
        ),
        Loss(
            name="dice",
            summary="1 - Dice of each class in each image (Milletari et al. 2016)",
            options=DiceOptions,
            build=Dice,
        ),
    ]
