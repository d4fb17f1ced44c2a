"""The batched colour kernel against torchvision, colorsys and plain numpy."""

import cmath
import colorsys
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from segacc.kernels import color as kernel


def midtones(channels: int = 3, size: tuple[int, int] = (40, 50), seed: int = 0) -> Tensor:
    """Draw an image (C, H, W) uint8 of 95..160, which small changes do not drive to 0 or 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(95, 161, (channels, *size), generator=generator).to(torch.uint8)


def changed(image: Tensor, *steps: tuple[str, float]) -> Tensor:
    """Apply steps to one image (C, H, W); float32."""
    total = torch.from_numpy(kernel.fused(steps)).float()
    return kernel.apply(image.float()[None], total[None])[0]


def moved(color: Any, matrix: Any) -> Any:
    """Return what a matrix without a mean makes of one colour (3,)."""
    assert not matrix[:, 4:].any()
    return matrix[:, :3] @ color + matrix[:, 3]


ALIKE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
}


@pytest.mark.parametrize("factor", [0.6, 0.75, 1.0, 1.25, 1.4])
@pytest.mark.parametrize("name", ALIKE)
def test_one_change_is_that_of_torchvision(name: str, factor: float) -> None:
    image = midtones()
    mine = changed(image, (name, factor))
    # torchvision's weights of grey add up to 0.9999, so 0.02 levels are its own.
    wanted = ALIKE[name](image.float() / 255, factor) * 255
    assert (mine - wanted).abs().max() < 0.03
    # On integers it cuts fractions off, in the grey mean too.
    cut = ALIKE[name](image, factor).float()
    assert (mine - cut).min() > -0.5 and (mine - cut).max() < 1.5


@pytest.mark.parametrize("order", list(itertools.permutations(ALIKE)), ids="-".join)
def test_changes_in_a_row_are_those_of_torchvision(order: tuple[str, ...]) -> None:
    image, factors = midtones(), {"brightness": 1.2, "contrast": 0.7, "saturation": 1.3}
    wanted = image.float() / 255
    for name in order:
        wanted = ALIKE[name](wanted, factors[name])
    steps = [(name, factors[name]) for name in order]
    assert (changed(image, *steps) - wanted * 255).abs().max() < 0.06


def turned(color: Any, turn: float) -> Any:
    """Turn one colour as NTSC's chroma signal: I + jQ, by its phase, at the same Y."""
    y, i, q = np.array((kernel.LUMA, *kernel.CHROMA)) @ color
    phase = (i + 1j * q) * cmath.exp(-2j * math.pi * turn)
    return np.linalg.inv(np.array((kernel.LUMA, *kernel.CHROMA))) @ (y, phase.real, phase.imag)


def grey_of(pixels: Any) -> Any:
    return np.einsum("c,chw->hw", kernel.LUMA, pixels)[None]


PLAIN: dict[str, Callable[[Any, float], Any]] = {
    "brightness": lambda x, factor: x * factor,
    "offset": lambda x, levels: x + levels,
    "contrast": lambda x, factor: (x - grey_of(x).mean()) * factor + grey_of(x).mean(),
    "contrast_each": lambda x, factor: (
        (x - x.mean((1, 2), keepdims=True)) * factor + x.mean((1, 2), keepdims=True)
    ),
    "saturation": lambda x, factor: (x - grey_of(x)) * factor + grey_of(x),
    "hue": lambda x, turn: np.apply_along_axis(turned, 0, x, turn),
}
"""The changes by their definitions, on pixels (3, H, W) float64."""


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.25])
def test_hue_turns_chroma_and_keeps_greys(turn: float) -> None:
    random = np.random.default_rng(0)
    matrix = kernel.fused([("hue", turn)])
    for color in random.uniform(0, 255, (20, 3)):
        found = moved(color, matrix)
        assert np.allclose(found, turned(color, turn), atol=1e-9)
        assert np.dot(kernel.LUMA, found) == pytest.approx(np.dot(kernel.LUMA, color))
    assert np.allclose(moved(np.full(3, 77.0), matrix), 77)


def test_hue_goes_round_as_that_of_hsv() -> None:
    random, ratios = np.random.default_rng(0), []
    for color in random.uniform(0.3, 0.7, (300, 3)):
        found = np.clip(moved(color, kernel.fused([("hue", 0.05)])), 0, 1)
        (before, strong, _), after = colorsys.rgb_to_hsv(*color), colorsys.rgb_to_hsv(*found)
        if strong > 0.2:
            ratios.append(((after[0] - before + 0.5) % 1 - 0.5) / 0.05)
    assert len(ratios) > 100
    assert min(ratios) > 0 and abs(np.mean(ratios) - 1) < 0.15


def test_hue_round_the_circle() -> None:
    hue = [kernel.fused([("hue", turn)]) for turn in (0.75, -0.25)]
    assert np.allclose(kernel.fused([("hue", 0.3), ("hue", 0.45)]), hue[0])
    assert np.allclose(*hue)
    assert np.allclose(kernel.fused([("hue", 0.125)] * 8), np.eye(3, 7))


def test_offset_and_contrast_about_each_channels_mean() -> None:
    image = midtones()
    assert torch.equal(changed(image, ("offset", 20)), image.float() + 20)
    pixels = image.numpy().astype(np.float64)
    own = pixels.mean((1, 2), keepdims=True)
    found = changed(image, ("contrast_each", 1.3)).numpy()
    assert np.abs(found - ((pixels - own) * 1.3 + own)).max() < 1e-3
    # After another step it is about the mean that this one left.
    own = own * 0.9 + 12
    found = changed(image, ("brightness", 0.9), ("offset", 12), ("contrast_each", 1.3))
    assert np.abs(found.numpy() - ((pixels * 0.9 + 12 - own) * 1.3 + own)).max() < 1e-3


def test_steps_are_made_in_order() -> None:
    color = np.array([10.0, 20, 30])
    total = kernel.fused([("offset", 5), ("brightness", 2), ("offset", -1)])
    assert np.allclose(moved(color, total), (color + 5) * 2 - 1)
    with pytest.raises(ValueError, match="gamma: unknown colour change"):
        kernel.fused([("gamma", 1.0)])


@pytest.mark.parametrize("seed", range(20))
def test_any_row_of_steps_is_one_step_after_the_other(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = ("brightness", "offset", "contrast", "contrast_each", "saturation", "hue")
    steps = [
        (str(name), float({"offset": 40, "hue": 0.3}.get(name, 1) * random.uniform(-0.5, 1.5)))
        for name in random.choice(names, 9)
    ]
    pixels = random.uniform(0, 255, (3, 8, 9))
    matrix = kernel.fused(steps)
    mean = pixels.mean((1, 2))
    found = np.einsum("ij,jhw->ihw", matrix[:, :3], pixels)
    found += (matrix[:, 3] + matrix[:, 4:] @ mean)[:, None, None]
    for name, amount in steps:
        pixels = PLAIN[name](pixels, amount)
    assert np.abs(found - pixels).max() < 1e-9


@pytest.mark.parametrize("channels", [3, 4, 6])
def test_apply_is_a_matrix_product_and_leaves_further_channels(channels: int) -> None:
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (3, channels, 17, 23)).astype(np.float32)
    matrices = random.uniform(-1, 1, (3, 3, 7)).astype(np.float32)
    matrices[..., 3] *= 100
    means = np.rint(images[:, :3]).astype(np.float64).mean((2, 3))
    kept = torch.from_numpy(images.copy())
    found = kernel.apply(torch.from_numpy(images), torch.from_numpy(matrices)).numpy()
    wanted = np.einsum("nij,njhw->nihw", matrices[..., :3].astype(float), images[:, :3])
    added = matrices[..., 3] + np.einsum("nij,nj->ni", matrices[..., 4:], means)
    wanted = np.clip(wanted + added[..., None, None], 0, 255)
    assert found.dtype == np.float32 and (found == 0).any() and (found == 255).any()
    assert np.abs(found[:, :3] - wanted).max() < 1e-3
    assert np.array_equal(found[:, 3:], images[:, 3:])
    assert torch.equal(torch.from_numpy(images), kept)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_first_of_less_than_three_channels_is_grey(channels: int) -> None:
    image = midtones(channels)
    assert torch.allclose(kernel.mean_colors(image[None]), image[0].float().mean())
    found = changed(image, ("brightness", 1.1), ("contrast", 0.8))
    grey = image[0].double()
    wanted = 1.1 * (0.8 * grey + 0.2 * grey.mean())
    assert (found[0] - wanted).abs().max() < 1e-3
    assert torch.equal(found[1:], image[1:].float())


def test_bytes_are_changed_as_their_floats_are() -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (2, 3, 300, 37), np.uint8))
    matrices = torch.from_numpy(random.uniform(-1, 1, (2, 3, 7)).astype(np.float32))
    matrices[..., 4:] = 0
    found = kernel.apply(images, matrices)
    assert torch.equal(found, kernel.apply(images.float(), matrices))
    wanted = np.einsum("nij,njhw->nihw", matrices[..., :3].double().numpy(), images.numpy())
    wanted = np.clip(wanted + matrices[:, :, 3, None, None].double().numpy(), 0, 255)
    assert np.abs(found.numpy() - wanted).max() < 1e-3


def test_nothing_changes_nothing() -> None:
    images = torch.arange(256).float().repeat(2, 3, 1, 1)
    matrices = torch.from_numpy(kernel.fused(())).float().expand(2, 3, 7)
    assert torch.equal(kernel.apply(images, matrices), images)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 31), (257, 301)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_does_not_depend_on_the_others(
    channels: int, size: tuple[int, int], threads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, channels, *size, generator=generator) * 255
    matrices = torch.randn(5, 3, 7, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = kernel.apply(images, matrices)
        for place in range(5):
            alone = kernel.apply(images[place : place + 1], matrices[place : place + 1])
            assert torch.equal(alone[0], whole[place])
    finally:
        torch.set_num_threads(before)


def test_the_mean_colours_are_exact_however_the_pixels_lie() -> None:
    images = torch.randint(256, (2, 4, 37, 41), generator=torch.Generator().manual_seed(0))
    bytes_ = images.to(torch.uint8)
    wanted = images[:, :3].sum((2, 3)).float() / (37 * 41)
    beside = bytes_.contiguous(memory_format=torch.channels_last)
    for one in (bytes_, beside, bytes_.float()):
        assert torch.equal(kernel.mean_colors(one), wanted)
    white = torch.full((1, 1, 4200, 4200), 255, dtype=torch.uint8)  # adds up to more than 32 bits
    assert torch.equal(kernel.mean_colors(white), torch.full((1, 3), 255.0))
