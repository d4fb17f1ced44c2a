"""The hot kernels: chunked resize + cross-entropy, chunked resize + argmax, confusion."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segacc.labels import IGNORE

CHUNK = 2**26
"""Elements of full-size logits that exist at a time: 256 MiB of float32."""


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits (N, K, h, w) to (N, K, H, W) float32: bilinear, corners not aligned."""
    if logits.shape[-2:] == size:
        return logits.float()
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def cross_entropy_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum the cross-entropy over all pixels that are not ignored, at the labels' full size.

    The full-size logits exist for a few images at a time only: the gradient is computed together
    with the
    value, chunk by chunk, so memory does not grow with N.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
        class_weights: (K,) float32 or None.
        label_smoothing: 0..1, as in torch.nn.functional.cross_entropy.

    Returns:
        A float32 scalar; 0 with zero gradients when every pixel is ignored.
    """
    total: Tensor = _CrossEntropySum.apply(logits, labels, class_weights, label_smoothing)
    return total


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        class_weights: Tensor | None,
        label_smoothing: float,
    ) -> Tensor:
        height, width = labels.shape[-2:]
        step = max(1, CHUNK // (logits.shape[1] * height * width))
        total, gradients = torch.zeros((), device=logits.device), []
        for part, label in zip(torch.split(logits, step), torch.split(labels, step), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(logits.requires_grad)
                loss = F.cross_entropy(
                    resize(leaf, (height, width)),
                    label,
                    weight=class_weights,
                    ignore_index=IGNORE,
                    reduction="sum",
                    label_smoothing=label_smoothing,
                )
            if logits.requires_grad:
                gradients.append(torch.autograd.grad(loss, leaf)[0])
            total += loss.detach()
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return torch.cat(ctx.saved_tensors) * grad, None, None, None


def resized_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return each pixel's class at `size`: argmax of the resized logits, never holding them all.

    Classes are resized a few at a time beside a running maximum. The result is that of
    `resize(logits, size).argmax(1)`, the first of equal classes winning; where several chunks are
    needed, torch may round a part otherwise than the whole, in the last bit of a float32.

    Args:
        logits: (N, K, h, w) float.
        size: (H, W) in pixels.

    Returns:
        (N, H, W) uint8.
    """
    step = max(1, CHUNK // (logits.shape[0] * size[0] * size[1]))
    logits = logits.contiguous()
    best = winner = torch.empty(0)
    for first in range(0, logits.shape[1], step):
        value, index = resize(logits[:, first : first + step], size).max(dim=1)
        if first == 0:
            best, winner = value, index.to(torch.uint8)
            continue
        higher = value > best
        best = torch.where(higher, value, best)
        winner = torch.where(higher, (index + first).to(torch.uint8), winner)
    return winner


def confusion(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count pixels by label (rows) and prediction (columns).

    Args:
        predictions: (N, H, W) integers 0..K-1.
        labels: (N, H, W) integers 0..K-1, or 255 for pixels that count for nothing.
        num_classes: K.

    Returns:
        (K, K) int64 on the device of `labels`.
    """
    valid = labels != IGNORE
    pairs = labels[valid].long() * num_classes + predictions[valid].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
