"""Region losses of a class in an image: Tversky index (Dice, Jaccard) and Lovasz-Softmax."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from segacc.contracts import IGNORE
from segacc.kernels.bands import Resized
from segacc.kernels.resize import summed
from segacc.kernels.rows import Softmaxed, summed_by_rows

LEAST = 1e-6
"""Least term that is taken to a power below 1, whose slope at 0 is infinite."""


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return which classes occur in labels (N, H, W) int64, 255 ignored: (N, K) bool."""
    found = torch.zeros(len(labels), IGNORE + 1, dtype=torch.bool, device=labels.device)
    return found.scatter_(1, labels.flatten(1), True)[:, :num_classes]


def tversky_sum(
    logits: Tensor, labels: Tensor, *, alpha: float, beta: float, gamma: float = 1.0
) -> Tensor:
    """Sum 1 - Tversky index over images and the classes in their labels, at the labels' full size.

    The index of a class in an image is TP / (TP + alpha FP + beta FN) over the pixels that are not
    ignored, with softmax probabilities p and labels y of 0 or 1: TP = sum(p y), FP = sum(p (1 - y))
    and FN = sum((1 - p) y) (Salehi et al. 2017). Dice is alpha = beta = 1/2, 2 sum(p y) / (sum(p) +
    sum(y)) (Milletari et al. 2016, without squares); Jaccard, intersection over union, is 1.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
        alpha: weight of false positives, above 0.
        beta: weight of false negatives, above 0.
        gamma: each term is taken to the power 1 / gamma (Abraham and Khan 2019).
    """

    def term(full: Tensor, label: Tensor) -> Tensor:
        valid = label != IGNORE
        index = label.where(valid, 0)[:, None]
        chances = full.softmax(dim=1) * valid[:, None]
        right = chances.gather(1, index).flatten(1)
        empty = full.new_zeros(full.shape[:2])  # (n, K), as all below
        overlap = empty.scatter_add(1, index.flatten(1), right)
        area = empty.scatter_add(1, index.flatten(1), valid.flatten(1).to(full.dtype))
        return cost(overlap, chances.sum((2, 3)), area)

    def cost(overlap: Tensor, claimed: Tensor, area: Tensor) -> Tensor:
        costs, present = alpha * (claimed - overlap) + beta * (area - overlap), area > 0
        terms = costs / (overlap + costs).where(present, 1)
        if gamma != 1:
            terms = terms.clamp(min=LEAST) ** (1 / gamma)
        return (terms * present).sum()

    return summed_by_rows(partial(_tversky_by_rows, cost), term, logits, labels)


def _tversky_by_rows(
    cost: Callable[[Tensor, Tensor, Tensor], Tensor], image: Resized, label: Tensor
) -> Tensor:
    """Return the cost of an image from sums over its pixels: overlap, claimed and area, each (K,).

    The gradient needs these sums, so the logits are resized twice.
    """
    overlap, claimed, area = torch.zeros(3, len(image.logits), dtype=image.down.share.dtype)
    for rows, here in image.bands():
        found = Softmaxed.of(rows, label[here])
        share, index = found.counted / found.total, found.truth.flatten()
        claimed += torch.bmm(found.powers, share.mT).sum((0, 2))
        overlap.index_add_(0, index, (found.powers.gather(1, found.truth) * share).flatten())
        area.index_add_(0, index, found.counted.flatten())
    with torch.enable_grad():
        sums = overlap.requires_grad_(), claimed.requires_grad_()
        value = cost(*sums, area)
    if image.gradient is not None:
        own, each = torch.autograd.grad(value, sums)
        for rows, here in image.bands():
            image.add(_tversky_gradient(Softmaxed.of(rows, label[here]), own, each))
    return value.detach()


def _tversky_gradient(found: Softmaxed, own: Tensor, each: Tensor) -> Tensor:
    """Return the gradient (r, K, W) of a sum over the pixels' probabilities.

    Args:
        found: the rows, whose `powers` are overwritten.
        own: (K,) factor of the probability of the label's class.
        each: (K,) factor of the probability of any class.
    """
    chances = found.powers.mul_(found.counted / found.total)
    own = chances.gather(1, found.truth) * own[found.truth]
    mean = torch.matmul(each, chances)[:, None] + own
    return (each[:, None] - mean).mul_(chances).scatter_add_(1, found.truth, own)


def lovasz_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the Lovasz-Softmax over images and the classes in their labels, at the labels' full size.

    The loss of a class in an image is the Lovasz extension of 1 - Jaccard, at the pixels' errors
    |y - p| with softmax probabilities p and labels y of 0 or 1 (Berman et al. 2018). The errors of
    all pixels of a class are sorted, so the logits of an image are resized at once.
    """

    def term(full: Tensor, label: Tensor) -> Tensor:
        total, present = full[:0].sum(), present_classes(label, full.shape[1])
        for image, truth, here in zip(full.flatten(2), label.flatten(1), present, strict=True):
            valid = truth != IGNORE
            chances, truth = image[:, valid].softmax(0).unbind(), truth[valid]
            for k in here.nonzero()[:, 0].tolist():
                inside = truth == k
                errors = (inside.to(full.dtype) - chances[k]).abs()
                total = total + (errors * jaccard_gains(errors.detach(), inside)).sum()
        return total

    return summed(term, logits, labels)


def jaccard_gains(errors: Tensor, inside: Tensor) -> Tensor:
    """Return the growth of the Jaccard loss when each pixel fails after all with larger errors.

    Berman et al. 2018 take differences of the losses (algorithm 1); here each is a quotient of
    counts, because in float32 the difference of two similar losses loses precision.

    Args:
        errors: (V,) float.
        inside: (V,) bool, True inside the class; at least one pixel.

    Returns:
        (V,) of the dtype of `errors`.
    """
    order = errors.argsort(descending=True)
    hit = inside[order]
    area, missed = hit.sum(), hit.cumsum(0)
    overlap = (area - missed).to(errors.dtype)  # between the class and pixels that have not failed
    union = (area + (~hit).cumsum(0)).to(errors.dtype)
    # A pixel inside reduces the overlap by one, one outside adds one to the union.
    gains = torch.where(hit, 1 / union, overlap / (union * (union - 1)))
    return torch.empty_like(gains).scatter_(0, order, gains)
