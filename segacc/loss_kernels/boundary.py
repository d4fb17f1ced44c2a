"""The boundary loss: how far the probability lies from where the label has its class."""

import math

import torch
from torch import Tensor

from segacc.functional import summed
from segacc.labels import IGNORE
from segacc.loss_kernels.region import present_classes

BLOCK = 2**22
"""Squared distances that are compared at a time: 16 MiB of float32."""


def boundary_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the boundary loss over images and the classes in their labels, at the labels' full size.

    The loss of a class in an image is the mean over its pixels that are not ignored of phi (p - y),
    with softmax probabilities p, labels y of 0 or 1 and phi the signed distance in pixels from the
    class: outside to its nearest pixel, inside minus that to the nearest pixel of another class,
    plus 1, so that the pixels at the edge count 0 (Kervadec et al. 2019, equation 4, and `phi` as
    their code has it). Their equation 5 leaves out the term phi y, which no network changes; with
    it the loss is 0 for a perfect prediction and never below. An image of one class has no
    boundary, and adds nothing.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.

    Returns:
        A float32 scalar in pixels; 0 with zero gradients when every pixel is ignored.
    """

    def term(full: Tensor, label: Tensor) -> Tensor:
        total = full[:0].sum()
        present = present_classes(label, full.shape[1])
        for chances, truth, here in zip(full.softmax(1), label, present, strict=True):
            classes = here.nonzero()[:, 0]
            if len(classes) > 1:
                total = total + _of_image(chances, truth, classes)
        return total

    return summed(term, logits, labels)


def _of_image(chances: Tensor, label: Tensor, classes: Tensor) -> Tensor:
    """Sum over the classes (C,) of one image: probabilities (K, H, W), label (H, W)."""
    away = distances(label == classes[:, None, None]).to(chances.dtype)  # (C, H, W)
    depth = away.where(away > 0, math.inf).amin(0) - 1  # a pixel has distance 0 from its own class
    valid = label != IGNORE
    right = chances.gather(0, label.where(valid, 0)[None])[0]
    wrong = (away * chances[classes]).sum(0) + depth * (1 - right)
    return (wrong * valid).sum() / valid.sum()


def boundary_count(labels: Tensor, num_classes: int) -> Tensor:
    """Count the classes in each of the labels (N, H, W) that has several, summed: int64 scalar."""
    classes = present_classes(labels, num_classes).sum(1)
    return (classes * (classes > 1)).sum()


def distances(inside: Tensor) -> Tensor:
    """Measure how far each pixel is from the nearest True one: Euclidean, between pixel centres.

    Exact, on any device: along columns first, then over all squares along rows.

    Args:
        inside: (C, H, W) bool, some pixel of each map True.

    Returns:
        (C, H, W) float32 in pixels, 0 where `inside`.
    """
    if inside.shape[-1] > inside.shape[-2]:  # the second pass takes the square of the width
        return distances(inside.mT).mT
    height, width = inside.shape[-2:]
    far = float(height + width)  # farther than any pixel is
    rows = torch.arange(height, dtype=torch.float32, device=inside.device)[:, None]
    above = rows.where(inside, -far).cummax(-2).values
    below = rows.where(inside, height + far).flip(-2).cummin(-2).values.flip(-2)
    squares = torch.minimum(rows - above, below - rows).square().flatten(0, 1)  # (C H, W)
    columns = torch.arange(width, dtype=torch.float32, device=inside.device)
    across = (columns[:, None] - columns).square()  # (W, W)
    parts = torch.split(squares, max(1, BLOCK // width**2))
    nearest = torch.cat([(part[:, None] + across).amin(-1) for part in parts])
    return nearest.sqrt().view(inside.shape)
