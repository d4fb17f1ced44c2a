"""photometric_distortion and tf_color with the options they have: the numbers of their recipes.

What was drawn is read off a picture of four pixels; what it does is compared with colorsys.
"""

import colorsys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from augmentation_tools import apply, build
from segacc.data.order import seeded

STEPS = ("brightness", "contrast", "saturation", "hue")
RANGES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    # mmsegmentation: brightness_delta=32, contrast_range and saturation_range (0.5, 1.5),
    # hue_delta=18 of OpenCV's 180
    "photometric_distortion": {
        "brightness": (-32, 32),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-18 / 180, 18 / 180),
    },
    # the tutorial: random_brightness(0.25), random_contrast(0.5, 2.0),
    # random_saturation(0.75, 1.25), random_hue(0.1)
    "tf_color": {
        "brightness": (-0.25 * 255, 0.25 * 255),
        "contrast": (0.5, 2.0),
        "saturation": (0.75, 1.25),
        "hue": (-0.1, 0.1),
    },
}
NOTHING = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
"""The amounts that change nothing."""
DRAWS = 800
GREY, APART, TINGE = 100, 8, np.array([16, -8, -8])
IQ = np.array([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""NTSC's; their length is the saturation of the fused recipes, and their angle the hue."""
Drawn = dict[str, float]
Pixels = np.ndarray[Any, np.dtype[np.float64]]


def read_amounts(name: str, change: Any, seed: int) -> Drawn:
    """Read off four pixels, whose mean is grey, what a fused change drew under a seed."""
    pixels = np.array([[GREY] * 3] * 4) + np.outer((APART, -APART, 0, 0), (1, 1, 1))
    pixels += np.outer((0, 0, 1, -1), TINGE)
    image = torch.from_numpy(pixels.T.reshape(3, 2, 2)).to(torch.uint8)
    label = torch.zeros(2, 2, dtype=torch.uint8)
    with seeded(seed):
        drawn = change.draw(tv_tensors.Image(image), tv_tensors.Mask(label))
    images, _ = change(image[None].float(), label[None], drawn[None])
    light, dark, tinged, against = images[0].double().numpy().reshape(3, 4).T
    mean, slope = (light + dark) / 2, (light - dark) / (2 * APART)
    assert np.ptp(mean) < 1e-3 and np.ptp(slope) < 1e-4, "greys stay grey"
    factor = slope.mean()
    before, after = (complex(*(IQ @ one)) for one in (TINGE, (tinged - against) / (2 * factor)))
    # mmsegmentation's contrast multiplies what brightness has added; TensorFlow's keeps the mean.
    added = mean.mean() / (factor if name == "photometric_distortion" else 1) - GREY
    turn = float(np.angle(before / after)) / (2 * np.pi)  # red to yellow is clockwise
    return dict(zip(STEPS, (added, factor, abs(after / before), turn), strict=True))


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Drawn]]:
    """What each recipe drew, with the options that it has when none are given."""
    return {
        name: [read_amounts(name, change, seed) for seed in range(DRAWS)]
        for name, change in ((name, build(name)) for name in RANGES)
    }


def moved(name: str, amount: float) -> bool:
    """Tell whether this step was taken."""
    return abs(amount - NOTHING[name]) > 1e-4


# ---------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize(("recipe", "name"), [(one, name) for one in RANGES for name in STEPS])
def test_a_recipe_draws_from_all_of_its_range(
    drawn: dict[str, list[Drawn]], recipe: str, name: str
) -> None:
    low, high = RANGES[recipe][name]
    values = [row[name] for row in drawn[recipe] if moved(name, row[name])]
    near, blur = (high - low) / 50, 2e-5 * (high - low)
    assert low - blur <= min(values) < low + near
    assert high - near < max(values) <= high + blur
    quarters, _ = np.histogram(values, 4, (low - blur, high + blur))
    assert quarters.min() > 0.18 * len(values), "evenly"


def test_each_step_of_distortion_comes_at_even_chances(drawn: dict[str, list[Drawn]]) -> None:
    taken = Counter(
        tuple(moved(name, row[name]) for name in STEPS) for row in drawn["photometric_distortion"]
    )
    assert len(taken) == 16, "whatever the other three do"
    assert min(taken.values()) > 25 and max(taken.values()) < 80  # of 50: standard deviation 7
    steps = sum(sum(one) * count for one, count in taken.items())
    assert abs(steps / (4 * DRAWS) - 0.5) < 0.027  # three times the standard deviation


def test_tf_color_takes_all_steps_each_by_its_own_number(drawn: dict[str, list[Drawn]]) -> None:
    rows = drawn["tf_color"]
    assert all(sum(moved(name, row[name]) for row in rows) > DRAWS - 5 for name in STEPS)
    related = np.corrcoef([[row[name] for row in rows] for name in STEPS]) - np.eye(4)
    assert np.abs(related).max() < 0.15  # standard deviation 0.035


# ------------------------------------------------------------------------------- what it does


def in_hsv(pixels: Pixels, factor: float, turn: float) -> Pixels:
    """Multiply the saturation of pixels (P, 3) in 0..255, at most to 1, and turn their hue."""
    given = [colorsys.rgb_to_hsv(*row) for row in pixels / 255]
    rows = [colorsys.hsv_to_rgb((h + turn) % 1, min(1.0, s * factor), v) for h, s, v in given]
    return 255 * np.array(rows)


PLAIN: Mapping[str, Mapping[str, Callable[[Pixels, float], Pixels]]] = {
    recipe: {
        "brightness": lambda pixels, added: pixels + added,
        "contrast": contrast,
        "saturation": lambda pixels, factor: in_hsv(pixels, factor, 0),
        "hue": lambda pixels, turn: in_hsv(pixels, 1, turn),
    }
    for recipe, contrast in {
        "photometric_distortion": lambda pixels, factor: pixels * factor,
        "tf_color": lambda pixels, factor: (pixels - pixels.mean(0)) * factor + pixels.mean(0),
    }.items()
}
COLORS = np.array([(250, 40, 40), (30, 200, 90), (120, 120, 120), (10, 60, 240)])
"""Bright ones, so that steps meet the ends of 0..255 and their order shows."""


def plainly(recipe: str, order: Sequence[str], amounts: Drawn) -> Pixels:
    """Take the steps one after the other on COLORS, each clamped."""
    pixels = COLORS.astype(float)
    for name in order:
        if moved(name, amounts[name]):
            pixels = np.clip(PLAIN[recipe][name](pixels, amounts[name]), 0, 255)
    return pixels


def orders_that_fit(
    recipe: str, seed: int, amounts: Drawn, orders: Sequence[tuple[str, ...]]
) -> set[tuple[str, ...]]:
    """Return the orders of steps that give, up to rounding, what the exact recipe gives."""
    image = torch.from_numpy(COLORS.T.reshape(3, 2, 2)).to(torch.uint8).contiguous()
    label = torch.zeros(2, 2, dtype=torch.uint8)
    out, _ = apply(build(recipe, exact="true"), image, label, seed)
    found = out.numpy().reshape(3, 4).T.astype(float)
    return {one for one in orders if np.abs(plainly(recipe, one, amounts) - found).max() < 0.6}


def test_tf_color_adds_stretches_saturates_and_turns(drawn: dict[str, list[Drawn]]) -> None:
    always = orders = list(permutations(STEPS))
    for seed in range(60):
        fits = orders_that_fit("tf_color", seed, drawn["tf_color"][seed], orders)
        always = [one for one in always if one in fits]
    last = ("saturation", "hue"), ("hue", "saturation")  # of HSV: nothing tells these two apart
    assert always == [("brightness", "contrast", *two) for two in last]


def test_distortion_adds_first_and_multiplies_before_or_after_the_colours(
    drawn: dict[str, list[Drawn]],
) -> None:
    early, late = STEPS, ("brightness", "saturation", "hue", "contrast")
    alone: Counter[tuple[str, ...]] = Counter()
    for seed, amounts in enumerate(drawn["photometric_distortion"]):
        fits = orders_that_fit("photometric_distortion", seed, amounts, (early, late))
        assert fits
        alone.update(fits if len(fits) == 1 else ())
    assert alone.total() > 100, "so often the end of the range is met in between"
    assert 0.4 < alone[early] / alone.total() < 0.6


@pytest.mark.parametrize("recipe", RANGES)
def test_a_colour_turns_by_at_most_36_degrees(recipe: str) -> None:
    change = build(recipe, exact="true")
    red = torch.tensor([120, 40, 40], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    label, degrees = torch.zeros(2, 2, dtype=torch.uint8), []
    for seed in range(300):
        out, _ = apply(change, red.contiguous(), label, seed)
        hue, *_ = colorsys.rgb_to_hsv(*out[:, 0, 0].tolist())
        degrees.append(360 * ((hue + 0.5) % 1 - 0.5))
    assert -36.8 < min(degrees) < -34.5 and 34.5 < max(degrees) < 36.8  # of whole grey levels
