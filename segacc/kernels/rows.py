"""Resize + loss for sums over pixels, a few rows of an image at a time.

The full-size logits of an image never exist: its logits are resized to the labels' width, and then,
by a product with the weights of the bilinear interpolation, to a few rows of full height. These
rows stay in the processor's cache, and the gradient is formed from them at once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segacc.kernels.bounds import Taps
from segacc.kernels.resize import Term, summed, widened

CACHED = 2**19
"""Elements of the rows of full-size logits at a time: 2 MiB of float32."""
FEW = 4
"""Images whose full-size logits are at most so many times as large are not divided."""

RowTerm = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
"""Function of rows of logits (r, K, W), which it may overwrite, of their labels (r, W), and of
whether a gradient is needed; returns the sum over the pixels, and its gradient (r, K, W)."""


def summed_by_rows(term: RowTerm, plain: Term, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum a loss over the pixels of images (N, K, h, w) at the labels' size.

    Args:
        term: the loss of some rows.
        plain: the same for whole images: for few classes, for which it is faster, and on other
            devices, where many small kernels take longer.
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
    """
    few = logits.shape[1] * labels[0].numel() <= FEW * CACHED
    if few or logits.device.type != "cpu":
        return summed(plain, logits, labels)
    total: Tensor = _SummedByRows.apply(term, logits, labels)
    return total


def by_autograd(plain: Term) -> RowTerm:
    """Return the rows' form of a term that is a sum over pixels."""

    def term(rows: Tensor, label: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():
            rows.requires_grad_(wanted)
            loss = plain(rows[:, :, None], label[:, None])
        return loss.detach(), torch.autograd.grad(loss, rows)[0] if wanted else None

    return term


class _SummedByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: RowTerm, logits: Tensor, labels: Tensor) -> Tensor:
        wanted, total = logits.requires_grad, widened(logits.new_zeros(()))
        gradients = torch.empty_like(logits) if wanted else None
        with torch.autocast(logits.device.type, enabled=False):
            for index, (image, label) in enumerate(zip(logits, labels, strict=True)):
                image = image.detach()
                with torch.enable_grad():
                    leaf = image.requires_grad_(wanted)
                    wide = widest(leaf, label.shape[1])
                gradient = wide.new_zeros(wide.shape) if wanted else None
                for weights, near, here in windows(wide, label.shape[0]):
                    rows = torch.mm(weights, wide.detach()[near].flatten(1)).view(
                        -1, *wide.shape[1:]
                    )
                    loss, change = term(rows, label[here], wanted)
                    total += loss
                    if gradient is not None and change is not None:
                        gradient[near].view(weights.shape[1], -1).addmm_(
                            weights.T, change.flatten(1)
                        )
                if gradients is not None:
                    gradients[index] = torch.autograd.grad(wide, leaf, gradient)[0]
        ctx.save_for_backward(*(() if gradients is None else (gradients,)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.saved_tensors[0] * grad, None


def widest(image: Tensor, width: int) -> Tensor:
    """Resize logits (K, h, w) to the labels' width, row by row: (h, K, W) `widened`."""
    rows = widened(image).transpose(0, 1).contiguous()[:, :, None]  # (h, K, 1, w)
    if width != image.shape[2]:
        rows = F.interpolate(rows, size=(1, width), mode="bilinear", align_corners=False)
    return rows[:, :, 0].contiguous()


def windows(wide: Tensor, height: int) -> Iterator[tuple[Tensor, slice, slice]]:
    """Yield the bilinear interpolation of a few rows each, from (h, K, W) to the labels' height.

    Yields:
        Weights (r, s), the s rows of `wide` that they are for, and the r rows of the result.
    """
    low, share = Taps.of(wide.shape[0], height, height, wide.dtype)
    step = max(1, CACHED // (wide.shape[1] * wide.shape[2]))
    for start in range(0, height, step):
        here = slice(start, min(start + step, height))
        first, last = int(low[here][0]), min(int(low[here][-1]) + 2, wide.shape[0])
        upper = (low[here] - first)[:, None]
        weights = wide.new_zeros(here.stop - start, last - first)
        lower = (upper + 1).clamp(max=last - first - 1)  # the last row has none below it
        weights.scatter_add_(1, upper, 1 - share[here][:, None])
        weights.scatter_add_(1, lower, share[here][:, None])
        yield weights, slice(first, last), here
