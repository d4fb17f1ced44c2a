"""The argmax by bounds is that of all resized logits, pixel by pixel."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.kernels import bounds
from segacc.kernels.bounds import argmax_by_bounds
from segacc.kernels.resize import decide, resize_and_cut

SIZES = [  # K, (h, w), (H, W)
    (150, (32, 40), (128, 160)),
    (19, (64, 128), (256, 512)),
    (21, (33, 33), (129, 129)),
    (7, (20, 13), (77, 101)),
    (256, (16, 16), (64, 64)),
    (3, (40, 40), (20, 20)),
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


@pytest.mark.parametrize("kind", ["smooth", "noise", "equal"])
@pytest.mark.parametrize("more", [(0, 0), (13, 7), (3.7, 21.2)], ids=str)
@pytest.mark.parametrize(("num_classes", "given", "wanted"), SIZES)
def test_every_pixel_is_that_of_resized_logits(
    num_classes: int,
    given: tuple[int, int],
    wanted: tuple[int, int],
    more: tuple[float, float],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = logits_of(num_classes, given, kind)
    monkeypatch.setattr(bounds, "HARD", float("inf"))  # also where resizing all is faster
    extent = (wanted[0] + more[0], wanted[1] + more[1])
    full = resize_and_cut(logits[None], wanted, extent)[0]
    found = argmax_by_bounds(logits, wanted, extent)
    assert found is not None and found.dtype == torch.uint8
    if kind != "equal":
        assert torch.equal(found.long(), full.argmax(0))
    else:  # different sums of the same values may be rounded differently
        own = full.gather(0, found.long()[None])[0]
        assert float((full.amax(0) - own).max()) <= 1e-6
        assert float((found.long() != full.argmax(0)).float().mean()) < 1e-3


def test_of_equal_classes_the_first_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HARD", float("inf"))
    logits = logits_of(9, (20, 30), "smooth").repeat(3, 1, 1)[torch.randperm(27)]
    expected = resize_and_cut(logits[None], (80, 120), (80, 120)).argmax(1)[0]
    found = argmax_by_bounds(logits, (80, 120), (80, 120))
    assert found is not None and torch.equal(found.long(), expected)


def test_noise_and_what_is_not_finite_are_left_to_plain_resizing() -> None:
    size = (128, 128)
    smooth, noise = (logits_of(80, (32, 32), kind) for kind in ("smooth", "noise"))
    assert argmax_by_bounds(smooth, size, size) is not None
    assert argmax_by_bounds(noise, size, size) is None
    for value in (torch.nan, torch.inf):
        odd = smooth.clone()
        odd[3, 5, 7] = value
        assert argmax_by_bounds(odd, size, size) is None
    both = torch.stack([smooth, noise])
    expected = resize_and_cut(both, size, size).argmax(1)
    assert torch.equal(decide(both, size).classes.long(), expected)
