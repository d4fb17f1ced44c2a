"""The loss of mask classification: predicted masks are matched to the classes in the label.

Sums and divisors allow a batch to be split in any way (see `segacc.contracts.LossTerm`): the
divisor depends on labels only. transformers divides by the counts of each micro-batch, and treats
ignored pixels as background; otherwise the losses are the same.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segacc.contracts import IGNORE
from segacc.kernels.region import present_classes

CERTAIN = 1e4
"""A logit so confident that uncertainty sampling avoids its pixel."""


class Prediction(NamedTuple):
    """The output of one decoder layer for N images with Q queries."""

    classes: Tensor
    """(N, Q, K + 1) float logits; the last is "no object"."""
    masks: Tensor
    """(N, Q, h, w) float logits."""


@dataclass(frozen=True)
class Targets:
    """The classes in the label of one image, and their masks."""

    classes: Tensor
    """(T,) int64, the classes that occur, ascending."""
    masks: Tensor
    """(T, H, W) float32, 1 inside the class."""
    ignored: Tensor
    """(H, W) float32, 1 where the label is ignored."""


class Matched(NamedTuple):
    """Pairs of a query and a class in the label, M over all images; on the CPU."""

    image: Tensor
    """(M,) int64."""
    query: Tensor
    """(M,) int64."""
    target: Tensor
    """(M,) int64, index into the image's classes."""


def targets_of(labels: Tensor, num_classes: int) -> list[Targets]:
    """Split labels (N, H, W) int64 into the masks of their classes; waits for the device once."""
    targets = []
    for label, present in zip(labels, present_classes(labels, num_classes).cpu(), strict=True):
        classes = present.nonzero()[:, 0].to(labels.device)
        masks = (label == classes[:, None, None]).float()
        targets.append(Targets(classes, masks, (label == IGNORE).float()))
    return targets


class SetLoss:
    """Class, mask and dice loss of a network of transformers, summed over decoder layers.

    Subclasses define at which pixels masks are compared, and how.

    Args:
        network: a network of transformers; `weight_dict` and `criterion` have the loss weights.
        num_queries: Q.
        class_weights: K factors of the class loss, or None for 1 each. As in torch's weighted
            cross-entropy, the loss is divided by the sum of the weights of all queries' targets.
            Matching does not use them.
    """

    def __init__(
        self, network: Any, *, num_queries: int, class_weights: Sequence[float] | None = None
    ) -> None:
        """Read the loss weights; see the class."""
        self.criterion, self.matcher = network.criterion, network.criterion.matcher
        self.num_classes, self.num_queries = int(network.config.num_labels), num_queries
        self.no_object = float(network.criterion.eos_coef)
        self.class_weights = torch.tensor(class_weights or [1.0] * self.num_classes)
        self.weights = {
            "class": float(network.weight_dict["loss_cross_entropy"]),
            "mask": float(network.weight_dict["loss_mask"]),
            "dice": float(network.weight_dict["loss_dice"]),
        }
        self._seen: Callable[[], Tensor | None] = lambda: None
        self._sums: dict[str, Tensor] = {}

    def count(self, name: str, labels: Tensor) -> Tensor:
        """Return the divisor for labels (N, H, W): summed query weights, or the number of masks.

        Images whose label is all ignored are not counted. If an image has more classes than there
        are queries, the mean of their class weights is taken, as the divisor may not depend on
        which of them are matched.
        """
        present = present_classes(labels, self.num_classes)  # (N, K)
        masks = present.sum(1).float()  # (N,)
        if name != "class":
            return masks.sum()
        matched = masks.clamp(max=self.num_queries)
        total = (present * self.class_weights.to(labels.device)).sum(1)
        weights = total * matched / masks.clamp(min=1)
        weights = weights + (self.num_queries - matched) * self.no_object
        return (weights * (masks > 0)).sum()

    def sum(self, name: str, predictions: Sequence[Prediction], labels: Tensor) -> Tensor:
        """Return the weighted sum of a loss: a float32 scalar.

        All three are computed once per forward pass, with the same matching and points. Each is
        cached until it is returned, as it holds the activations of its forward pass.
        """
        if self._seen() is not predictions[0].classes or name not in self._sums:
            with torch.autocast(labels.device.type, enabled=False):
                self._sums = self._compute(predictions, labels)
            self._seen = weakref.ref(predictions[0].classes)
        return self._sums.pop(name)

    def _compute(self, predictions: Sequence[Prediction], labels: Tensor) -> dict[str, Tensor]:
        targets = targets_of(labels, self.num_classes)
        layers = [Prediction(classes.float(), masks.float()) for classes, masks in predictions]
        totals = {name: torch.zeros((), device=labels.device) for name in self.weights}
        for layer, pairs in zip(layers, self.match(layers, targets), strict=True):
            mask, dice = self._masks(layer, targets, pairs)
            found = {"class": self._classes(layer, targets, pairs), "mask": mask, "dice": dice}
            for name, weight in self.weights.items():
                totals[name] = totals[name] + weight * found[name]
        return totals

    def match(self, layers: Sequence[Prediction], targets: Sequence[Targets]) -> Iterator[Matched]:
        """Match queries and classes with minimal total cost, image by image, for each layer.

        The costs of all layers are put in the queue of the device at once. A thread matches those
        of a layer as soon as they are known, while the device goes on with what comes after them.
        """
        counts = [len(one.classes) for one in targets]
        with ThreadPoolExecutor(max_workers=1) as thread:
            costs = [to_cpu(self.costs(layer, targets)) for layer in layers]
            found = [thread.submit(assign, one, counts, self.num_queries) for one in costs]
            for one in found:
                yield one.result()

    @torch.no_grad()
    def costs(self, layer: Prediction, targets: Sequence[Targets]) -> Tensor:
        """Return the costs of all pairs of query and class, (Q, T) of one image after the other.

        Nothing here waits for the device.
        """
        costs = map(self._cost, layer.classes, layer.masks, targets)
        return torch.cat([one.flatten() for one in costs])

    def _cost(self, classes: Tensor, masks: Tensor, one: Targets) -> Tensor:
        """Return the cost of each pair of query and class: (Q, T).

        The pixel loss is a mean over valid pixels; the dice loss sums over them.
        """
        logits, wanted, valid = self.matching_pixels(masks, one)
        inside = self.pixel_loss(logits, torch.ones_like(logits)) * valid
        outside = self.pixel_loss(logits, torch.zeros_like(logits)) * valid
        pixels = (inside @ wanted.T + outside @ (1 - wanted).T) / valid.sum().clamp(min=1)
        chances, area = logits.sigmoid() * valid, wanted * valid
        dice = 1 - (2 * chances @ area.T + 1) / (chances.sum(1)[:, None] + area.sum(1) + 1)
        cost = (
            self.matcher.cost_mask * pixels
            - self.matcher.cost_class * classes.softmax(-1)[:, one.classes]
            + self.matcher.cost_dice * dice
        )
        most = torch.finfo(cost.dtype).max
        return torch.nan_to_num(cost, nan=most, posinf=most, neginf=most)

    def _classes(self, layer: Prediction, targets: Sequence[Targets], pairs: Matched) -> Tensor:
        """Sum the weighted cross-entropy of all queries of images with labelled pixels."""
        device = layer.classes.device
        weight = F.pad(self.class_weights.to(device), (0, 1), value=self.no_object)
        wanted = torch.full(layer.classes.shape[:2], self.num_classes, device=device)  # (N, Q)
        classes = [one.classes[pairs.target[pairs.image == k]] for k, one in enumerate(targets)]
        wanted[pairs.image, pairs.query] = torch.cat(classes)
        loss = F.cross_entropy(layer.classes.mT, wanted, weight=weight, reduction="none")
        labelled = torch.tensor([len(one.classes) > 0 for one in targets], device=device)
        return (loss * labelled[:, None]).sum()

    def _masks(
        self, layer: Prediction, targets: Sequence[Targets], pairs: Matched
    ) -> tuple[Tensor, Tensor]:
        """Sum the pixel loss (mean over each mask's valid pixels) and the dice loss."""
        masks = layer.masks[pairs.image, pairs.query]  # (M, h, w)
        if not len(masks):
            return masks.sum(), masks.sum()
        wanted = [one.masks[pairs.target[pairs.image == k]] for k, one in enumerate(targets)]
        ignored = torch.stack([one.ignored for one in targets])[pairs.image]
        logits, wanted_pixels, valid = self.loss_pixels(masks, torch.cat(wanted), ignored)
        pixels = (self.pixel_loss(logits, wanted_pixels) * valid).sum(1)
        mask = (pixels / valid.sum(1).clamp(min=1)).sum()
        inside, area = logits.sigmoid() * valid, wanted_pixels * valid
        overlap, both = (inside * area).sum(1), inside.sum(1) + area.sum(1)
        return mask, (1 - (2 * overlap + 1) / (both + 1)).sum()

    def matching_pixels(self, masks: Tensor, one: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Select P pixels of one image: logits (Q, P), targets (T, P) and validity (P,)."""
        raise NotImplementedError

    def loss_pixels(
        self, masks: Tensor, wanted: Tensor, ignored: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Select P pixels for each mask: logits, targets and validity, (M, P) each.

        Args:
            masks: (M, h, w) logits.
            wanted: (M, H, W), 1 inside.
            ignored: (M, H, W), 1 for ignored pixels.
        """
        raise NotImplementedError

    def pixel_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Compare logits (M, P) with targets (M, P): (M, P)."""
        raise NotImplementedError


class PointLoss(SetLoss):
    """Cross-entropy and dice at sampled points (Cheng et al., Mask2Former, CVPR 2022, section 3.3).

    A point whose interpolation includes an ignored pixel has no weight.
    """

    def matching_pixels(self, masks: Tensor, one: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Draw points that are used for all masks of the image."""
        points = torch.rand(1, self.matcher.num_points, 2, device=masks.device)
        both = sample(torch.cat([one.masks, one.ignored[None]])[None], points)[0]  # (T + 1, P)
        return sample(masks[None], points)[0], both[:-1], both[-1] == 0

    def loss_pixels(
        self, masks: Tensor, wanted: Tensor, ignored: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw points for each mask, mostly at uncertain and rarely at ignored pixels."""
        criterion = self.criterion
        with torch.no_grad():
            blank = F.interpolate(ignored[:, None], size=masks.shape[-2:], mode="area") > 0.999
            points = criterion.sample_points_using_uncertainty(
                masks[:, None].masked_fill(blank, CERTAIN),
                criterion.calculate_uncertainty,
                criterion.num_points,
                criterion.oversample_ratio,
                criterion.importance_sample_ratio,
            )
            at_points = sample(torch.stack([wanted, ignored], dim=1), points)  # (M, 2, P)
        return sample(masks[:, None], points)[:, 0], at_points[:, 0], at_points[:, 1] == 0

    def pixel_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Compute the cross-entropy."""
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


class DenseLoss(SetLoss):
    """Focal and dice loss at all pixels (Cheng et al., MaskFormer, NeurIPS 2021, section 3.3)."""

    def matching_pixels(self, masks: Tensor, one: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Return all pixels at mask resolution; targets are resized with nearest."""
        both = torch.cat([one.masks, one.ignored[None]])[None]
        both = F.interpolate(both, size=masks.shape[-2:], mode="nearest")[0].flatten(1)
        return masks.flatten(1), both[:-1], both[-1] == 0

    def loss_pixels(
        self, masks: Tensor, wanted: Tensor, ignored: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return all pixels at label resolution."""
        size = (wanted.shape[-2], wanted.shape[-1])
        full = F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)
        return full.flatten(1), wanted.flatten(1), ignored.flatten(1) == 0

    def pixel_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Compute the focal loss with alpha 0.25, gamma 2."""
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        inside = logits.sigmoid()
        wrong = inside + wanted - 2 * inside * wanted  # 1 - p_t
        return (0.75 - 0.5 * wanted) * wrong**2 * loss


def to_cpu(costs: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; return what waits for the copy and returns it."""
    if costs.device.type != "cuda":
        found = costs.cpu()
        return lambda: found
    found = costs.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(costs.device).record_event()

    def wait() -> Tensor:
        copied.synchronize()
        return found

    return wait


def assign(costs: Callable[[], Tensor], counts: Sequence[int], num_queries: int) -> Matched:
    """Match queries and classes of each image, from what returns the costs of all images.

    Args:
        costs: returns (Q, T) of all images, one after the other.
        counts: T of each image.
        num_queries: Q.
    """
    pairs = [torch.zeros(3, 0, dtype=torch.int64)]
    parts = torch.split(costs(), [num_queries * count for count in counts])
    for index, (part, count) in enumerate(zip(parts, counts, strict=True)):
        cost = part.view(num_queries, count).numpy()
        rows, columns = map(torch.from_numpy, linear_sum_assignment(cost))
        pairs.append(torch.stack([torch.full_like(rows, index), rows, columns]))
    return Matched(*torch.cat(pairs, dim=1))


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps (M, C, H, W) at points (M, P, 2) in 0..1, bilinearly: (M, C, P)."""
    from transformers.models.mask2former.modeling_mask2former import sample_point

    return sample_point(maps, points, align_corners=False)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Term:
    """One of the losses of a SetLoss, as a LossTerm."""

    losses: SetLoss
    name: str

    def count(self, labels: Tensor) -> Tensor:
        """Return the divisor for labels (N, H, W) int64."""
        return self.losses.count(self.name, labels)

    def sum(self, predictions: Sequence[Prediction], labels: Tensor) -> Tensor:
        """Sum over decoder layers and images."""
        return self.losses.sum(self.name, predictions, labels)
