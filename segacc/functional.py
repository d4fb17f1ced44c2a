"""The hot kernels: resize + loss, resize + argmax, blended windows, confusion."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segacc.labels import IGNORE

CHUNK = 2**26
"""Elements of full-size logits that exist at a time: 256 MiB of float32."""


def widened(logits: Tensor) -> Tensor:
    """Return logits as float32; float64 stays as it is."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits (N, K, h, w) to (N, K, H, W) `widened`: bilinear, corners not aligned."""
    if logits.shape[-2:] == size:
        return widened(logits)
    return F.interpolate(widened(logits), size=size, mode="bilinear", align_corners=False)


def resize_and_cut(logits: Tensor, size: tuple[int, int], extent: tuple[float, float]) -> Tensor:
    """Resize logits (N, K, h, w) of a padded image, and cut off the padding.

    Args:
        logits: (N, K, h, w) float.
        size: (H, W) in pixels.
        extent: height and width that the logits reach over, in pixels of the result, also between
            two pixels; not less than `size`.

    Returns:
        (N, K, H, W) `widened`.
    """
    height, width = extent
    if height == int(height) and width == int(width):
        full = resize(logits, (int(height), int(width)))
    else:  # torch rounds h * scale down to pixels: the scale must not come out too low
        scale = tuple(
            side * (1 + 1e-9) / given for side, given in zip(extent, logits.shape[-2:], strict=True)
        )
        full = F.interpolate(
            widened(logits), scale_factor=scale, mode="bilinear", align_corners=False
        )
    return full[..., : size[0], : size[1]]


Term = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, K, H, W) `widened`, at full size, and labels (n, H, W) to a sum over the images; it
must depend on the logits, also where every pixel is ignored."""


def summed(term: Term, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum a term over images (N, K, h, w) at the labels' size, a few images at a time.

    The gradient is computed together with the value, so full-size logits never exist for all. The
    term is computed as `widened` says, whatever mixed precision is on.
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


def resized_argmax(
    logits: Tensor, size: tuple[int, int], *, extent: tuple[float, float] | None = None
) -> Tensor:
    """Return each pixel's class at `size`: argmax of the resized logits, never holding them all.

    Classes are resized a few at a time beside a running maximum. The result is that of
    `resize(logits, size).argmax(1)`, the first of equal classes winning; where several chunks are
    needed, torch may round a part otherwise than the whole, in the last bit of a float32.

    Args:
        logits: (N, K, h, w) float.
        size: (H, W) in pixels.
        extent: height and width that the logits reach over, as in `resize_and_cut`; default `size`.

    Returns:
        (N, H, W) uint8.
    """
    height, width = extent or size
    step = max(1, CHUNK // math.ceil(logits.shape[0] * height * width))
    logits = logits.contiguous()
    best = winner = torch.empty(0)
    for first in range(0, logits.shape[1], step):
        part = logits[:, first : first + step]
        full = resize_and_cut(part, size, extent) if extent else resize(part, size)
        value, index = full.max(dim=1)
        if first == 0:
            best, winner = value, index.to(torch.uint8)
            continue
        higher = value > best
        best = torch.where(higher, value, best)
        winner = torch.where(higher, (index + first).to(torch.uint8), winner)
    return winner


def blended_bands(
    windows: Iterable[Tensor],
    tops: Sequence[int],
    lefts: Sequence[int],
    crop: tuple[int, int],
    size: tuple[int, int],
) -> Iterator[Tensor]:
    """Average the logits of overlapping windows, at full size, each pixel over those that cover it.

    Rows are handed out as soon as no later window touches them, so that full-size logits exist for
    the height of one window only.

    Args:
        windows: logits (1, K, h, w) of each window, row by row.
        tops: first row of the windows of each row, ascending from 0 without gaps.
        lefts: first column of the windows of each column, the same way.
        crop: (height, width) of a window.
        size: (H, W) that is handed out; windows may reach beyond it.

    Yields:
        (K, rows, W) float32, from top to bottom, H rows in all.
    """
    source, width = iter(windows), lefts[-1] + crop[1]
    rows, columns = _coverage(tops, crop[0]), _coverage(lefts, crop[1])
    total = torch.empty(0)
    for top, after in zip(tops, [*tops[1:], size[0]], strict=True):
        for left in lefts:
            logits = resize(next(source), crop)[0]
            if not total.numel():
                total = logits.new_zeros(logits.shape[0], crop[0], width)
            total[..., left : left + crop[1]] += logits
        done = after - top
        counts = rows[top:after, None] * columns[: size[1]]
        yield total[:, :done, : size[1]] / counts.to(total.device)
        total = torch.cat([total[:, done:], torch.zeros_like(total[:, :done])], dim=1)


def _coverage(starts: Sequence[int], length: int) -> Tensor:
    """Count at each place the windows of `length` that cover it: int64."""
    counts = torch.zeros(starts[-1] + length, dtype=torch.int64)
    for start in starts:
        counts[start : start + length] += 1
    return counts


def resized_bands_argmax(
    bands: Iterable[Tensor], given: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Return `resized_argmax` of logits that come in bands of rows, keeping few rows at a time.

    Args:
        bands: (K, rows, w) float32 from top to bottom, h rows in all.
        given: (h, w).
        size: (H, W) in pixels.

    Returns:
        (H, W) uint8.
    """
    above, below, share = _neighbours(given[0], size[0])
    kept, first, ready, decided = torch.empty(0), 0, 0, []
    for band in bands:  # `kept` are the rows from `first` on that are still needed
        kept = torch.cat([kept, band], dim=1) if kept.numel() else band
        last, ready = ready, int((below < first + kept.shape[1]).sum())
        step = max(1, CHUNK // (kept.shape[0] * max(given[1], size[1])))
        for start in range(last, ready, step):
            ys = slice(start, min(start + step, ready))
            upper, lower = (
                kept.index_select(1, (near[ys] - first).to(kept.device)) for near in (above, below)
            )
            rows = torch.lerp(upper, lower, share[ys, None].to(kept.device))  # (K, ys, w)
            decided.append(resized_argmax(rows[None], (rows.shape[1], size[1]))[0])
        done = int(above[ready]) if ready < size[0] else given[0]
        drop = min(done - first, kept.shape[1])
        kept, first = kept[:, drop:], first + drop
    return torch.cat(decided)


def _neighbours(given: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the rows above and below each of `size` resized rows, and the lower one's share."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * given / size - 0.5
    place = place.clamp(0, given - 1)
    above = place.floor()
    return above.long(), place.ceil().long(), (place - above).float()


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
