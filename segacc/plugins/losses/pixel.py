"""`cross_entropy`, `focal`, `ohem` and `bce`: pixel-wise losses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan

from segacc.contracts import Facts
from segacc.errors import OptionError, first_of
from segacc.hookspecs import Loss, LossOptions, Weight, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClassWeightedOptions(LossOptions):
    """Options of a loss with class weights."""

    class_weights: tuple[Annotated[float, Ge(0), AllowInfNan(False)], ...] = ()
    """Weight of each class in order, e.g. `class_weights=1/1/4.5`; default: --class-weights if
    given, else 1 for all."""

    def __post_init__(self) -> None:
        """Reject class weights that are all 0."""
        if self.class_weights and not any(self.class_weights):
            raise ValueError("class_weights: no weight is above 0")


@dataclass(frozen=True)
class ClassWeighted:
    """A pixel-wise loss with class weights, divided by the sum of the pixels' weights."""

    name: ClassVar[str]
    options: ClassWeightedOptions
    facts: Facts

    def __post_init__(self) -> None:
        """Check that there is one weight per class.

        Raises:
            OptionError: the number of weights is wrong, or --class-weights is given as well.
        """
        given, facts = len(self.options.class_weights), self.facts
        if given and facts.class_weights is not None:
            raise OptionError(
                f"--loss {self.name}: class_weights is given here and as --class-weights; give one "
                "of them."
            )
        if given not in (0, facts.num_classes):
            raise OptionError(
                f"--loss {self.name}: class_weights has {given} numbers, the data set "
                f"{facts.num_classes} classes: {first_of(facts.class_names, 8)}."
            )

    def count(self, labels: "Tensor") -> "Tensor":
        """Sum the class weights of labelled pixels in labels (N, H, W): a float scalar."""
        weights = self._weights(labels)
        valid = labels != self.facts.ignore_index
        return valid.sum().float() if weights is None else weights[labels[valid]].sum()

    def _weights(self, beside: "Tensor") -> "Tensor | None":
        """Return the weights, (K,) float32, on the device of another tensor, or None."""
        import torch

        given = self.options.class_weights or self.facts.class_weights
        return torch.tensor(given, device=beside.device) if given else None


@dataclass(frozen=True, kw_only=True)
class CrossEntropyOptions(ClassWeightedOptions):
    """Options of cross_entropy."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Fraction of the target that is distributed evenly over all classes."""


@dataclass(frozen=True)
class CrossEntropy(ClassWeighted):
    """Pixel-wise cross-entropy at the label's full size."""

    name = "cross_entropy"
    options: CrossEntropyOptions

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over pixels for logits (N, K, h, w) resized to labels (N, H, W): a float32 scalar."""
        from segacc.kernels.pixel import cross_entropy_sum

        smoothing, weights = self.options.label_smoothing, self._weights(labels)
        return cross_entropy_sum(logits, labels, class_weights=weights, label_smoothing=smoothing)


@dataclass(frozen=True, kw_only=True)
class FocalOptions(ClassWeightedOptions):
    """Options of focal."""

    gamma: Annotated[float, Ge(0), Le(20)] = 2.0
    """Exponent of 1 - p, with p the probability of the true class; 0 is the cross-entropy."""


@dataclass(frozen=True)
class Focal(ClassWeighted):
    """Focal loss of the softmax: pixels with confident correct predictions have little weight."""

    name = "focal"
    options: FocalOptions

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over pixels for logits (N, K, h, w) resized to labels (N, H, W): a float32 scalar."""
        from segacc.kernels.pixel import focal_sum

        gamma, weights = self.options.gamma, self._weights(labels)
        return focal_sum(logits, labels, gamma=gamma, class_weights=weights)


@dataclass(frozen=True, kw_only=True)
class OhemOptions(ClassWeightedOptions):
    """Options of ohem."""

    thresh: Annotated[float, Ge(0), Le(1)] = 0.7
    """Pixels whose true class has a lower probability count as hard; 0 leaves those of
    `min_kept`."""
    min_kept: Annotated[float, Gt(0), Le(1)] = 0.2
    """Fraction of each image's labelled pixels, those with the highest loss, that is always
    used."""


@dataclass(frozen=True)
class Ohem(ClassWeighted):
    """Cross-entropy of each image's hard pixels (OHEM); all images with a label have equal weight.

    Pixels are selected per image, not per batch as in mmsegmentation, so the loss does not depend
    on how a batch is split; and by a fraction, so it does not depend on the crop size.
    mmsegmentation's usual 100,000 of 512x1024 pixels are a fraction of 0.19.
    """

    name = "ohem"
    options: OhemOptions

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the images of labels (N, H, W) with labelled pixels: a float scalar."""
        from segacc.kernels.pixel import pixel_weights

        weights = pixel_weights(labels, self._weights(labels))
        return (weights > 0).flatten(1).any(1).sum().float()

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images for logits (N, K, h, w) resized to labels (N, H, W): a float32 scalar."""
        from segacc.kernels.pixel import hard_examples_sum

        return hard_examples_sum(
            logits,
            labels,
            thresh=self.options.thresh,
            min_kept=self.options.min_kept,
            class_weights=self._weights(labels),
        )


@dataclass(frozen=True, kw_only=True)
class BinaryOptions(LossOptions):
    """Options of bce."""

    pos_weight: Weight = 1.0
    """Weight of foreground pixels; the sum is still divided by the number of pixels, like torch's
    BCEWithLogitsLoss."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Fraction of the target that is distributed evenly over both classes."""


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of the foreground, the second of two classes.

    The logit of the foreground is the difference of both logits: its sigmoid is the probability
    that predictions use. With the default options this equals the cross-entropy.
    """

    options: BinaryOptions
    facts: Facts

    def __post_init__(self) -> None:
        """Check that there are two classes.

        Raises:
            OptionError: the number of classes is not two.
        """
        if self.facts.num_classes != 2:
            raise OptionError(
                "--loss bce: it needs two classes, background and foreground; the data set has "
                f"{self.facts.num_classes}: {first_of(self.facts.class_names, 8)}. Use "
                "cross_entropy or focal."
            )

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the labelled pixels of labels (N, H, W): a float32 scalar."""
        return (labels != self.facts.ignore_index).sum().float()

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over pixels for logits (N, 2, h, w) resized to labels (N, H, W): a float32 scalar."""
        from segacc.kernels.pixel import binary_cross_entropy_sum

        return binary_cross_entropy_sum(
            logits,
            labels,
            pos_weight=self.options.pos_weight,
            label_smoothing=self.options.label_smoothing,
        )


@hookimpl
def segacc_losses() -> list[Loss]:
    """Register the pixel-wise losses."""
    return [
        Loss(
            name="cross_entropy",
            summary="pixel-wise cross-entropy at the label's full size, ignored pixels excluded",
            options=CrossEntropyOptions,
            build=CrossEntropy,
            class_weighted=True,
        ),
        Loss(
            name="focal",
            summary="cross-entropy times (1 - p)^gamma of the softmax (Lin et al. 2017)",
            options=FocalOptions,
            build=Focal,
            class_weighted=True,
        ),
        Loss(
            name="ohem",
            summary="cross-entropy of each image's hard pixels (Shrivastava et al. 2016)",
            options=OhemOptions,
            build=Ohem,
            class_weighted=True,
        ),
        Loss(
            name="bce",
            summary="binary cross-entropy of the second of two classes, with its own weight",
            options=BinaryOptions,
            build=BinaryCrossEntropy,
        ),
    ]
