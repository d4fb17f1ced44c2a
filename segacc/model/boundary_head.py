"""A network with a boundary head that is trained by its own losses: PIDNet."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segacc.contracts import IGNORE, Facts, LossTerm
from segacc.kernels.edges import Maps, boundary_cross_entropy_sum, boundary_semantic_sum
from segacc.kernels.pixel import cross_entropy_sum, pixel_weights
from segacc.model.contract import Logits
from segacc.model.transformers_model import TransformersModel


@dataclass(frozen=True)
class Semantic:
    """Cross-entropy of the logits and, times `auxiliary`, of the earlier ones."""

    class_weights: Sequence[float] | None
    """K factors, or None for 1 each."""
    auxiliary: float = 0.0

    def count(self, labels: Tensor) -> Tensor:
        """Sum the class weights of labelled pixels in labels (N, H, W): a float32 scalar."""
        return pixel_weights(labels, self._weights(labels)).sum()

    def sum(self, maps: Maps, labels: Tensor) -> Tensor:
        """Sum over pixels."""
        weights = self._weights(labels)
        total = cross_entropy_sum(maps.main, labels, class_weights=weights)
        if maps.auxiliary is None:
            return total
        early = cross_entropy_sum(maps.auxiliary, labels, class_weights=weights)
        return total + self.auxiliary * early

    def _weights(self, beside: Tensor) -> Tensor | None:
        given = self.class_weights
        return torch.tensor(given, device=beside.device) if given else None


@dataclass(frozen=True)
class Boundary:
    """Binary cross-entropy of the boundary head, times `weight`."""

    weight: float

    def count(self, labels: Tensor) -> Tensor:
        """Count the images of labels (N, H, W) with labelled pixels: a float32 scalar."""
        return (labels != IGNORE).flatten(1).any(1).sum().float()

    def sum(self, maps: Maps, labels: Tensor) -> Tensor:
        """Sum over images."""
        assert maps.boundary is not None
        return self.weight * boundary_cross_entropy_sum(maps.boundary, labels)


@dataclass(frozen=True)
class BoundarySemantic(Semantic):
    """Cross-entropy of the logits where the boundary head is sure of a boundary."""

    def count(self, labels: Tensor) -> Tensor:
        """Count the images with a labelled pixel whose class has a weight: a float32 scalar."""
        return (pixel_weights(labels, self._weights(labels)) > 0).flatten(1).any(1).sum().float()

    def sum(self, maps: Maps, labels: Tensor) -> Tensor:
        """Sum over images."""
        return boundary_semantic_sum(maps, labels, class_weights=self._weights(labels))


class BoundaryModel(TransformersModel):
    """A network whose `maps` has the logits of a boundary head, unless its config's weight is 0.

    With that head it brings three losses in place of `--loss`: `semantic`, the cross-entropy of
    main and auxiliary logits; `boundary`, the binary cross-entropy of the boundary head; and
    `boundary_semantic`, the cross-entropy of the pixels that this head puts on a boundary.
    """

    class_weighted = True

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to Logits; in training `queries` are Maps."""
        if not (self.training and self.network.config.boundary_loss_weight):
            return super().forward(images)
        maps = self.network.maps(images, heads=True)
        return Logits(maps.main, queries=maps)

    def losses(self, facts: Facts) -> dict[str, LossTerm]:
        """Return the three losses; none without a boundary head."""
        config = self.network.config
        if not config.boundary_loss_weight:
            return {}
        return {
            "semantic": Semantic(facts.class_weights, auxiliary=config.auxiliary_loss_weight),
            "boundary": Boundary(config.boundary_loss_weight),
            "boundary_semantic": BoundarySemantic(facts.class_weights),
        }
