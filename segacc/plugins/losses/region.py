"""`dice`, `jaccard`, `tversky` and `lovasz`: region losses of each class in an image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge
from pydantic import AllowInfNan

from segacc.contracts import Facts
from segacc.hookspecs import Loss, LossOptions, Weight, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RegionLoss:
    """A loss per class and image, so that small classes have as much weight as large ones."""

    options: LossOptions
    facts: Facts

    def count(self, labels: "Tensor") -> "Tensor":
        """Count the classes of all labels (N, H, W): a float32 scalar."""
        from segacc.kernels.region import present_classes

        return present_classes(labels, self.facts.num_classes).sum().float()

    def _tversky(self, logits: "Tensor", labels: "Tensor", **options: float) -> "Tensor":
        from segacc.kernels.region import tversky_sum

        return tversky_sum(logits, labels, **options)


class Dice(RegionLoss):
    """1 - Dice of each class in each image's label."""

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images and classes for logits (N, K, h, w): a float32 scalar."""
        return self._tversky(logits, labels, alpha=0.5, beta=0.5)


class Jaccard(RegionLoss):
    """1 - Jaccard, intersection over union, of each class in each image's label."""

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images and classes for logits (N, K, h, w): a float32 scalar."""
        return self._tversky(logits, labels, alpha=1.0, beta=1.0)


@dataclass(frozen=True, kw_only=True)
class TverskyOptions(LossOptions):
    """Options of tversky."""

    alpha: Weight = 0.3
    """Weight of false positives."""
    beta: Weight = 0.7
    """Weight of false negatives."""
    gamma: Annotated[float, Ge(1), AllowInfNan(False)] = 1.0
    """Above 1 the focal Tversky loss (Abraham and Khan 2019), (1 - index) ** (1 / gamma), which
    weights badly segmented classes more; theirs is 4/3."""


@dataclass(frozen=True)
class Tversky(RegionLoss):
    """1 - Tversky index of each class in each image's label."""

    options: TverskyOptions

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images and classes for logits (N, K, h, w): a float32 scalar."""
        given = {key: getattr(self.options, key) for key in ("alpha", "beta", "gamma")}
        return self._tversky(logits, labels, **given)


class Lovasz(RegionLoss):
    """Lovasz-Softmax of each class in each image's label."""

    def sum(self, logits: "Tensor", labels: "Tensor") -> "Tensor":
        """Sum over images and classes for logits (N, K, h, w): a float32 scalar."""
        from segacc.kernels.region import lovasz_sum

        return lovasz_sum(logits, labels)


@hookimpl
def segacc_losses() -> list[Loss]:
    """Register the region losses."""
    return [
        Loss(
            name="dice",
            summary="1 - Dice of each class in each image (Milletari et al. 2016)",
            build=Dice,
        ),
        Loss(
            name="jaccard",
            summary="1 - intersection over union of each class in each image",
            build=Jaccard,
        ),
        Loss(
            name="tversky",
            summary="1 - Tversky index of each class in each image (Salehi et al. 2017)",
            options=TverskyOptions,
            build=Tversky,
        ),
        Loss(
            name="lovasz",
            summary="Lovasz-Softmax of each class in each image (Berman et al. 2018)",
            build=Lovasz,
        ),
    ]
