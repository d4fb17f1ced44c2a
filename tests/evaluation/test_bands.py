"""Bands of full-size logits: the rows of a full accumulator, and never more than a few of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from segacc.evaluation.protocol import Windows
from segacc.evaluation.windows import (
    Grid,
    View,
    blended_bands,
    decide_bands,
    importance,
    mean_decision,
)
from segacc.kernels import resize as resizing
from segacc.kernels.resize import decide, resize
from tensor_tools import Largest

CROP, SIZE, CLASSES = (16, 12), (50, 40), 3


def grid_of(blend: Any = "even", *, stride: tuple[int, int] = (5, 7)) -> Grid:
    return Grid(*Windows(CROP, stride).starts(SIZE), CROP, SIZE, blend)


def windows_of(grid: Grid, images: int = 1, *, side: tuple[int, int] = (4, 3)) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    count = len(grid.tops) * len(grid.lefts)
    return [torch.randn(images, CLASSES, *side, generator=random) for _ in range(count)]


def accumulated(logits: list[Tensor], grid: Grid, weigh: Tensor) -> Tensor:
    """Sum all windows into a full accumulator: (N, K, H, W)."""
    total, count = torch.zeros(len(logits[0]), CLASSES, *SIZE), torch.zeros(SIZE)
    for place, one in enumerate(logits):
        top, left = grid.tops[place // len(grid.lefts)], grid.lefts[place % len(grid.lefts)]
        part = (slice(top, top + CROP[0]), slice(left, left + CROP[1]))
        total[..., *part] += resize(one, CROP) * weigh
        count[part] += weigh
    return total / count


def test_bands_are_the_rows_of_a_full_accumulator() -> None:
    grid = grid_of()
    assert (grid.tops, grid.lefts) == ([0, 5, 10, 15, 20, 25, 30, 34], [0, 7, 14, 21, 28])
    logits = windows_of(grid)
    bands = list(blended_bands(logits, grid))
    assert [band.shape[2] for band in bands] == [5, 5, 5, 5, 5, 5, 4, 16]
    mean = accumulated(logits, grid, torch.ones(CROP))
    assert torch.equal(torch.cat(bands, dim=2), mean)
    for size in ((50, 40), (50, 13), (131, 77), (7, 90)):
        found = decide_bands(iter(bands), SIZE, size).classes
        assert (found != decide(mean, size).classes).float().mean() < 1e-3
    assert torch.equal(decide_bands(bands, SIZE, SIZE).classes, mean.argmax(1).byte())


@pytest.mark.parametrize("blend", ["even", "gaussian"])
@pytest.mark.parametrize("stride", [(5, 7), (16, 12), (11, 8)])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_few_rows_at_a_time_are_the_same(blend: str, stride: Any, rows: int) -> None:
    grid = grid_of(blend, stride=stride)
    logits = windows_of(grid, 2)
    down, across = importance(16, blend), importance(12, blend)  # type: ignore[arg-type]
    wanted = accumulated(logits, grid, down[:, None] * across)
    bands = list(blended_bands(logits, grid, limit=rows * 4 * 2 * CLASSES * grid.width))
    assert max(band.shape[2] for band in bands) == rows
    torch.testing.assert_close(torch.cat(bands, dim=2), wanted, rtol=0, atol=1e-5)


def test_windows_that_would_take_more_than_their_sum_are_not_kept() -> None:
    for side, most in (((4, 3), 1), (CROP, 16)):
        grid = grid_of()
        bands = blended_bands(windows_of(grid, side=side), grid, limit=4 * CLASSES * grid.width)
        assert max(band.shape[2] for band in bands) == most


@pytest.mark.parametrize("length", [1, 2, 5, 64, 341])
def test_gaussian_weights_are_those_of_nn_unet(length: int) -> None:
    point = np.zeros(length)
    point[length // 2] = 1
    wanted = gaussian_filter(point, length / 8, mode="constant", cval=0)
    found = importance(length, "gaussian")
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wanted / wanted.max(), rtol=1e-5)
    assert importance(length, "even").tolist() == [1] * length


def strip(chunk: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Iterator[Tensor], Grid]:
    """Windows over a high, narrow picture of 20 classes, all logits of which take 1.28 MB."""
    monkeypatch.setattr(resizing, "CHUNK", chunk)
    grid = Grid(*Windows.of((16, 16)).starts((400, 40)), (16, 16), (400, 40))
    return (torch.ones(1, 20, 4, 4) for _ in range(999)), grid


@pytest.mark.parametrize("size", [(400, 40), (800, 30), (130, 50)])
def test_full_size_logits_exist_for_one_band_only(
    size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, grid = strip(20 * 16 * 40, monkeypatch)
    with Largest() as largest:
        found = decide_bands(blended_bands(windows, grid), (400, 40), size)
    assert found.classes.shape == (1, *size)
    assert largest.bytes <= 4 * 20 * (16 + 2) * 40, "of 4 * 20 * 400 * 40 bytes"


@pytest.mark.parametrize("size", [(400, 40), (800, 30), (130, 50)])
def test_full_size_logits_exist_for_a_few_rows_only(
    size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, grid = strip(20 * 3 * 40, monkeypatch)
    with Largest() as largest:
        found = decide_bands(blended_bands(windows, grid), (400, 40), size, "softmax")
    assert found.classes.shape == (1, *size) and found.confidence is not None
    torch.testing.assert_close(found.confidence, torch.full((1, *size), 1 / 20))
    assert largest.bytes <= max(4 * 20 * (3 + 5) * 40, 4 * size[0] * size[1])


def test_a_mean_of_views_exists_for_a_few_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, grid = strip(20 * 3 * 40, monkeypatch)
    limit = 20 * 3 * 40
    with Largest() as largest:
        bands = blended_bands(windows, grid, limit=limit)
        whole = torch.ones(1, 20, 100, 10)
        views = [View([whole], (100, 10), (400, 40)), View(bands, (400, 40), (400, 40), True)]
        found = mean_decision(views, (400, 40), "softmax", limit=limit)
    assert found.classes.shape == (1, 400, 40)
    assert largest.bytes <= whole.numel() * 4, "of 4 * 20 * 400 * 40 bytes"
