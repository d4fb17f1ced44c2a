"""The boundary loss: predicted probabilities weighted by their distance to the label's boundary."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from segacc.contracts import IGNORE
from segacc.kernels.region import present_classes
from segacc.kernels.resize import CHUNK, summed

BLOCK = 2**17
"""Number of distances computed at a time on a CPU: 512 KiB of float32, which fit its cache."""


def boundary_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the boundary loss over images and the classes in their labels, at the labels' full size.

    The loss of a class in an image is the mean over its pixels that are not ignored of phi (p - y),
    with softmax probabilities p, labels y of 0 or 1 and phi the signed distance in pixels from the
    class: outside to its nearest pixel, inside minus that to the nearest pixel of another class,
    plus 1, so that the pixels at the edge count 0 (Kervadec et al. 2019, and phi as their code has
    it). They leave out the part phi y, which no network changes; with it the loss is 0 for a
    perfect prediction and never below. An ignored pixel is on no side of a boundary; an image of
    one class has none, and adds nothing. The logits of an image are resized at once: the distances
    of the classes in its label are as large.
    """

    def term(full: Tensor, label: Tensor) -> Tensor:
        present = present_classes(label, full.shape[1])
        counts = present.sum(1).tolist()
        images, classes = present.nonzero().unbind(1)  # (M,) pairs, those of an image together
        away = distances(label[images] == classes[:, None, None]).to(full.dtype)  # (M, H, W)
        parts = zip(torch.split(away, counts), torch.split(classes, counts), strict=True)
        total = full[:0].sum()
        for chances, truth, part in zip(full.softmax(1), label, parts, strict=True):
            if len(part[1]) > 1:
                total = total + _of_image(chances, truth, *part)
        return total

    return summed(term, logits, labels)


def _of_image(chances: Tensor, label: Tensor, away: Tensor, classes: Tensor) -> Tensor:
    """Sum over the classes in the label of one image.

    Args:
        chances: (K, H, W) probabilities.
        label: (H, W) int64.
        away: (C, H, W) distances from each class that is present.
        classes: (C,) int64.
    """
    depth = away.where(away > 0, math.inf).amin(0) - 1  # the distance to a pixel's own class is 0
    valid = label != IGNORE
    right = chances.gather(0, label.where(valid, 0)[None])[0]
    wrong = (away * chances[classes]).sum(0) + depth * (1 - right)
    return (wrong * valid).sum() / valid.sum()


def boundary_count(labels: Tensor, num_classes: int) -> Tensor:
    """Count the classes of all labels (N, H, W) with more than one class: int64 scalar."""
    classes = present_classes(labels, num_classes).sum(1)
    return (classes * (classes > 1)).sum()


def distances(inside: Tensor) -> Tensor:
    """Return the Euclidean distance of each pixel centre to the nearest True one.

    Exact on any device: along columns, then over squares along rows (Felzenszwalb and Huttenlocher
    2012, but testing all columns instead of their lower envelope).

    Args:
        inside: (M, H, W) bool, with at least one True pixel per map.

    Returns:
        (M, H, W) float32 in pixels, 0 where `inside`.
    """
    if inside.shape[-1] > inside.shape[-2]:  # the second pass takes the square of the width
        return distances(inside.mT).mT
    squares = _along_columns(inside).square_().flatten(0, 1)  # (M H, W)
    width = squares.shape[1]
    columns = torch.arange(width, dtype=squares.dtype, device=squares.device)
    across = (columns[:, None] - columns).square()  # (W, W)
    nearest, block = torch.empty_like(squares), BLOCK if squares.device.type == "cpu" else CHUNK
    step = max(1, block // width)
    for given, best in zip(torch.split(squares, step), torch.split(nearest, step), strict=True):
        best.copy_(given[:, :1] + across[0])
        through = torch.empty_like(best)
        for column in range(1, width):
            torch.add(given[:, column : column + 1], across[column], out=through)
            torch.minimum(best, through, out=best)
    return nearest.sqrt_().view(inside.shape)


def _along_columns(inside: Tensor) -> Tensor:
    """Distance to the nearest True pixel of the same column, (M, H, W) bool: float32.

    If there is none, it is larger than the distance to any other column.
    """
    height, width = inside.shape[-2:]
    gaps = torch.full(inside.shape, float(height + width), device=inside.device)
    gaps.masked_fill_(inside, 0)
    rows = gaps.unbind(1)
    for order in (rows, rows[::-1]):
        for last, here in pairwise(order):
            torch.minimum(here, last + 1, out=here)
    return gaps
