"""Full-size logits a band of rows at a time: resized bands, and means over several views."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from segacc.kernels import resize as functional
from segacc.kernels.resize import Decided, Shares, decide, probabilities, resize_and_cut


def resized_bands(
    bands: Iterable[Tensor],
    given: tuple[int, int],
    size: tuple[int, int],
    *,
    extent: tuple[float, float] | None = None,
    limit: int | None = None,
) -> Iterator[Tensor]:
    """Resize bands downwards only, keeping few rows at a time.

    Args:
        bands: (N, K, rows, w) float from top to bottom, h rows in all.
        given: (h, w).
        size: (H, W) in pixels.
        extent: height and width that the bands reach over, in pixels of the result, as in
            `resize_and_cut`; default `size`.
        limit: elements at full size that are handed out at a time; default `functional.CHUNK`.

    Yields:
        (N, K, rows, w) float32, H rows in all.
    """
    if given == size == (extent or size):
        yield from bands
        return
    above, below, share = neighbours(given[0], size[0], (extent or size)[0])
    kept, first, ready = torch.empty(0), 0, 0
    for band in bands:  # `kept` are the rows from `first` on that are still needed
        kept = torch.cat([kept, band], dim=2) if kept.numel() else band
        last, ready = ready, int((below < first + kept.shape[2]).sum())
        elements = kept.shape[0] * kept.shape[1] * max(given[1], size[1])
        step = max(1, (limit or functional.CHUNK) // elements)
        for start in range(last, ready, step):
            rows = slice(start, min(start + step, ready))
            yield between(kept, above[rows] - first, below[rows] - first, share[rows])
        done = int(above[ready]) if ready < size[0] else given[0]
        drop = min(done - first, kept.shape[2])
        kept, first = kept[:, :, drop:], first + drop


@lru_cache(maxsize=16)
def neighbours(given: int, size: int, extent: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Find the rows above and below each of `size` resized rows, and the lower one's share."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * given / (extent or size) - 0.5
    place = place.clamp(0, given - 1)
    above = place.floor()
    return above.long(), place.ceil().long(), (place - above).float()


def between(logits: Tensor, above: Tensor, below: Tensor, share: Tensor) -> Tensor:
    """Mix rows of logits (N, K, h, w): (N, K, rows, w) float32."""
    upper, lower = (logits.index_select(2, rows.to(logits.device)) for rows in (above, below))
    return torch.lerp(upper.float(), lower.float(), share[:, None].to(logits.device))


def decide_bands(
    bands: Iterable[Tensor],
    given: tuple[int, int],
    size: tuple[int, int],
    shares: Shares | None = None,
) -> Decided:
    """Return `functional.decide` of logits that come in bands, see `resized_bands`."""
    parts = [
        decide(rows, (rows.shape[2], size[1]), shares=shares)
        for rows in resized_bands(bands, given, size)
    ]
    return _joined(parts)


def _joined(parts: Sequence[Decided]) -> Decided:
    """Put bands of one picture below each other."""
    confidence = [part.confidence for part in parts if part.confidence is not None]
    return Decided(
        torch.cat([part.classes for part in parts], dim=1),
        torch.cat(confidence, dim=1) if confidence else None,
    )


class View(NamedTuple):
    """The logits that one look at N images gave, in bands."""

    bands: Iterable[Tensor]
    """(N, K, rows, w) float from top to bottom."""
    given: tuple[int, int]
    """(h, w) of all bands."""
    extent: tuple[float, float]
    """Height and width that they reach over, in pixels of the original images."""
    flipped: bool = False
    """Whether the images were mirrored, left to right."""


def mean_decision(
    views: Sequence[View], size: tuple[int, int], shares: Shares, *, limit: int
) -> Decided:
    """Decide each pixel by the mean over views of its probabilities, at the original size.

    All views are read in step, a few rows at a time, so that full-size probabilities never exist
    for all rows. mmsegmentation's SegTTAModel takes the same mean.

    Args:
        views: two or more of the same images.
        size: (H, W) of the original images.
        shares: what makes probabilities of the values.
        limit: elements of each view's full-size logits that exist at a time.
    """
    first, *others = (_full_rows(view, size, limit) for view in views)
    rest, parts = [_Rows(other) for other in others], []
    for full in first:
        total = probabilities(full, shares)
        for one in rest:
            total += probabilities(one.take(full.shape[2]), shares)
        confidence, winner = total.div_(len(views)).max(dim=1)
        parts.append(Decided(winner.to(torch.uint8), confidence))
    return _joined(parts)


def _full_rows(view: View, size: tuple[int, int], limit: int) -> Iterator[Tensor]:
    """Yield a view's logits (N, K, rows, W) float32 at the original size, not mirrored."""
    found = resized_bands(view.bands, view.given, size, extent=view.extent, limit=limit)
    for rows in found:
        count = rows.shape[2]
        full = resize_and_cut(rows, (count, size[1]), (count, view.extent[1]))
        yield full.flip(-1) if view.flipped else full


class _Rows:
    """Bands (N, K, rows, W) that are taken by as many rows as are asked for."""

    def __init__(self, bands: Iterator[Tensor]) -> None:
        """Start at the top."""
        self.bands, self.rest = bands, torch.empty(0)

    def take(self, count: int) -> Tensor:
        """Return the next (N, K, count, W)."""
        found = [self.rest] if self.rest.numel() else []
        while sum(one.shape[2] for one in found) < count:
            found.append(next(self.bands))
        rows = torch.cat(found, dim=2) if len(found) > 1 else found[0]
        self.rest = rows[:, :, count:]
        return rows[:, :, :count]
