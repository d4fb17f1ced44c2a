"""Pixel-wise losses: cross-entropy, focal, hard examples, binary."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.contracts import IGNORE
from segacc.kernels.bands import Resized
from segacc.kernels.rows import Softmaxed, by_autograd, of_rows, summed_by_rows


def cross_entropy_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum the cross-entropy over all pixels that are not ignored, at the labels' full size.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
        class_weights: (K,) float32 or None.
        label_smoothing: 0..1, as in torch.nn.functional.cross_entropy.
    """

    def plain(full: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(
            full,
            label,
            weight=None if class_weights is None else class_weights.to(full.dtype),
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=label_smoothing,
        )

    rows = partial(
        cross_entropy_of_rows, class_weights=class_weights, label_smoothing=label_smoothing
    )
    return summed_by_rows(of_rows(rows), plain, logits, labels)


def cross_entropy_of_rows(
    rows: Tensor,
    labels: Tensor,
    wanted: bool,
    *,
    class_weights: Tensor | None,
    label_smoothing: float,
) -> tuple[Tensor, Tensor | None]:
    """Sum the cross-entropy over rows of pixels, with its gradient in closed form.

    Args:
        rows: (r, K, W) logits; overwritten.
        labels: (r, W) int64, 255 ignored.
        wanted: whether to return the gradient.
        class_weights: see `cross_entropy_sum`.
        label_smoothing: see `cross_entropy_sum`.

    Returns:
        The sum, and the gradient (r, K, W).
    """
    weights = None if class_weights is None else class_weights.to(rows.dtype)
    shares = None  # of the target, for every class
    if label_smoothing:
        shares = rows.new_ones(rows.shape[1]) if weights is None else weights
        shares = shares * (label_smoothing / rows.shape[1])
    found = Softmaxed.of(rows, labels, shares)
    own = found.counted if weights is None else found.counted * weights[found.truth]
    own = own * (1 - label_smoothing)
    loss = (own * found.costs).sum()
    if shares is None:
        return loss, found.gradient(own) if wanted else None
    spread = found.counted * shares.sum()
    loss += (spread * found.total.log() - found.mean).sum()
    if not wanted:
        return loss, None
    gradient = found.powers.mul_((own + spread) / found.total)
    gradient.scatter_add_(1, found.truth, -own)
    return loss, gradient.sub_(shares[:, None] * found.counted)


CostTerm = Callable[[Tensor, Tensor], Tensor]
"""Function of the cross-entropy of each pixel, (n, H, W), 0 if ignored, and labels (n, H, W) that
returns a sum over the images."""


def summed_over_costs(
    term: CostTerm, logits: Tensor, labels: Tensor, *, apart: bool = False
) -> Tensor:
    """Sum a function of the pixels' cross-entropy over images (N, K, h, w), at the labels' size.

    By rows, the logits are resized twice: for the costs of all pixels, and for the gradient.

    Args:
        term: the function.
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
        apart: whether the function is a sum over pixels; then the logits are resized once.
    """

    def plain(full: Tensor, label: Tensor) -> Tensor:
        return term(F.cross_entropy(full, label, ignore_index=IGNORE, reduction="none"), label)

    def of_costs(costs: Tensor, label: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        leaf = costs[None].requires_grad_(wanted)
        with torch.enable_grad():
            loss = term(leaf, label[None])
        return loss.detach(), torch.autograd.grad(loss, leaf)[0][0] if wanted else None

    def rows_apart(rows: Tensor, label: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        found = Softmaxed.of(rows, label)
        loss, slope = of_costs(found.costs[:, 0], label, wanted)
        return loss, None if slope is None else found.gradient(slope[:, None])

    def rows_together(image: Resized, label: Tensor) -> Tensor:
        costs = [Softmaxed.of(rows, label[here]).costs[:, 0] for rows, here in image.bands()]
        loss, slope = of_costs(torch.cat(costs), label, image.gradient is not None)
        if slope is not None:
            for rows, here in image.bands():
                image.add(Softmaxed.of(rows, label[here]).gradient(slope[here, None]))
        return loss

    rows = of_rows(rows_apart) if apart else rows_together
    return summed_by_rows(rows, plain, logits, labels)


def focal_sum(
    logits: Tensor, labels: Tensor, *, gamma: float, class_weights: Tensor | None = None
) -> Tensor:
    """Sum -w (1 - p)^gamma log(p) over all pixels that are not ignored, at the labels' full size.

    p is the softmax probability of the label's class and w that class's weight: equation 5 of Lin
    et al. 2017, whose alpha is w, for K classes.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
        gamma: not negative; 0 is the cross-entropy.
        class_weights: (K,) float32 or None.
    """

    def term(costs: Tensor, label: Tensor) -> Tensor:
        # 1 - p, clamped above 0, where a power below 1 has an infinite slope.
        wrong = (-torch.expm1(-costs)).clamp(min=torch.finfo(costs.dtype).tiny)
        return (wrong**gamma * costs * pixel_weights(label, class_weights).to(costs.dtype)).sum()

    return summed_over_costs(term, logits, labels, apart=True)


def hard_examples_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    thresh: float,
    min_kept: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Sum over images the mean cross-entropy of their hard pixels, at the labels' full size.

    A pixel is hard if the softmax probability of its label's class is below `thresh`, or if it is
    among the fraction `min_kept` of the image's pixels with the highest loss, including ties.
    Ignored pixels, and those of a class with weight 0, are excluded.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
        thresh: 0..1.
        min_kept: above 0, at most 1.
        class_weights: (K,) float32, for a weighted mean, or None.
    """
    surest = -math.log(thresh) if thresh else math.inf  # loss of a pixel with probability thresh

    def term(costs: Tensor, label: Tensor) -> Tensor:
        weights, total = pixel_weights(label, class_weights).to(costs.dtype), costs[:0].sum()
        for cost, weight in zip(costs, weights, strict=True):
            counted = weight > 0
            if counted.any():
                cost, weight = cost[counted], weight[counted]
                weight = weight * hard(cost.detach(), surest, min_kept)
                total = total + (cost * weight).sum() / weight.sum()
        return total

    return summed_over_costs(term, logits, labels)


def hard(costs: Tensor, surest: float, min_kept: float) -> Tensor:
    """Mask of the costs (V,) that are above `surest` or among the highest: (V,) bool."""
    least = math.ceil(min_kept * len(costs))
    last = costs.kthvalue(len(costs) - least + 1).values
    return (costs > surest) | (costs >= last)


def binary_cross_entropy_sum(
    logits: Tensor, labels: Tensor, *, pos_weight: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """Sum the cross-entropy of the foreground, class 1 of 2, over all pixels not ignored.

    Its logit is the difference of the two logits, so its sigmoid is the softmax probability that
    predictions and scores use.

    Args:
        logits: (N, 2, h, w) float.
        labels: (N, H, W) int64 of 0 and 1, 255 ignored.
        pos_weight: factor for foreground pixels, above 0.
        label_smoothing: 0..1, as in torch.nn.functional.cross_entropy.
    """

    def term(full: Tensor, label: Tensor) -> Tensor:
        truth = (label == 1).to(full.dtype) * (1 - label_smoothing) + label_smoothing / 2
        costs = F.binary_cross_entropy_with_logits(
            full[:, 1] - full[:, 0],
            truth,
            pos_weight=truth.new_tensor(pos_weight),
            reduction="none",
        )
        return costs.where(label != IGNORE, 0).sum()

    return summed_by_rows(of_rows(by_autograd(term)), term, logits, labels)


def pixel_weights(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the class weight of each pixel of labels (N, H, W), 0 if ignored: float32.

    Args:
        labels: int64, 255 ignored.
        class_weights: (K,) float32, or None for 1 each.
    """
    valid = labels != IGNORE
    if class_weights is None:
        return valid.float()
    return class_weights[labels.where(valid, 0)] * valid
