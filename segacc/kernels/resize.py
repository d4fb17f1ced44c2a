"""Combined kernels: resize + loss, resize + argmax; and confusion counts."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segacc.contracts import IGNORE
from segacc.kernels import bands
from segacc.kernels.bands import Resized
from segacc.kernels.bands import widened as widened
from segacc.kernels.bounds import argmax_by_bounds, best

CHUNK = 2**26
"""Maximum elements of full-size logits in memory at a time: 256 MiB of float32."""
MANY = 16
"""Classes from which on bounds, and bands of rows, are faster than whole classes, on a CPU."""
ENLARGED = 2
"""Pixels per logit of a class from which on they are, too."""


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits (N, K, h, w) to (N, K, H, W) `widened`: bilinear, corners not aligned."""
    if logits.shape[-2:] == size:
        return widened(logits)
    return F.interpolate(widened(logits), size=size, mode="bilinear", align_corners=False)


def resize_to_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Resize logits (N, K, h, w) to the size of labels (N, H, W), as in `resize`: (N, K, H, W).

    A loss gets logits at the resolution of the decoder. For large images, `summed` needs less
    memory.
    """
    height, width = labels.shape[-2:]
    return resize(logits, (height, width))


def resize_and_cut(logits: Tensor, size: tuple[int, int], extent: tuple[float, float]) -> Tensor:
    """Resize logits (N, K, h, w) of a padded image, and crop the padding.

    Args:
        logits: (N, K, h, w) float.
        size: (H, W) in pixels.
        extent: height and width that the logits cover, in pixels of the result, possibly
            fractional; at least `size`.

    Returns:
        (N, K, H, W) `widened`.
    """
    height, width = extent
    if height == int(height) and width == int(width):
        full = resize(logits, (int(height), int(width)))
    else:  # torch rounds h * scale down, so the scale must not be too small
        scale = tuple(
            side * (1 + 1e-9) / given for side, given in zip(extent, logits.shape[-2:], strict=True)
        )
        full = F.interpolate(
            widened(logits), scale_factor=scale, mode="bilinear", align_corners=False
        )
    return full[..., : size[0], : size[1]]


Term = Callable[[Tensor, Tensor], Tensor]
"""Function of `widened` logits (n, K, H, W) at full size and labels (n, H, W) that returns a sum
over the images; it must depend on the logits, even if all pixels are ignored."""


def summed(term: Term, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum a term over images (N, K, h, w) at the labels' size, a few images at a time.

    The gradient is computed together with the value, so full-size logits never exist for all
    images. The term is computed in the dtype of `widened`, even with mixed precision.
    """
    total: Tensor = _Summed.apply(term, logits, labels)
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Term, logits: Tensor, labels: Tensor) -> Tensor:
        height, width = labels.shape[-2:]
        step = max(1, CHUNK // (logits.shape[1] * height * width))
        total, gradients = widened(logits.new_zeros(())), []
        for part, label in zip(torch.split(logits, step), torch.split(labels, step), strict=True):
            with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
                leaf = part.detach().requires_grad_(logits.requires_grad)
                loss = term(resize(leaf, (height, width)), label)
            if logits.requires_grad:
                gradients.append(torch.autograd.grad(loss, leaf)[0])
            total += loss.detach()
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        return None, torch.cat(ctx.saved_tensors) * grad, None


Shares = Literal["softmax", "sum"]
"""How class values become probabilities: by a softmax, or divided by their sum."""


class Decided(NamedTuple):
    """The prediction for each pixel of N images."""

    classes: Tensor
    """(N, H, W) uint8."""
    confidence: Tensor | None = None
    """(N, H, W) float32, the probability of that class; None if not requested."""
    log_odds: Tensor | None = None
    """(N, H, W) float32, log(p / (1 - p)) of the second of two classes; None if not requested."""

    def each(self) -> "Iterator[Decided]":
        """Yield the predictions image by image, N = 1."""
        for index in range(len(self.classes)):
            one = slice(index, index + 1)
            sure, odds = (None if more is None else more[one] for more in self[1:])
            yield Decided(self.classes[one], sure, odds)

    @classmethod
    def joined(cls, parts: "Sequence[Decided]", dim: int) -> "Decided":
        """Concatenate predictions along a dimension of their tensors."""
        classes, *others = zip(*parts, strict=True)
        more = [
            None if any(one is None for one in field) else torch.cat(field, dim=dim)
            for field in others
        ]
        return cls(torch.cat(classes, dim=dim), *more)

    def cut(self, threshold: float) -> "Decided":
        """Return the second of two classes where its probability is above a threshold."""
        assert self.log_odds is not None
        second = self.log_odds > math.log(threshold / (1 - threshold))
        sure = self.confidence
        if sure is not None:
            sure = torch.where(second == (self.classes == 1), sure, 1 - sure)
        return Decided(second.to(torch.uint8), sure, self.log_odds)


def decide(
    logits: Tensor,
    size: tuple[int, int],
    *,
    extent: tuple[float, float] | None = None,
    shares: Shares | None = None,
    odds: Shares | None = None,
) -> Decided:
    """Return the argmax of the resized logits at `size`, without storing them all.

    A few classes at a time are resized and compared with a running maximum. Many classes on a CPU
    are resized a few rows at a time, and without odds and a softmax, which need all of them, only
    those that can win at a place, see `argmax_by_bounds`. The result equals
    `resize(logits, size).argmax(1)`, where the first of equal values wins, up to the last bit of a
    float32, which torch may round differently. It does not depend on `shares`.

    Args:
        logits: (N, K, h, w) float.
        size: (H, W) in pixels.
        extent: height and width that the logits cover, as in `resize_and_cut`; default `size`.
        shares: how to compute probabilities for the confidence; None for no confidence.
        odds: how two classes have probabilities, for the log-odds; None for none.
    """
    if not by_rows(logits, size):
        return resized_plainly(logits, size, extent, shares, odds)
    parts = []
    for image in torch.split(logits, 1):
        if not image.sum(dtype=torch.float32).isfinite():
            parts.append(resized_plainly(image, size, extent, shares, odds))
        elif shares == "sum" and not odds:
            parts.append(decided_by_bounds(image[0], size, extent or size))
        elif shares or odds:
            parts.append(decided_by_rows(image[0], size, extent or size, shares, odds))
        else:
            classes = argmax_by_bounds(widened(image[0]), size, extent or size)
            parts.append(Decided(classes[None]))
    return Decided.joined(parts, 0)


def by_rows(logits: Tensor, size: tuple[int, int]) -> bool:
    """Return whether `decide` resizes a few rows of an image at a time."""
    num_classes, pixels = logits.shape[1], size[0] * size[1]
    large = num_classes * pixels > bands.CACHED
    enlarged = pixels >= ENLARGED * logits[0, 0].numel()
    return logits.device.type == "cpu" and num_classes >= MANY and large and enlarged


def decided_by_bounds(
    logits: Tensor, size: tuple[int, int], extent: tuple[float, float]
) -> Decided:
    """Predict an image (K, h, w) with confidence: resized scores sum to their resized sum."""
    logits = widened(logits)
    value = logits.new_empty(size)
    classes = argmax_by_bounds(logits, size, extent, value)
    total = resize_and_cut(logits.sum(0)[None, None], size, extent)[0]
    total = total.maximum(value)  # they are rounded differently
    return Decided(classes[None], share_of(value[None], total))


def decided_by_rows(
    logits: Tensor,
    size: tuple[int, int],
    extent: tuple[float, float],
    shares: Shares | None,
    odds: Shares | None,
) -> Decided:
    """Resize all classes (K, h, w) of an image, a few rows at a time; see `decide`."""
    bands = Resized(logits, size, extent=extent).bands()
    return Decided.joined([of_rows(rows, shares, odds) for rows, _ in bands], 1)


def of_rows(rows: Tensor, shares: Shares | None, odds: Shares | None = None) -> Decided:
    """Predict rows of pixels from all classes (r, K, W), which are overwritten; N = 1."""
    value, sure = rows.amax(1)[None], None
    second = log_odds(rows[None, :, 0], rows[None, :, 1], odds) if odds else None
    if shares == "softmax":  # the best class contributes exp(0) to the total
        sure = (rows - value[0, :, None]).exp_().sum(1)[None].reciprocal_()
    elif shares:
        sure = share_of(value, rows.sum(1)[None])
    return Decided(best(rows, torch.arange(rows.shape[1]))[None], sure, second)


def resized_plainly(
    logits: Tensor,
    size: tuple[int, int],
    extent: tuple[float, float] | None,
    shares: Shares | None = None,
    odds: Shares | None = None,
) -> Decided:
    """Resize all classes, a few at a time; see `decide`."""
    height, width = extent or size
    step = max(1, CHUNK // math.ceil(logits.shape[0] * height * width))
    best = _Best(shares)
    for first in range(0, logits.shape[1], step):
        part = logits[:, first : first + step].contiguous()
        # Not assigned, so it is freed before the next one is allocated.
        best.see(resize_and_cut(part, size, extent) if extent else resize(part, size), first)
    if not odds:
        return Decided(best.winner, best.confidence())
    zero, one = (resize_and_cut(logits[:, k, None], size, extent or size) for k in (0, 1))
    return Decided(best.winner, best.confidence(), log_odds(zero, one, odds)[:, 0])


class _Best:
    """The best class so far of each pixel; all states are (N, H, W)."""

    def __init__(self, shares: Shares | None) -> None:
        """Initialize before the first class."""
        self.shares = shares
        self.value = self.winner = self.total = torch.empty(0)

    def see(self, full: Tensor, first: int) -> None:
        """Update with classes (N, k, H, W), numbered from `first`.

        A few rows at a time, because temporaries of `max` and `exp` are as large as their input.
        """
        if first == 0:
            self.value = torch.empty_like(full[:, 0])
            self.winner = torch.empty_like(self.value, dtype=torch.uint8)
            self.total = torch.zeros_like(self.value) if self.shares else self.total
        rows = max(1, CHUNK // 16 // full[:, :, 0].numel())
        for start in range(0, full.shape[2], rows):
            self._see(full[:, :, start : start + rows], first, slice(start, start + rows))

    def _see(self, full: Tensor, first: int, rows: slice) -> None:
        value, index = full.max(dim=1)
        winner, before = index.to(torch.uint8) + first, self.value[:, rows]
        if first:
            higher = value > before
            value = torch.where(higher, value, before)
            winner = torch.where(higher, winner, self.winner[:, rows])
        if self.shares == "softmax":
            share = (full - value[:, None]).exp_().sum(1)
            if first:
                share += self.total[:, rows] * (before - value).exp()
            self.total[:, rows] = share
        elif self.shares == "sum":
            self.total[:, rows] += full.sum(1)
        self.value[:, rows], self.winner[:, rows] = value, winner

    def confidence(self) -> Tensor | None:
        """Return the probability of the best class, (N, H, W) float32."""
        if self.shares == "softmax":  # the best class contributes exp(0) to the total
            return self.total.reciprocal_()
        return share_of(self.value, self.total) if self.shares else None


def probabilities(full: Tensor, shares: Shares) -> Tensor:
    """Convert the values of all classes (N, K, H, W) float32 to probabilities."""
    if shares == "softmax":
        return full.softmax(dim=1)
    return share_of(full, full.sum(dim=1, keepdim=True))


def log_odds(first: Tensor, second: Tensor, shares: Shares) -> Tensor:
    """Return log(p / (1 - p)) of the second of two classes from the values of both."""
    if shares == "softmax":
        return second - first
    least = torch.finfo(torch.float32).tiny
    return second.clamp(min=least).log() - first.clamp(min=least).log()


def share_of(value: Tensor, total: Tensor) -> Tensor:
    """Divide non-negative float32 values by their total; 0 if all are 0."""
    return value / total.clamp(min=torch.finfo(torch.float32).tiny)


def confusion(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count pixels by label (rows) and prediction (columns).

    Args:
        predictions: (N, H, W) integers 0..K-1.
        labels: (N, H, W) integers 0..K-1, or 255 for ignored pixels.
        num_classes: K.

    Returns:
        (K, K) int64 on the device of `labels`.
    """
    rows = num_classes + 1  # the last one counts ignored pixels
    types = (torch.uint8, torch.int16, torch.int32)  # the narrowest is the fastest
    narrow = next(one for one in types if rows * num_classes <= torch.iinfo(one).max)
    pairs = labels.where(labels != IGNORE, num_classes).to(narrow).mul_(num_classes)
    pairs += predictions.to(narrow)
    counts = torch.bincount(pairs.flatten(), minlength=rows * num_classes)
    return counts.view(rows, num_classes)[:-1]
