"""Windows decided tile by tile: the classes of plain torch, and few numbers in memory."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.evaluation import window_tiles
from segacc.evaluation.protocol import Windows
from segacc.evaluation.window_tiles import decide_windows
from segacc.evaluation.windows import Grid, blended_bands, decide_bands
from segacc.kernels import bands
from tensor_tools import Largest

LAYOUTS = [  # K, (h, w), crop, stride, (H, W) of the resized image, and of the original one
    (19, (8, 8), (32, 32), (21, 21), (75, 101), (75, 101)),
    (19, (8, 6), (32, 24), (32, 24), (96, 72), (96, 72)),
    (150, (9, 9), (33, 33), (11, 20), (55, 90), (55, 90)),
    (150, (8, 8), (32, 32), (21, 21), (64, 80), (91, 133)),
    (19, (8, 8), (32, 32), (25, 13), (90, 70), (61, 47)),
    (20, (4, 4), (64, 64), (40, 50), (50, 130), (50, 130)),
    (20, (1, 9), (16, 36), (9, 20), (40, 60), (41, 60)),
    (256, (8, 8), (32, 32), (31, 17), (40, 49), (40, 49)),
    (2, (8, 8), (32, 32), (21, 21), (64, 64), (64, 64)),
    (1, (8, 8), (32, 32), (21, 21), (64, 64), (64, 64)),
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of large images for small ones."""
    monkeypatch.setattr(bands, "CACHED", 1000)


def laid(layout: Any, kind: str, blend: Any = "even") -> tuple[list[Tensor], Grid]:
    """Draw windows (1, K, h, w) that resemble each other where they overlap, and their layout."""
    num_classes, given, crop, stride, seen, _ = layout
    grid = Grid(*Windows(crop, stride).starts(seen), crop, seen, blend)
    random, windows = torch.Generator().manual_seed(num_classes), []
    scene = 4 * torch.randn(1, num_classes, 4, 5, generator=random)
    scene = F.interpolate(scene, size=(grid.tops[-1] + crop[0], grid.width), mode="bicubic")
    for top in grid.tops:
        for left in grid.lefts:
            part = scene[..., top : top + crop[0], left : left + crop[1]]
            one = F.interpolate(part, size=given, mode="area")
            one += torch.randn(one.shape, generator=random) * (5 if kind == "noise" else 0.2)
            windows.append(one.round().clamp(-2, 2) if kind == "equal" else one)
    return windows, grid


def plainly(windows: Sequence[Tensor], grid: Grid, size: tuple[int, int]) -> Tensor:
    """Average all windows at full size by plain torch, and resize: (N, K, H, W)."""
    total, count = torch.zeros(1), torch.zeros(1)
    weigh = grid.weights[0][:, None] * grid.weights[1]
    total = torch.zeros(*windows[0].shape[:2], grid.tops[-1] + grid.crop[0], grid.width)
    count = torch.zeros(total.shape[2:])
    for index, one in enumerate(windows):
        top, left = grid.tops[index // len(grid.lefts)], grid.lefts[index % len(grid.lefts)]
        here = slice(top, top + grid.crop[0]), slice(left, left + grid.crop[1])
        full = F.interpolate(one.float(), size=grid.crop, mode="bilinear", align_corners=False)
        total[..., here[0], here[1]] += full * weigh
        count[here] += weigh
    mean = (total / count)[..., : grid.size[0], : grid.size[1]]
    if size == grid.size:
        return mean
    return F.interpolate(mean, size=size, mode="bilinear", align_corners=False)


def assert_best(found: Tensor, full: Tensor, *, ties: bool = False) -> None:
    """Assert that classes (N, H, W) are the argmax of logits, or of equal ones after rounding."""
    assert found.dtype == torch.uint8
    own = full.gather(1, found.long()[:, None])[:, 0]
    assert float((full.amax(1) - own).max()) <= 1e-5
    others = int((found != full.argmax(1)).sum())
    assert others <= (found.numel() / 100 if ties else 0)


@pytest.mark.parametrize("blend", ["even", "gaussian"])
@pytest.mark.parametrize("kind", ["smooth", "noise", "equal"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_pixel_is_that_of_plain_windows(layout: Any, kind: str, blend: str) -> None:
    windows, grid = laid(layout, kind, blend)
    full, size = plainly(windows, grid, layout[-1]), layout[-1]
    assert_best(decide_windows(windows, grid, size).classes, full, ties=kind == "equal")
    found = decide_windows(windows, grid, size, "softmax")
    assert_best(found.classes, full, ties=kind == "equal")
    assert found.confidence is not None
    torch.testing.assert_close(found.confidence, full.softmax(1).amax(1), rtol=0, atol=5e-6)


def test_scores_of_masks_are_divided_by_their_sum() -> None:
    windows, grid = laid(LAYOUTS[0], "smooth")
    windows = [one.sigmoid() for one in windows]
    full = plainly(windows, grid, LAYOUTS[0][-1])
    found = decide_windows(windows, grid, LAYOUTS[0][-1], "sum").confidence
    assert found is not None
    torch.testing.assert_close(found, full.amax(1) / full.sum(1))


@pytest.mark.parametrize("shares", [None, "softmax"])
def test_of_equal_classes_the_first_one_wins(shares: Any) -> None:
    layout = LAYOUTS[3]
    windows, grid = laid(layout, "smooth")
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    twins = [torch.cat([one[:, :50]] * 3, dim=1)[:, order] for one in windows]
    first = torch.stack([(order % 50 == k).nonzero()[0, 0] for k in range(50)])
    wanted = first[plainly([one[:, :50] for one in windows], grid, layout[-1]).argmax(1)]
    assert torch.equal(decide_windows(twins, grid, layout[-1], shares).classes.long(), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_it_is_averaged(dtype: torch.dtype) -> None:
    for layout in (LAYOUTS[0], LAYOUTS[3]):
        windows, grid = laid(layout, "smooth")
        windows = [one.to(dtype) for one in windows]
        found = decide_windows(windows, grid, layout[-1]).classes
        assert_best(found, plainly(windows, grid, layout[-1]), ties=True)


def test_images_of_a_batch_are_decided_as_each_alone() -> None:
    layout = LAYOUTS[3]
    several = [laid(layout, kind)[0] for kind in ("smooth", "noise")]
    grid = laid(layout, "smooth")[1]
    both = [torch.cat(pair) for pair in zip(*several, strict=True)]
    found = decide_windows(both, grid, layout[-1], "softmax")
    for windows, one in zip(several, found.each(), strict=True):
        alone = decide_windows(windows, grid, layout[-1], "softmax")
        assert torch.equal(alone.classes, one.classes)
        torch.testing.assert_close(alone.confidence, one.confidence)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 4, -1])
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[3]], ids=["same size", "resized"])
def test_what_is_not_finite_spoils_its_own_pixels_only(
    value: float, place: int, layout: Any
) -> None:
    windows, grid = laid(layout, "smooth")
    windows[place][0, 3, 5, 6] = value
    wanted = decide_bands(blended_bands(windows, grid), grid.size, layout[-1]).classes
    assert torch.equal(decide_windows(windows, grid, layout[-1]).classes, wanted)
    windows[place][0, 3, 5, 6] = 0
    clean = decide_windows(windows, grid, layout[-1]).classes
    assert 0 < (clean != wanted).float().mean() < 0.05 or value == -torch.inf


@pytest.mark.parametrize("shares", [None, "softmax"])
def test_full_size_logits_exist_for_a_tile_only(
    monkeypatch: pytest.MonkeyPatch, shares: Any
) -> None:
    """The memory does not depend on the number of classes."""
    monkeypatch.setattr(window_tiles, "ELEMENTS", 2**17)
    for num_classes in (50, 200):
        layout = (num_classes, (16, 16), (64, 64), (42, 42), (190, 190), (190, 190))
        windows, grid = laid(layout, "noise")
        with Largest() as watched:
            found = decide_windows((one for one in windows), grid, (190, 190), shares)
        assert found.classes.shape == (1, 190, 190)
        assert watched.bytes <= 4 * 2**17 < 0.1 * 4 * num_classes * 190**2


def test_windows_that_cannot_be_decided_by_tiles_are_blended() -> None:
    windows, grid = laid(LAYOUTS[0], "smooth")
    few = [one[:, :5] for one in windows]
    full = plainly(few, grid, LAYOUTS[0][-1])
    odds = decide_windows([one[:, :2] for one in few], grid, LAYOUTS[0][-1], odds="softmax")
    assert_best(decide_windows(few, grid, LAYOUTS[0][-1]).classes, full)
    assert odds.log_odds is not None
    torch.testing.assert_close(odds.log_odds, full[:, 1] - full[:, 0], rtol=0, atol=1e-5)


def test_few_classes_are_left_where_logits_are_smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside the edge of a window, where some pixels have no part of it."""
    bound, left = window_tiles.lead, list[float]()

    def watched(*given: Any) -> Tensor:
        found = bound(*given)
        left.append(float((found >= 0).float().mean()))
        return found

    monkeypatch.setattr(window_tiles, "lead", watched)
    layout = (50, (32, 32), (128, 128), (85, 85), (256, 256), (256, 256))
    windows, grid = laid(layout, "smooth")
    decide_windows(windows, grid, (256, 256))
    assert max(left) < 0.25
