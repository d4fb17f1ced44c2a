"""Losses of logits at full size, a few rows of an image at a time; see `segacc.kernels.bands`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segacc.contracts import IGNORE
from segacc.kernels import bands
from segacc.kernels.bands import Resized, widened
from segacc.kernels.resize import Term, summed

ImageLoss = Callable[[Resized, Tensor], Tensor]
"""Function of the logits of an image and its labels (H, W) that returns a sum. It goes through the
bands once or several times; the last time it adds the gradient of each, if one is wanted."""

RowTerm = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
"""Function of rows of logits (r, K, W), which it may overwrite, of their labels (r, W), and of
whether a gradient is needed; returns the sum over the pixels, and its gradient (r, K, W)."""


def summed_by_rows(loss: ImageLoss, plain: Term, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum a loss over images (N, K, h, w) at the labels' size.

    Args:
        loss: the loss of an image, by rows.
        plain: the same for whole images: for those that fit the cache, and on other devices, where
            many small kernels take longer.
        logits: (N, K, h, w) float.
        labels: (N, H, W) int64, 255 ignored.
    """
    small = logits.shape[1] * labels[0].numel() <= bands.CACHED
    if small or logits.device.type != "cpu":
        return summed(plain, logits, labels)
    total: Tensor = _SummedByRows.apply(loss, logits, labels)
    return total


class _SummedByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: ImageLoss, logits: Tensor, labels: Tensor) -> Tensor:
        total = widened(logits.new_zeros(()))
        gradients = torch.zeros_like(logits) if logits.requires_grad else None
        with torch.autocast(logits.device.type, enabled=False):
            for index, (image, label) in enumerate(zip(logits.detach(), labels, strict=True)):
                gradient = None if gradients is None else gradients[index]
                size = (label.shape[0], label.shape[1])
                total += loss(Resized(image, size, gradient=gradient), label)
        ctx.save_for_backward(*(() if gradients is None else (gradients,)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.saved_tensors[0] * grad, None


def of_rows(term: RowTerm) -> ImageLoss:
    """Return the loss of an image whose pixels do not depend on each other."""

    def loss(image: Resized, label: Tensor) -> Tensor:
        total = widened(image.logits.new_zeros(()))
        for rows, here in image.bands():
            value, change = term(rows, label[here], image.gradient is not None)
            total += value
            if change is not None:
                image.add(change)
        return total

    return loss


def by_autograd(plain: Term) -> RowTerm:
    """Return the rows' form of a term that is a sum over pixels."""

    def term(rows: Tensor, label: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():
            rows.requires_grad_(wanted)
            loss = plain(rows[:, :, None], label[:, None])
        return loss.detach(), torch.autograd.grad(loss, rows)[0] if wanted else None

    return term


class Softmaxed(NamedTuple):
    """Rows of pixels with the softmax of their logits."""

    powers: Tensor
    """(r, K, W) exp(logit - largest logit of the pixel)."""
    total: Tensor
    """(r, 1, W) their sum over the classes."""
    truth: Tensor
    """(r, 1, W) int64, the class of the label; 0 if ignored."""
    counted: Tensor
    """(r, 1, W) 1, or 0 if ignored."""
    costs: Tensor
    """(r, 1, W) the cross-entropy; 0 if ignored."""
    mean: Tensor
    """(r, 1, W) the sum over the classes of their shares times the logarithm of `powers`, or 0."""

    @classmethod
    def of(cls, rows: Tensor, labels: Tensor, shares: Tensor | None = None) -> "Softmaxed":
        """Return the softmax of rows (r, K, W), which are overwritten, and labels (r, W).

        Args:
            rows: logits.
            labels: int64, 255 ignored.
            shares: (K,) a factor of each class for `mean`.
        """
        valid = (labels != IGNORE)[:, None]
        counted, truth = valid.to(rows.dtype), labels[:, None].where(valid, 0)
        rows -= rows.amax(1, keepdim=True)
        picked = rows.gather(1, truth)
        mean = counted * 0 if shares is None else torch.matmul(shares, rows)[:, None] * counted
        total = rows.exp_().sum(1, keepdim=True)
        return cls(rows, total, truth, counted, (total.log() - picked) * counted, mean)

    def gradient(self, slope: Tensor) -> Tensor:
        """Return the gradient (r, K, W) of the sum of `slope` (r, 1, W) times `costs`.

        `powers` are overwritten.
        """
        rows = self.powers.mul_(slope / self.total)
        return rows.scatter_add_(1, self.truth, -slope)
