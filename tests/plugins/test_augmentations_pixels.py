"""gaussian_blur, random_erasing and trivial_augment against scipy, torchvision and geometry."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from augmentation_tools import apply, assert_one_grid, blocks, build, places
from segacc.data.order import seeded
from segacc.plugins.augmentations.trivial_augment import SPACE

MOVES = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}

# ------------------------------------------------------------------------------- gaussian_blur


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_is_scipys_gaussian(sigma: float, channels: int) -> None:
    image = torch.randint(256, (channels, 31, 45), generator=torch.Generator().manual_seed(0))
    label = torch.arange(31 * 45).view(31, 45).to(torch.uint8)
    change = build("gaussian_blur", p=1, sigma_min=sigma, sigma_max=sigma)
    out, classes = apply(change, image.to(torch.uint8), label, 0)
    radius = math.ceil(3 * sigma)
    for found, channel in zip(out, image, strict=True):
        wanted = gaussian_filter(channel.numpy().astype(float), sigma, mode="mirror", radius=radius)
        assert np.abs(found.numpy() - wanted).max() < 0.51
    assert torch.equal(classes, label)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (4, 2)], ids=str)
def test_blur_takes_pictures_that_are_smaller_than_its_kernel(size: tuple[int, int]) -> None:
    image, label = torch.full((3, *size), 77).to(torch.uint8), torch.zeros(size).to(torch.uint8)
    change = build("gaussian_blur", p=1, sigma_min=5, sigma_max=5)
    assert torch.equal(apply(change, image, label, 0)[0], image)


def test_blur_comes_now_and_then_and_in_strengths() -> None:
    image = torch.randint(256, (3, 20, 20), generator=torch.Generator().manual_seed(0)).byte()
    label = torch.zeros(20, 20, dtype=torch.uint8)
    change = build("gaussian_blur", p=0.5, sigma_min=0.5)
    spreads = [apply(change, image, label, seed)[0].float().std().item() for seed in range(100)]
    same = sum(spread == image.float().std().item() for spread in spreads)
    assert 30 < same < 70
    assert min(spreads) < 20 and len({round(spread) for spread in spreads}) > 15


# ------------------------------------------------------------------------------ random_erasing


@pytest.mark.parametrize("fill", ["noise", "mean"])
def test_what_is_erased_is_a_rectangle_and_ignored(fill: str) -> None:
    image, label = blocks(60, 90)
    change, areas, ratios = build("random_erasing", p=1, fill=fill), [], []
    for seed in range(120):
        out, classes = apply(change, image, label, seed)
        gone = classes == 255
        tall, wide = int(gone.any(1).sum()), int(gone.any(0).sum())
        assert tall * wide == gone.sum() > 0
        assert torch.equal(out[:, ~gone], image[:, ~gone])
        assert torch.equal(classes[~gone], label[~gone])
        if fill == "mean":
            assert set(map(tuple, out[:, gone].T.tolist())) == {(124, 116, 104)}
        elif gone.sum() > 200:
            assert out[:, gone].unique().numel() > 100
        areas.append(tall * wide / (60 * 90))
        ratios.append(tall / wide)
    assert 0.01 < min(areas) < 0.06 and 0.25 < max(areas) < 0.36
    assert 0.25 < min(ratios) < 0.6 and 1.6 < max(ratios) < 3.8


def test_erasing_comes_now_and_then_where_it_fits() -> None:
    image, label = blocks(30, 30)
    change = build("random_erasing", p=0.3)
    same = sum(torch.equal(apply(change, image, label, s)[1], label) for s in range(300))
    assert 180 < same < 240
    dot, nothing = blocks(1, 1)
    assert torch.equal(apply(build("random_erasing", p=1), dot, nothing, 0)[1], nothing)


# ----------------------------------------------------------------------------- trivial_augment


def operation(seed: int) -> str:
    """Return which of the fourteen comes first under a seed."""
    with seeded(seed):
        return tuple(SPACE)[int(torch.randint(14, ()))]


@pytest.mark.parametrize(("channels", "fill"), [(1, [116]), (3, [124, 116, 104])])
def test_images_are_those_of_torchvisions_class(channels: int, fill: list[int]) -> None:
    image = torch.randint(256, (channels, 40, 50), generator=torch.Generator().manual_seed(0))
    image, label = image.to(torch.uint8), torch.zeros(40, 50, dtype=torch.uint8)
    theirs = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
    change, seen = build("trivial_augment"), Counter[str]()
    for seed in range(220):
        out, classes = apply(change, image, label, seed)
        with seeded(seed):
            wanted: Tensor = theirs(tv_tensors.Image(image)).as_subclass(Tensor)
        assert torch.equal(out, wanted), operation(seed)
        assert operation(seed) in MOVES or torch.equal(classes, label)
        seen[operation(seed)] += 1
    assert set(seen) == set(SPACE)


def test_labels_move_with_their_images() -> None:
    image, label = places(60, 63)
    change, seen = build("trivial_augment"), Counter[str]()
    for seed in range(220):
        out, classes = apply(change, image, label, seed)
        if operation(seed) in MOVES:
            # A turn by 90 degrees puts each pixel of 60x63 midway between two: none is told apart.
            found = assert_one_grid(out, classes, label, least=-1)
            assert set(classes.unique().tolist()) <= {*label.unique().tolist(), 255}
            seen[operation(seed)] += int((found[:, :2] - found[:, 2:]).abs().max() > 0.5)
    assert set(seen) == MOVES and min(seen.values()) > 4


def test_further_channels_move_but_keep_their_values() -> None:
    image, label = places(60, 63)
    image = torch.cat([image, label[None]])
    for seed in range(60):
        out, classes = apply(build("trivial_augment"), image, label, seed)
        if operation(seed) not in MOVES:
            assert torch.equal(out[3], image[3]) and torch.equal(classes, label)


def test_strength_narrows_the_ranges() -> None:
    image, label = torch.full((3, 8, 8), 100).to(torch.uint8), torch.zeros(8, 8).to(torch.uint8)
    values: dict[Any, list[float]] = {0.5: [], 1.0: []}
    for strength, found in values.items():
        change = build("trivial_augment", strength=strength)
        for seed in range(600):
            if operation(seed) == "brightness":
                found.append(apply(change, image, label, seed)[0].float().mean().item())
    assert 49 <= min(values[0.5]) < 70 and 130 < max(values[0.5]) < 150
    assert min(values[1.0]) < 30 and max(values[1.0]) > 170
