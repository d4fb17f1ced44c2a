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

from segacc import color_kernel as kernel


def midtones(channels: int = 3, size: tuple[int, int] = (40, 50), seed: int = 0) -> Tensor:
    """Draw an image (C, H, W) uint8 of 95..160, which small changes do not drive to 0 or 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(95, 161, (channels, *size), generator=generator).to(torch.uint8)


def changed(image: Tensor, *matrices: Any) -> Tensor:
    """Apply matrices to one image (C, H, W); float32."""
    total = torch.from_numpy(kernel.compose(*matrices)).float()
    return kernel.apply(image.float()[None], total[None])[0]


def grey_mean(image: Tensor) -> float:
    return kernel.luma(kernel.mean_color(image))


ALIKE: dict[str, tuple[Callable[[Tensor, float], Any], Callable[[Tensor, float], Tensor]]] = {
    "brightness": (lambda image, f: kernel.brightness(f), F.adjust_brightness),
    "contrast": (lambda image, f: kernel.contrast(f, grey_mean(image)), F.adjust_contrast),
    "saturation": (lambda image, f: kernel.saturation(f), F.adjust_saturation),
}


@pytest.mark.parametrize("factor", [0.6, 0.75, 1.0, 1.25, 1.4])
@pytest.mark.parametrize("name", ALIKE)
def test_one_change_is_that_of_torchvision(name: str, factor: float) -> None:
    image = midtones()
    matrix, theirs = ALIKE[name][0](image, factor), ALIKE[name][1]
    mine = changed(image, matrix)
    # torchvision's weights of grey add up to 0.9999, so 0.02 levels are its own.
    wanted = theirs(image.float() / 255, factor) * 255
    assert (mine - wanted).abs().max() < 0.03
    # On integers it cuts fractions off, in the grey mean too.
    cut = theirs(image, factor).float()
    assert (mine - cut).min() > -0.5 and (mine - cut).max() < 1.5


@pytest.mark.parametrize("order", list(itertools.permutations(ALIKE)), ids="-".join)
def test_changes_in_a_row_are_those_of_torchvision(order: tuple[str, ...]) -> None:
    image, factors = midtones(), {"brightness": 1.2, "contrast": 0.7, "saturation": 1.3}
    mean, total = kernel.mean_color(image), kernel.identity()
    wanted = image.float() / 255
    for name in order:
        grey = kernel.luma(kernel.moved(mean, total))
        step = {
            "brightness": kernel.brightness(1.2),
            "contrast": kernel.contrast(0.7, grey),
            "saturation": kernel.saturation(1.3),
        }[name]
        total = kernel.compose(total, step)
        wanted = ALIKE[name][1](wanted, factors[name])
    assert (changed(image, total) - wanted * 255).abs().max() < 0.06


def turned(color: Any, turn: float) -> Any:
    """Turn one colour as NTSC's chroma signal: I + jQ, by its phase, at the same Y."""
    y, i, q = np.array((kernel.LUMA, *kernel.CHROMA)) @ color
    phase = (i + 1j * q) * cmath.exp(-2j * math.pi * turn)
    return np.linalg.inv(np.array((kernel.LUMA, *kernel.CHROMA))) @ (y, phase.real, phase.imag)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.25])
def test_hue_turns_chroma_and_keeps_greys(turn: float) -> None:
    random = np.random.default_rng(0)
    matrix = kernel.hue(turn)
    for color in random.uniform(0, 255, (20, 3)):
        found = kernel.moved(color, matrix)
        assert np.allclose(found, turned(color, turn), atol=1e-9)
        assert kernel.luma(found) == pytest.approx(kernel.luma(color))
    assert np.allclose(kernel.moved(np.full(3, 77.0), matrix), 77)


def test_hue_goes_round_as_that_of_hsv() -> None:
    random, ratios = np.random.default_rng(0), []
    for color in random.uniform(0.3, 0.7, (300, 3)):
        found = np.clip(kernel.moved(color, kernel.hue(0.05)), 0, 1)
        (before, strong, _), after = colorsys.rgb_to_hsv(*color), colorsys.rgb_to_hsv(*found)
        if strong > 0.2:
            ratios.append(((after[0] - before + 0.5) % 1 - 0.5) / 0.05)
    assert len(ratios) > 100
    assert min(ratios) > 0 and abs(np.mean(ratios) - 1) < 0.15


def test_hue_round_the_circle() -> None:
    once = kernel.compose(kernel.hue(0.3), kernel.hue(0.45))
    assert np.allclose(once, kernel.hue(0.75))
    assert np.allclose(kernel.hue(0.75), kernel.hue(-0.25))
    assert np.allclose(kernel.compose(*[kernel.hue(0.125)] * 8), kernel.identity())


def test_offset_and_contrast_about_each_channels_mean() -> None:
    image = midtones()
    assert torch.equal(changed(image, kernel.offset(20)), image.float() + 20)
    mean = kernel.mean_color(image)
    pixels = image.numpy().astype(np.float64)
    own = pixels.mean((1, 2), keepdims=True)
    found = changed(image, kernel.contrast(1.3, mean)).numpy()
    assert np.abs(found - ((pixels - own) * 1.3 + own)).max() < 1e-3


def test_matrices_are_composed_in_order() -> None:
    color = np.array([10.0, 20, 30])
    total = kernel.compose(kernel.offset(5), kernel.brightness(2), kernel.offset(-1))
    assert np.allclose(kernel.moved(color, total), (color + 5) * 2 - 1)


@pytest.mark.parametrize("channels", [3, 4, 6])
def test_apply_is_a_matrix_product_and_leaves_further_channels(channels: int) -> None:
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (3, channels, 17, 23)).astype(np.float32)
    matrices = random.uniform(-1, 1, (3, 3, 4)).astype(np.float32)
    matrices[..., 3] *= 100
    kept = torch.from_numpy(images.copy())
    found = kernel.apply(torch.from_numpy(images), torch.from_numpy(matrices)).numpy()
    wanted = np.einsum("nij,njhw->nihw", matrices[..., :3].astype(float), images[:, :3])
    wanted = np.clip(wanted + matrices[:, :, 3, None, None], 0, 255)
    assert found.dtype == np.float32 and (found == 0).any() and (found == 255).any()
    assert np.abs(found[:, :3] - wanted).max() < 1e-3
    assert np.array_equal(found[:, 3:], images[:, 3:])
    assert torch.equal(torch.from_numpy(images), kept)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_first_of_less_than_three_channels_is_grey(channels: int) -> None:
    image = midtones(channels)
    assert np.allclose(kernel.mean_color(image), image[0].double().mean())
    matrix = kernel.contrast(0.8, grey_mean(image))
    found = changed(image, kernel.brightness(1.1), matrix)
    grey = image[0].double()
    wanted = 0.8 * 1.1 * grey + 0.2 * grey.mean()
    assert (found[0] - wanted).abs().max() < 1e-3
    assert torch.equal(found[1:], image[1:].float())


def test_bytes_are_changed_as_their_floats_are() -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (2, 3, 300, 37), np.uint8))
    matrices = torch.from_numpy(random.uniform(-1, 1, (2, 3, 4)).astype(np.float32))
    found = kernel.apply(images, matrices)
    assert torch.equal(found, kernel.apply(images.float(), matrices))
    wanted = np.einsum("nij,njhw->nihw", matrices[..., :3].double().numpy(), images.numpy())
    wanted = np.clip(wanted + matrices[:, :, 3, None, None].double().numpy(), 0, 255)
    assert np.abs(found.numpy() - wanted).max() < 1e-3


def test_nothing_changes_nothing() -> None:
    images = torch.arange(256).float().repeat(2, 3, 1, 1)
    matrices = torch.from_numpy(kernel.identity()).float().expand(2, 3, 4)
    assert torch.equal(kernel.apply(images, matrices), images)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 31), (257, 301)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_does_not_depend_on_the_others(
    channels: int, size: tuple[int, int], threads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, channels, *size, generator=generator) * 255
    matrices = torch.randn(5, 3, 4, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = kernel.apply(images, matrices)
        for place in range(5):
            alone = kernel.apply(images[place : place + 1], matrices[place : place + 1])
            assert torch.equal(alone[0], whole[place])
    finally:
        torch.set_num_threads(before)


def test_the_mean_colour_is_exact_however_the_pixels_lie() -> None:
    image = torch.randint(256, (4, 37, 41), generator=torch.Generator().manual_seed(0))
    bytes_ = image.to(torch.uint8)
    wanted = image[:3].sum((1, 2)).numpy() / (37 * 41)
    for one in (bytes_, bytes_.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        assert np.array_equal(kernel.mean_color(one), wanted)
    white = torch.full((1, 4200, 4200), 255, dtype=torch.uint8)  # adds up to more than 32 bits
    assert np.array_equal(kernel.mean_color(white), np.full(3, 255))
