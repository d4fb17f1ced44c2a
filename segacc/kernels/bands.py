"""Bilinear resizing of one image, a few rows at a time, and the gradient of what is made of them.

The full-size logits of an image never exist: rows of the decoder's grid are resized to full width,
and a product with the weights of the interpolation makes a few rows of full height of them. These
stay in the processor's cache, as do the rows of the grid until the next ones are needed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 2**19
"""Elements of the rows of full-size logits at a time, for each thread: 2 MiB of float32."""


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Resize whole images inside the block, also on a CPU, to see the memory that a GPU needs."""
    global CACHED
    before, CACHED = CACHED, sys.maxsize
    try:
        yield
    finally:
        CACHED = before


def widened(logits: Tensor) -> Tensor:
    """Convert logits to float32; float64 is unchanged."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Taps(NamedTuple):
    """Where resized rows (or columns) lie between those of the grid."""

    low: Tensor
    """(n,) int64: the upper of the two rows."""
    share: Tensor
    """(n,) the weight of the lower one."""
    given: int
    """Number of rows of the grid."""

    @classmethod
    def of(cls, given: int, wanted: int, extent: float, dtype: torch.dtype) -> "Taps":
        """Return the taps of the first `wanted` of `extent` rows, as torch computes them.

        Corners are not aligned, and a position is rounded once to the logits' dtype.
        """
        scale = torch.tensor(given / extent, dtype=dtype).double()
        place = scale * (torch.arange(wanted, dtype=torch.float64) + 0.5) - 0.5
        place = place.to(dtype).clamp(min=0)
        low = place.long().clamp(max=given - 1)
        return cls(low, place - low, given)

    def weights(self, here: slice) -> tuple[Tensor, slice]:
        """Return the weights of some resized rows, and the rows of the grid that they are for.

        Returns:
            (r, s), the lowest row first: in this order a product rounds like torch's resizing.
        """
        low, share = self.low[here, None], self.share[here, None]
        first, last = int(low[0]), min(int(low[-1]) + 2, self.given)
        found = share.new_zeros(len(low), last - first)
        lower = (low + 1).clamp(max=last - 1)  # the last row has none below it
        found.scatter_add_(1, last - 1 - low, 1 - share)
        found.scatter_add_(1, last - 1 - lower, share)
        return found, slice(first, last)


class Resized:
    """The logits of an image at full size, a few rows at a time."""

    def __init__(
        self,
        logits: Tensor,
        size: tuple[int, int],
        *,
        extent: tuple[float, float] | None = None,
        gradient: Tensor | None = None,
    ) -> None:
        """Start at the top.

        Args:
            logits: (K, h, w) float, without gradient.
            size: (H, W) in pixels.
            extent: height and width that the logits cover, at least `size`; default `size`.
            gradient: (K, h, w), to which `add` adds; only without `extent`.
        """
        self.logits, self.size, self.gradient = logits, size, gradient
        self.width = size[1] if extent is None else extent[1]
        self.near, self.wide = slice(0, 0), torch.empty(0)
        self.slope: Tensor | None = None
        self.same = logits.shape[1] == (extent or size)[0]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self.down = Taps.of(logits.shape[1], size[0], (extent or size)[0], dtype)

    def bands(self, rows: slice = slice(None)) -> Iterator[tuple[Tensor, slice]]:
        """Yield all rows, or some, from top to bottom.

        Yields:
            Logits (r, K, W), which may be overwritten, and the rows that they are.
        """
        start, stop, _ = rows.indices(self.size[0])
        step = max(1, CACHED * torch.get_num_threads() // (len(self.logits) * self.size[1]))
        self.near, self.wide, self.slope = slice(0, 0), torch.empty(0), None
        for top in range(start, stop, step):
            here = slice(top, min(top + step, stop))
            if self.same:
                self.near = here
                yield stretched(self.logits[:, here], self.size[1], self.width).flip(0), here
                continue
            self.weights, near = self.down.weights(here)
            self._move(near)
            found = torch.mm(self.weights, self.wide.flatten(1))
            yield found.view(-1, *self.wide.shape[1:]), here
        self._finish(self.near.stop)

    def add(self, change: Tensor) -> None:
        """Add the gradient (r, K, W) of the rows that were yielded last."""
        if self.same and self.gradient is not None:
            self.gradient[:, self.near] = shrunk(change.flip(0), self.gradient.shape[2])
            return
        slope = torch.mm(self.weights.T, change.flatten(1)).view_as(self.wide)
        if self.slope is not None:  # of the rows of the grid that the band before needs as well
            slope[len(slope) - len(self.slope) :] += self.slope
        self.slope = slope

    def _move(self, near: slice) -> None:
        """Keep the rows of the grid that are still needed, and resize the next ones."""
        self._finish(near.start)
        kept = self.wide[: max(self.near.stop - near.start, 0)]
        fresh = slice(near.start + len(kept), near.stop)
        if fresh.start < fresh.stop:
            wide = stretched(self.logits[:, fresh], self.size[1], self.width)
            kept = torch.cat([wide, kept]) if len(kept) else wide
        self.near, self.wide = near, kept

    def _finish(self, first: int) -> None:
        """Store the gradient of the rows of the grid before `first`, which no other band needs."""
        done = min(first, self.near.stop) - self.near.start
        if self.slope is None or self.gradient is None or done <= 0:
            return
        rows = slice(self.near.start, self.near.start + done)
        self.slope, slope = torch.split(self.slope, [len(self.slope) - done, done])
        self.gradient[:, rows] = shrunk(slope, self.gradient.shape[2])


def stretched(rows: Tensor, width: int, extent: float) -> Tensor:
    """Resize rows (K, s, w) to `width` of `extent` columns: (s, K, W), the lowest row first."""
    found = widened(rows).transpose(0, 1).flip(0)
    if extent != rows.shape[2]:
        whole = extent == int(extent)
        found = F.interpolate(
            found,
            size=int(extent) if whole else None,
            scale_factor=None if whole else extent * (1 + 1e-9) / rows.shape[2],
            mode="linear",
            align_corners=False,
        )
    return found[:, :, :width].contiguous()


def shrunk(slope: Tensor, width: int) -> Tensor:
    """Return the gradient (K, s, w) of rows that `stretched` has resized, from theirs."""
    if slope.shape[2] != width:
        shape = [*slope.shape[:2], width]
        slope = torch.ops.aten.upsample_linear1d_backward(
            slope.contiguous(), [slope.shape[2]], shape, False
        )
    return slope.flip(0).transpose(0, 1)
