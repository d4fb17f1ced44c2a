"""The argmax by bounds is that of all resized logits, pixel by pixel."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.kernels import bands, bounds
from segacc.kernels.bounds import argmax_by_bounds
from segacc.kernels.resize import Shares, decide, resize_and_cut
from tensor_tools import Largest

SIZES = [  # K, (h, w), (H, W)
    (150, (32, 40), (128, 160)),
    (19, (64, 128), (256, 512)),
    (21, (33, 33), (129, 129)),
    (7, (20, 13), (77, 101)),
    (256, (16, 16), (64, 64)),
    (3, (40, 40), (20, 20)),
    (20, (1, 9), (5, 40)),
    (20, (9, 1), (40, 5)),
]


def logits_of(num_classes: int, size: tuple[int, int], kind: str) -> Tensor:
    """Return smooth logits, as of a trained network; noise; or many equal values."""
    draw = torch.Generator().manual_seed(num_classes)
    if kind == "smooth":
        small = [max(2, side // 8) for side in size]
        coarse = 6 * torch.randn(1, num_classes, *small, generator=draw)
        return F.interpolate(coarse, size=size, mode="bicubic")[0]
    if kind == "noise":
        return torch.randn(num_classes, *size, generator=draw)
    return torch.randint(0, 3, (num_classes, *size), generator=draw).float()


def test_tiles_cover_every_pixel_once() -> None:
    for given, wanted, extent in (
        (40, 160, 160),
        (20, 77, 80.7),
        (40, 20, 20),
        (50, 3, 3),
        (1, 9, 9),
    ):
        parts = list(bounds.tiles(bounds.Taps.of(given, wanted, extent, torch.float32)))
        pixels = [k for part in parts for k in range(wanted)[part.pixels]]
        assert pixels == list(range(wanted)), (given, wanted)
        assert all(part.weights.sum(1).allclose(torch.ones(())) for part in parts)


def test_few_classes_are_left_of_smooth_logits_and_none_is_left_out_in_noise() -> None:
    across = list(bounds.tiles(bounds.Taps.of(32, 128, 128, torch.float32)))
    smooth, noise = (logits_of(150, (17, 32), kind) for kind in ("smooth", "noise"))
    found = bounds.classes_left(smooth, across, 0.0)
    assert found is not None and bounds.classes_left(noise, across, 0.0) is None
    full = F.interpolate(smooth[None], (68, 128), mode="bilinear")[0, :, 2:-2].argmax(0)
    for tile, left in zip(across, found[1], strict=True):
        possible, won = set(found[0][left].tolist()), set(full[:, tile.pixels].unique().tolist())
        assert won <= possible and len(possible) < 40


@pytest.mark.parametrize("hard", [1.0, 0.0], ids=["tiles", "rows"])
@pytest.mark.parametrize("kind", ["smooth", "noise", "equal"])
@pytest.mark.parametrize("more", [(0, 0), (13, 7), (3.7, 21.2)], ids=str)
@pytest.mark.parametrize(("num_classes", "given", "wanted"), SIZES)
def test_every_pixel_is_that_of_resized_logits(
    num_classes: int,
    given: tuple[int, int],
    wanted: tuple[int, int],
    more: tuple[float, float],
    kind: str,
    hard: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = logits_of(num_classes, given, kind)
    monkeypatch.setattr(bounds, "HARD", hard)
    extent = (wanted[0] + more[0], wanted[1] + more[1])
    full = resize_and_cut(logits[None], wanted, extent)[0]
    found = argmax_by_bounds(logits, wanted, extent)
    assert found.dtype == torch.uint8
    if kind != "equal":
        assert torch.equal(found.long(), full.argmax(0))
    else:  # different sums of the same values may be rounded differently
        own = full.gather(0, found.long()[None])[0]
        assert float((full.amax(0) - own).max()) <= 1e-6
        assert int((found.long() != full.argmax(0)).sum()) <= 5 + found.numel() / 1000


@pytest.mark.parametrize("hard", [1.0, 0.0], ids=["tiles", "rows"])
def test_of_equal_classes_the_first_one_wins(hard: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HARD", hard)
    logits = logits_of(9, (20, 30), "smooth").repeat(3, 1, 1)[torch.randperm(27)]
    expected = resize_and_cut(logits[None], (80, 120), (80, 120)).argmax(1)[0]
    found = argmax_by_bounds(logits, (80, 120), (80, 120))
    assert torch.equal(found.long(), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_resized_plainly(value: float) -> None:
    both = torch.stack([logits_of(80, (32, 32), kind) for kind in ("smooth", "noise")])
    both[1, 3, 5, 7] = value
    expected = resize_and_cut(both, (128, 128), (128, 128)).argmax(1)
    assert torch.equal(decide(both, (128, 128)).classes.long(), expected)


@pytest.mark.parametrize("shares", ["softmax", "sum"])
def test_probabilities_by_rows_are_those_of_resized_logits(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "CACHED", 5 * 20 * 70)
    logits, extent = logits_of(20, (17, 13), "smooth")[None].abs(), (80, 77.5)
    found = decide(logits, (75, 70), extent=extent, shares=shares, odds=shares)
    full = resize_and_cut(logits, (75, 70), extent)
    chances = full.softmax(1) if shares == "softmax" else full / full.sum(1, keepdim=True)
    assert found.confidence is not None and found.log_odds is not None
    assert torch.equal(found.classes.long(), full.argmax(1))
    torch.testing.assert_close(found.confidence, chances.amax(1))
    odds = (chances[:, 1] / chances[:, 0]).log()
    torch.testing.assert_close(found.log_odds, odds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hard", [1.0, 0.0], ids=["tiles", "rows"])
@pytest.mark.parametrize(("num_classes", "given", "wanted"), [SIZES[0], SIZES[2], SIZES[4]])
def test_the_share_of_a_class_is_found_by_bounds(
    num_classes: int,
    given: tuple[int, int],
    wanted: tuple[int, int],
    hard: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bands, "CACHED", 1000)
    monkeypatch.setattr(bounds, "HARD", hard)
    extent = wanted[0] + 3.7, wanted[1] + 21.2
    scores = logits_of(num_classes, given, "smooth")[None].softmax(1)
    one_hot = torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 0.7)
    for values in (scores, one_hot, scores.bfloat16()):
        full = resize_and_cut(values, wanted, extent)
        found = decide(values, wanted, extent=extent, shares="sum")
        assert found.confidence is not None and float(found.confidence.max()) <= 1
        torch.testing.assert_close(found.confidence, full.amax(1) / full.sum(1), rtol=0, atol=1e-6)
        own = full.gather(1, found.classes.long()[:, None])[:, 0]
        assert float((full.amax(1) - own).max()) <= 1e-6
        assert (found.classes != full.argmax(1)).float().mean() < 1e-3


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_no_tensor_is_larger_than_the_logits(kind: str) -> None:
    logits = logits_of(150, (128, 64), kind)
    with Largest() as largest:
        argmax_by_bounds(logits, (512, 256), (512, 256))
    assert largest.bytes == logits.numel() * 4, "of 4 * 150 * 512 * 256 bytes"


@pytest.mark.parametrize("hard", [1.0, 0.0], ids=["tiles", "rows"])
def test_logits_of_one_place_are_left_as_they_are(
    hard: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "HARD", hard)
    logits = logits_of(150, (1, 1), "noise")
    before = logits.clone()
    found = argmax_by_bounds(logits, (40, 40), (40, 40))
    assert torch.equal(logits, before) and (found == before.argmax()).all()


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_the_order_in_memory_changes_nothing(kind: str) -> None:
    """A convolution may leave the classes of a place next to each other."""
    logits = logits_of(150, (40, 56), kind)
    other = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    given = (160, 224), (160.0, 224.0)
    assert torch.equal(argmax_by_bounds(logits, *given), argmax_by_bounds(other, *given))
