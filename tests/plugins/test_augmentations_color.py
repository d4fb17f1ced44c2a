"""Augmentations of colour: fused ones are what torchvision and others do, as far as is promised."""

import colorsys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from augmentation_tools import RECORDS, apply, blocks, build
from segacc.data.decode import read_image
from segacc.data.order import seeded
from segacc.data.placement import Placement, inside_of, placed
from segacc.plugins.augmentations.color import PIXELS
from segacc.plugins.datasets.nuclei import NucleiOptions, build_nuclei
from segacc.settings.options import decode

FUSED = ("color_jitter", "grayscale", "photometric_distortion", "tf_color")
RECIPES = ("photometric_distortion", "tf_color")
LUMA = np.array([0.299, 0.587, 0.114])


def noise(low: int, high: int, channels: int = 3, size: int = 24, seed: int = 0) -> Tensor:
    """Draw an image (C, size, size) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (channels, size, size), generator=generator).to(torch.uint8)


def fused(change: Any, image: Tensor, seed: int) -> Any:
    """Return what a fused change makes of an image, float64 (C, H, W), not rounded."""
    label = torch.zeros(image.shape[1:], dtype=torch.uint8)
    with seeded(seed):
        drawn = change.draw(tv_tensors.Image(image), tv_tensors.Mask(label))
    return change(image[None].float(), label[None], drawn[None])[0][0].double().numpy()


def place_of(name: str, **values: Any) -> Any:
    record = RECORDS[name]
    options = decode(record.options, values, "test")
    return record.on(options) if callable(record.on) else record.on


def test_where_they_run() -> None:
    assert {place_of(name) for name in FUSED} == {"batch"}
    assert {place_of(name, exact="true") for name in (*RECIPES, "color_jitter")} == {"worker"}


@pytest.mark.parametrize("name", FUSED)
def test_labels_and_further_channels_stay(name: str) -> None:
    image, label = blocks(20, 33)
    image = torch.cat([image, torch.arange(3 * 20 * 33).view(3, 20, 33).to(torch.uint8)])
    values = {"p": 1} if name in ("grayscale", "photometric_distortion") else {}
    for channels in (4, 6):
        out, classes = apply(build(name, **values), image[:channels], label, 1)
        assert torch.equal(classes, label) and torch.equal(out[3:], image[3:channels])
        three, _ = apply(build(name, **values), image[:3], label, 1)
        assert torch.equal(out[:3], three) and not torch.equal(three, image[:3])


# -------------------------------------------------------------------------------- color_jitter


def jitter(channels: int, image: Tensor, seed: int) -> Tensor:
    """Return what torchvision's ColorJitter makes of an image, with the default strengths."""
    with seeded(seed):
        out = v2.ColorJitter(0.25, 0.25, 0.25, 0.1)(tv_tensors.Image(image[:channels]))
    return out.as_subclass(Tensor)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_exact_color_jitter_is_torchvisions_draw_by_draw(channels: int) -> None:
    image, label = noise(0, 256, channels), torch.zeros(24, 24, dtype=torch.uint8)
    change = build("color_jitter", told={"num_channels": channels}, exact="true")
    for seed in range(12):
        out, classes = apply(change, image, label, seed)
        assert torch.equal(out[:3], jitter(min(channels, 3), image, seed))
        assert torch.equal(out[3:], image[3:]) and torch.equal(classes, label)


ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def step_by_step(change: Any, image: Tensor, seed: int) -> Tensor:
    """Return what torchvision's functions make of an image, by what a fused change draws."""
    with seeded(seed):
        steps = change.draw_steps()
    for name, amount in steps:
        image = ADJUST[name](image, amount)
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_is_torchvisions_where_nothing_is_clamped(channels: int) -> None:
    """In every order of its changes; all but hue, which has a definition of its own."""
    image, strengths = noise(100, 150, channels), {"brightness": 0.2, "contrast": 0.3}
    change = build("color_jitter", **strengths, saturation=0.4, hue=0)
    for seed in range(60):
        wanted = step_by_step(change, image.float() / 255, seed).numpy() * 255
        assert np.abs(fused(change, image, seed) - wanted).max() < 0.1  # of a grey level


def test_color_jitter_on_real_pictures_is_near_torchvisions() -> None:
    """Clamping, cut fractions and another hue: what they come to on microscope pictures."""
    samples = build_nuclei(NucleiOptions()).splits["train"]
    change, apart = build("color_jitter"), []
    for index in range(0, 60, 3):
        image = read_image(samples[index].image, "test")
        found = fused(change, image, index)
        apart.append(np.abs(found - step_by_step(change, image, index).numpy()).mean())
    assert np.mean(apart) < 3.0 and max(apart) < 16.0, (np.mean(apart), max(apart))


def test_color_jitter_draws_from_the_ranges_of_torchvisions_in_any_order() -> None:
    strengths = {"brightness": 0.4, "contrast": 1.5, "saturation": 0.2, "hue": 0.1}
    change, theirs = build("color_jitter", **strengths), v2.ColorJitter(**strengths)
    torch.manual_seed(0)
    rows = [change.draw_steps() for _ in range(4000)]
    for name in ADJUST:
        low, high = getattr(theirs, name)
        amounts = np.array([dict(row)[name] for row in rows])
        assert low <= amounts.min() and amounts.max() <= high
        shares = np.sort((amounts - low) / (high - low))
        assert np.abs(shares - np.linspace(0, 1, 4000)).max() < 0.03  # Kolmogorov and Smirnov's
    orders = Counter(tuple(name for name, _ in row) for row in rows)
    assert len(orders) == 24 and min(orders.values()) > 115  # of 167 each


def test_color_jitter_differs_from_picture_to_picture() -> None:
    image, label = blocks(20, 33)
    seen = {apply(build("color_jitter"), image, label, s)[0].float().mean() for s in range(10)}
    assert len(seen) == 10
    none = build("color_jitter", brightness=0, contrast=0, saturation=0, hue=0)
    assert torch.equal(apply(none, image, label, 0)[0], image)


@pytest.mark.parametrize("exact", ["false", "true"])
def test_brightness_alone_scales_within_its_range(exact: str) -> None:
    image, label = torch.full((3, 8, 8), 100).to(torch.uint8), torch.zeros(8, 8).to(torch.uint8)
    change = build("color_jitter", brightness=0.25, contrast=0, saturation=0, hue=0, exact=exact)
    values = [apply(change, image, label, seed)[0][0, 0, 0].item() for seed in range(200)]
    assert 75 <= min(values) < 80 and 120 < max(values) <= 125


@pytest.mark.parametrize("name", FUSED)
def test_grey_pictures_have_no_hue_and_no_saturation(name: str) -> None:
    image, label = noise(0, 256, 1), torch.zeros(24, 24, dtype=torch.uint8)
    off = {
        "color_jitter": {"brightness": 0, "contrast": 0},
        "grayscale": {"p": 1},
        "photometric_distortion": {"p": 1, "brightness": 0, "contrast": 0},
        "tf_color": {"brightness": 0, "contrast_min": 1, "contrast_max": 1},
    }[name]
    always = {"p": 1} if name == "photometric_distortion" else {}
    for more in [{}] if name == "grayscale" else [{}, {"exact": "true"}]:
        assert torch.equal(apply(build(name, **off, **more), image, label, 5)[0], image)
        if name != "grayscale":
            assert not torch.equal(apply(build(name, **always, **more), image, label, 4)[0], image)


# ----------------------------------------------------------------------------------- grayscale


def test_grayscale_gives_the_grey_value_in_each_channel() -> None:
    image = noise(0, 256)
    out = fused(build("grayscale", p=1), image, 0)
    wanted = np.tensordot(LUMA, image.numpy().astype(float), 1)
    assert np.abs(out - wanted).max() < 1e-3
    theirs = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"), float)
    assert np.abs(out - theirs).max() <= 0.51
    change, label = build("grayscale"), torch.zeros(24, 24, dtype=torch.uint8)
    same = sum(torch.equal(apply(change, image, label, s)[0], image) for s in range(300))
    assert 250 < same < 290  # nine of ten: standard deviation 5


# --------------------------------------------------------------------- photometric_distortion


def only(name: str, **values: Any) -> Any:
    """Build photometric_distortion, always, with one of its four changes."""
    rest = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0)
    return build("photometric_distortion", p=1, **{**rest, **values, name: values[name]})


def test_distortion_has_the_ranges_of_its_recipe() -> None:
    image = noise(100, 140)
    pixels = image.numpy().astype(float)
    grey = np.tensordot(LUMA, pixels, 1)
    added, factors, chromas, turns = [], [], [], []
    for seed in range(60):
        shift = fused(only("brightness", brightness=32), image, seed) - pixels
        assert np.ptp(shift) < 1e-3
        added.append(shift.mean())
        ratio = fused(only("contrast", contrast=0.5), image, seed) / pixels
        assert np.ptp(ratio) < 1e-5
        factors.append(ratio.mean())
        out = fused(only("saturation", saturation=0.5), image, seed)
        ratio = ((out - grey) / (pixels - grey))[np.abs(pixels - grey) > 5]
        assert np.ptp(ratio) < 1e-3
        chromas.append(ratio.mean())
        out = fused(only("hue", hue=0.1), image, seed)
        assert np.abs(np.tensordot(LUMA, out, 1) - grey).max() < 1e-3
        turns.append(np.abs(out - pixels).mean())
    for values, low, high in ((added, -32, 32), (factors, 0.5, 1.5), (chromas, 0.5, 1.5)):
        span = high - low
        assert low <= min(values) < low + span / 8 and high - span / 8 < max(values) <= high
    assert min(turns) < max(turns) / 8


def test_each_of_the_four_comes_half_of_the_time() -> None:
    image, label = noise(80, 150), torch.zeros(24, 24, dtype=torch.uint8)
    change = build("photometric_distortion")
    same = sum(torch.equal(apply(change, image, label, s)[0], image) for s in range(640))
    assert 20 < same < 65  # one of sixteen: 40, standard deviation 6


def test_contrast_comes_first_or_last() -> None:
    """One by one it matters, for what is clamped in between stays clamped."""
    image = torch.tensor([250, 40, 40], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    label = torch.zeros(4, 4, dtype=torch.uint8)
    both = {"p": 1, "brightness": 0, "hue": 0, "contrast": 0.5, "saturation": 0.5}
    fits = {"early": 0, "late": 0}
    for seed in range(80):
        change = build("photometric_distortion", exact="true", **both)
        out = apply(change, image.contiguous(), label, seed)[0][:, 0, 0].numpy().astype(float)
        with seeded(seed):
            steps = dict(build("photometric_distortion", **both).draw_steps())
        times, factor = steps["brightness"], steps["saturation"]
        most, rest = min(250 * times, 255), 40 * times
        early = [most, *[max(0.0, most - (most - rest) * factor)] * 2]
        late = [most, *[max(0.0, 250 - (250 - 40) * factor) * times] * 2]
        found = {n for n, v in (("early", early), ("late", late)) if np.abs(out - v).max() < 0.6}
        assert found
        for name in found:
            fits[name] += len(found) == 1
    assert fits["early"] > 4 and fits["late"] > 4


# ------------------------------------------------------------------------------------ tf_color


def test_tf_color_adds_first_then_stretches_each_channel_about_its_own_mean() -> None:
    image = noise(115, 140)
    pixels = image.numpy().astype(float)
    change = build("tf_color", saturation_min=1, saturation_max=1, hue=0, contrast_min=0.5)
    slopes, shifts = [], []
    for seed in range(80):
        out = fused(change, image, seed)
        own, new = pixels.mean((1, 2), keepdims=True), out.mean((1, 2), keepdims=True)
        slope = ((out - new) * (pixels - own)).sum() / ((pixels - own) ** 2).sum()
        assert np.abs(out - new - slope * (pixels - own)).max() < 1e-3
        assert np.ptp(new - own) < 1e-3
        slopes.append(slope)
        shifts.append((new - own).mean())
    assert 0.5 <= min(slopes) < 0.7 and 1.8 < max(slopes) <= 2.0
    assert -63.75 <= min(shifts) < -50 and 50 < max(shifts) <= 63.75


# --------------------------------------------------------------------------------- exact recipes


def in_hsv(pixels: Any, change: Any) -> Any:
    """Change each pixel of (3, H, W) in 0..255 in colorsys's HSV."""
    flat = pixels.reshape(3, -1).T / 255
    rows = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*row))) for row in flat]
    return np.array(rows).T.reshape(pixels.shape) * 255


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 30.0])
def test_saturation_of_hsv(factor: float) -> None:
    image = noise(0, 256, size=12)
    image[:, 0, 0], image[:, 0, 1] = 0, 90  # black and grey have no hue
    found = PIXELS["saturation"](image.float(), factor).numpy()
    wanted = in_hsv(image.numpy(), lambda h, s, v: (h, min(1.0, s * factor), v))
    assert np.abs(found - wanted).max() < 1e-2


@pytest.mark.parametrize("turn", [-0.4, 0.1])
def test_hue_of_hsv(turn: float) -> None:
    image = noise(0, 256, size=12)
    found = PIXELS["hue"](image.float(), turn).numpy()
    wanted = in_hsv(image.numpy(), lambda h, s, v: ((h + turn) % 1, s, v))
    assert np.abs(found - wanted).max() < 1e-2


@pytest.mark.parametrize("name", RECIPES)
def test_exact_and_fused_recipes_agree_where_they_should(name: str) -> None:
    """Brightness and contrast alone, where nothing is clamped: up to rounding."""
    image, label = noise(110, 140), torch.zeros(24, 24, dtype=torch.uint8)
    off = {"hue": 0, "saturation": 0} if name != "tf_color" else {"hue": 0}
    off |= {"saturation_min": 1, "saturation_max": 1} if name == "tf_color" else {}
    for seed in range(20):
        exact = apply(build(name, exact="true", **off), image, label, seed)[0].numpy()
        assert np.abs(fused(build(name, **off), image, seed) - exact).max() < 0.51


@pytest.mark.parametrize("name", RECIPES)
def test_exact_recipes_leave_further_channels_alone(name: str) -> None:
    image, label = noise(0, 256, 4), torch.zeros(24, 24, dtype=torch.uint8)
    out, classes = apply(build(name, exact="true"), image, label, 3)
    three, _ = apply(build(name, exact="true"), image[:3], label, 3)
    assert torch.equal(out, torch.cat([three, image[3:]])) and torch.equal(classes, label)
    assert not torch.equal(three, image[:3])


# ----------------------------------------------------------------------------- padding of a crop


def in_a_crop(image: Tensor, *, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Pad an image as a crop does, at the right and bottom, or at the left and top."""
    label = torch.zeros(image.shape[1:], dtype=torch.uint8)
    axes = frozenset({-1, -2} if mirrored else ())
    to = Placement(label.shape, label.shape, (30, 37), mirrored=axes)
    return placed(image, label, to)


COLORED = [*((name, exact) for name in ("color_jitter", *RECIPES) for exact in ("false", "true"))]
COLORED += [("grayscale", ""), ("trivial_augment", "")]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("name", "exact"), COLORED)
def test_padding_is_not_coloured_and_counts_for_nothing(
    name: str, exact: str, channels: int, mirrored: bool
) -> None:
    """What is inside becomes what it would without padding."""
    image, values = noise(0, 256, channels), {"exact": exact} if exact else {}
    bare = torch.zeros(24, 24, dtype=torch.uint8)
    padded, label = in_a_crop(image, mirrored=mirrored)
    change = build(name, told={"num_channels": channels}, **values)
    for seed in SEEDS[name]:
        out, classes = apply(change, padded, label, seed)
        wanted, _ = apply(change, image.flip(-1, -2) if mirrored else image, bare, seed)
        expected = padded.clone()
        expected[:, label != 255] = wanted.flatten(1)
        assert torch.equal(classes, label) and torch.equal(out, expected)


SEEDS = {name: range(8) for name, _ in COLORED} | {"trivial_augment": (1, 3, 4, 11, 14, 15, 18)}


def test_only_the_padding_of_a_crop_is_taken_for_it() -> None:
    image = torch.full((3, 8, 10), 116, dtype=torch.uint8)
    image[0], image[2] = 124, 104  # the colour of padding everywhere
    label = torch.zeros(8, 10, dtype=torch.uint8)
    assert inside_of(image, label) is None
    label[3], label[:, 4] = 255, 255  # ignored, but not at the edge
    label[5:, 6:] = 255
    assert inside_of(image, label) is None
    label[:, 7:] = 255
    assert inside_of(image, label) == (slice(0, 8), slice(0, 7))
    assert inside_of(image.flip(-1), label.flip(-1)) == (slice(0, 8), slice(3, 10))
    image[1, 7, 8] = 0
    assert inside_of(image, label) == (slice(0, 8), slice(0, 9))
    assert inside_of(image, torch.full_like(label, 255)) == (slice(7, 8), slice(8, 9))
    assert inside_of(image[:, :5], torch.full_like(label[:5], 255)) is None
