"""The losses of PIDNet (Xu et al., CVPR 2023, section 3.4): classes, boundaries, and both.

The authors average over the pixels of a batch; here an image is averaged over its pixels where the
divisor depends on the other images or on predictions, so a batch may be split in any way. For one
image the formulas are theirs.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.contracts import IGNORE
from segacc.kernels.pixel import cross_entropy_sum, pixel_weights
from segacc.kernels.resize import resize_to_labels

REACH = 2
"""Distance in pixels, in rows and columns, from the other class up to which a pixel is on a
boundary: it is 4 pixels wide, as by the authors' dilation with a square of 4."""
SURE = 0.8
"""Probability of a boundary above which its pixels count once more."""


class Maps(NamedTuple):
    """The logits of the heads of a network for N images."""

    main: Tensor
    """(N, K, h, w) float."""
    auxiliary: Tensor | None
    """(N, K, h, w) float, of an earlier feature map; None without that head."""
    boundary: Tensor | None
    """(N, 1, h, w) float, positive at boundaries of classes; None without that head."""


def boundaries(labels: Tensor) -> Tensor:
    """Return which pixels of labels (N, H, W) int64 are at most REACH from another class.

    Ignored pixels (255) are on no boundary, and are no class.
    """
    ignored = labels == IGNORE
    sides = torch.stack([labels.masked_fill(ignored, -1), -labels], dim=1).float()  # (N, 2, H, W)
    for window in ((2 * REACH + 1, 1), (1, 2 * REACH + 1)):
        padding = (window[0] // 2, window[1] // 2)
        sides = F.max_pool2d(sides, window, stride=1, padding=padding)
    highest, lowest = sides[:, 0], -sides[:, 1]
    return (highest != lowest) & ~ignored


def boundary_cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over images the mean weighted binary cross-entropy of boundaries, at the labels' size.

    The pixels of an image on a boundary are weighted by the share of the others, and these by the
    share of the former.

    Args:
        logits: (N, 1, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
    """
    full = resize_to_labels(logits, labels)[:, 0]
    edge, valid = boundaries(labels), labels != IGNORE
    pixels = valid.flatten(1).sum(1).clamp(min=1)[:, None, None]
    share = edge.flatten(1).sum(1)[:, None, None] / pixels
    weights = torch.where(edge, 1 - share, share) * valid / pixels
    return F.binary_cross_entropy_with_logits(full, edge.to(full.dtype), weights, reduction="sum")


def boundary_semantic_sum(
    maps: Maps, labels: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """Sum over images the mean cross-entropy of pixels whose boundary score is above SURE.

    An image without such pixels adds 0.

    Args:
        maps: with a boundary.
        labels: (N, H, W) int64, 255 ignored.
        class_weights: (K,) float32 for a weighted mean, or None.
    """
    assert maps.boundary is not None
    score = resize_to_labels(maps.boundary.detach(), labels)[:, 0].sigmoid()
    chosen = labels.where(score > SURE, IGNORE)
    total = maps.main.new_zeros((), dtype=torch.float32)
    for logits, label in zip(torch.split(maps.main, 1), torch.split(chosen, 1), strict=True):
        weight = pixel_weights(label, class_weights).sum()
        loss = cross_entropy_sum(logits, label, class_weights=class_weights)
        total = total + loss / weight.where(weight > 0, 1)
    return total
