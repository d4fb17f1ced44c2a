"""Augmentations that move pixels: image and label together, labels stay labels, exact sizes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from augmentation_tools import apply, assert_one_grid, blocks, build, places
from data_tools import facts
from segacc.data.placement import padded, padding_color
from segacc.errors import OptionError
from segacc.plugins.augmentations.geometry import RandomScaleCrop, RandomScaleCropOptions
from segacc.plugins.augmentations.pairs import resized_pair


def test_at_scale_1_the_crop_is_a_piece_of_both() -> None:
    image, label = blocks(90, 130)
    change, places = build("random_scale_crop", scale_min=1, scale_max=1), set()
    for seed in range(20):
        out, classes = apply(change, image, label, seed)
        assert out.shape == (3, 48, 64)
        assert torch.equal(out[0], classes * 10) and torch.equal(out[2], 250 - classes * 10)
        windows = label.unfold(0, 48, 1).unfold(1, 64, 1)
        found = (windows == classes).all(-1).all(-1).nonzero().tolist()
        assert found
        places.add(tuple(found[0]))
    assert len(places) > 10


@pytest.mark.parametrize("size", [(33, 70), (20, 90), (70, 120), (180, 79)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resizing_is_torchvisions_however_the_pixels_lie(
    channels: int, size: tuple[int, int]
) -> None:
    random = torch.Generator().manual_seed(0)
    whole = torch.randint(0, 256, (channels, 90, 110), generator=random).to(torch.uint8)
    beside = whole.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as decoders leave them
    label = whole[0, 11:81, 7:97]
    classes = F.resize(label[None], list(size), v2.InterpolationMode.NEAREST_EXACT)[0]
    for image in (whole[:, 11:81, 7:97], beside[:, 11:81, 7:97]):
        wanted = F.resize(image, list(size), antialias=True)
        pair = resized_pair(image, label, size)
        assert torch.equal(pair[0], wanted) and torch.equal(pair[1], classes)
    # A picture as it is, not a window of one.
    assert torch.equal(
        resized_pair(beside, whole[0], size)[0], F.resize(whole, list(size), antialias=True)
    )


@pytest.mark.parametrize("scale", [0.5, 0.61, 0.8, 1.3, 1.7, 2.0])
def test_a_scaled_image_and_its_label_still_say_the_same(scale: float) -> None:
    image, label = blocks(200, 220, side=20)
    change = build("random_scale_crop", scale_min=scale, scale_max=scale)
    for seed in range(10):
        out, classes = apply(change, image, label, seed)
        said = (out[0].float() / 10).round()
        inner = torch.ones_like(classes, dtype=torch.bool)
        for shift in ((0, 2), (0, -2), (2, 0), (-2, 0)):  # not within two pixels of a border
            inner &= classes == classes.roll(shift, (0, 1))
        inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = False, False, False, False
        assert inner.float().mean() > 0.2
        assert torch.equal(said[inner], classes[inner].float())


def test_labels_do_not_lie_beside_their_image() -> None:
    """Rounding source places down, as torchvision does with masks, moves labels half a pixel."""
    image, label = torch.zeros(3, 160, 160, dtype=torch.uint8), torch.zeros(160, 160)
    image[:, 80:, :], label[80:, :] = 200, 1
    change, shifts = build("random_scale_crop", cat_max_ratio=1), []
    for transposed in (False, True):
        pair = (image.mT, label.mT) if transposed else (image, label)
        for seed in range(250):
            out, classes = apply(change, pair[0], pair[1].to(torch.uint8), seed)
            valid = classes != 255
            if valid.all() and 0 < classes.float().mean() < 1:
                bright = out[0].float() / 200 - classes.float()
                shifts.append((bright.sum() / classes.shape[transposed ^ 1]).item())
    assert len(shifts) > 100
    assert abs(np.mean(shifts)) < 0.1  # pixels; it was 0.47


@pytest.mark.parametrize("crop", [(48, 64), (64, 48), (2, 3), (7, 200)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 300), (300, 2), (50, 60), (400, 500)], ids=str)
@pytest.mark.parametrize("scale", [(0.03, 0.05), (0.5, 2.0), (6.0, 8.0)], ids=str)
def test_the_crop_has_exactly_its_size(
    scale: tuple[float, float], size: tuple[int, int], crop: tuple[int, int]
) -> None:
    image, label = blocks(*size)
    label[label == 3] = 255
    change = build("random_scale_crop", crop, scale_min=scale[0], scale_max=scale[1])
    allowed = {*label.unique().tolist(), 255}
    for seed in range(5):
        out, classes = apply(change, image, label, seed)
        assert out.shape == (3, *crop) and classes.shape == crop
        assert set(classes.unique().tolist()) <= allowed


def test_what_is_outside_a_small_image_is_ignored() -> None:
    image, label = blocks(20, 30)
    change = build("random_scale_crop", scale_min=1, scale_max=1)
    out, classes = apply(change, image, label, 0)
    assert torch.equal(out[:, :20, :30], image) and torch.equal(classes[:20, :30], label)
    assert (classes[20:] == 255).all() and (classes[:, 30:] == 255).all()
    for outside in (out[:, 20:], out[:, :, 30:]):  # ImageNet's mean colour
        assert all((outside[c] == value).all() for c, value in enumerate((124, 116, 104)))


def test_ignored_stays_ignored() -> None:
    image, label = blocks(90, 130)
    label[label % 3 == 0] = 255
    change = build("random_scale_crop", scale_min=1, scale_max=1)
    for seed in range(5):
        out, classes = apply(change, image, label, seed)
        assert torch.equal(classes == 255, (out[1] % 3) == 0)


def test_cat_max_ratio_draws_again_where_one_class_dominates() -> None:
    label = torch.zeros(300, 300, dtype=torch.uint8)
    label[:, :50] = 1  # a quarter of what is labelled; 255 does not count
    label[:, 200:] = 255
    image = torch.zeros(3, 300, 300, dtype=torch.uint8)

    def largest_shares(ratio: float) -> np.ndarray[Any, Any]:
        change, shares = build("random_scale_crop", (64, 64), cat_max_ratio=ratio), []
        for seed in range(150):
            _, classes = apply(change, image, label, seed)
            counts = torch.bincount(classes.flatten(), minlength=256)[:255]
            shares.append((counts.max() / counts.sum().clamp(min=1)).item() or 1.0)
        return np.array(shares)

    free, held = largest_shares(1.0), largest_shares(0.75)
    assert (free > 0.8).mean() > 0.7
    assert (held > 0.8).mean() < 0.45
    assert held.mean() < free.mean() - 0.1


@pytest.mark.parametrize("size", [(90, 130), (130, 90)], ids=str)
def test_factors_may_be_of_one_short_side_for_all_images(size: tuple[int, int]) -> None:
    image, label = blocks(*size)
    change = build("random_scale_crop", short_side=180, scale_min=0.5, scale_max=2)
    twice = build("random_scale_crop", scale_min=1, scale_max=4)  # of 90 pixels
    for seed in range(10):
        for mine, other in zip(
            apply(change, image, label, seed), apply(twice, image, label, seed), strict=True
        ):
            assert torch.equal(mine, other)


def test_scales_fill_their_range() -> None:
    ramp = torch.arange(240, dtype=torch.uint8).expand(3, 240, 240)
    label = (torch.arange(240)[:, None] // 20 % 7).expand(240, 240).to(torch.uint8)
    change, scales = build("random_scale_crop", (96, 96)), []
    for seed in range(200):
        out, classes = apply(change, ramp, label, seed)
        assert (classes != 255).all()
        slope = np.polyfit(np.arange(10, 86), out[0, 40, 10:86].float().numpy(), 1)[0]
        scales.append(1 / slope)
    assert 0.48 < min(scales) < 0.65 and 1.85 < max(scales) < 2.1
    assert abs(np.mean(scales) - 1.25) < 0.12  # uniform: standard error 0.03
    assert abs(np.std(scales) - 1.5 / 12**0.5) < 0.06


@pytest.mark.parametrize(("name", "axis"), [("flip", -1), ("vertical_flip", -2)])
def test_flips_mirror_both_half_of_the_time(name: str, axis: int) -> None:
    image, label = blocks(20, 33)
    for p, wanted in ((1, True), (0, False)):
        out, classes = apply(build(name, p=p), image, label, 0)
        assert torch.equal(out, image.flip(axis) if wanted else image)
        assert torch.equal(classes, label.flip(axis) if wanted else label)
    change, times = build(name), 0
    for seed in range(200):
        out, classes = apply(change, image, label, seed)
        flipped = torch.equal(out, image.flip(axis))
        assert torch.equal(classes, label.flip(axis) if flipped else label)
        times += flipped
    assert 70 < times < 130


@pytest.mark.parametrize("size", [(60, 60), (40, 63)], ids=str)
def test_rotate_samples_image_and_label_on_one_grid_about_the_middle(
    size: tuple[int, int],
) -> None:
    image, label = places(*size)
    change, angles = build("rotate", p=1, degrees=30), []
    for seed in range(20):
        out, classes = apply(change, image, label, seed)
        assert out.shape == image.shape
        found = assert_one_grid(out, classes, label).double().numpy()
        middle = np.array([size[0] - 1, size[1] - 1]) / 2
        to, source = found[:, :2] - middle, found[:, 2:] - middle
        (a, b), (c, d) = np.linalg.lstsq(to, source, rcond=None)[0]
        # A rotation: no scale, no shear, and the middle stays (to what 4 levels a pixel can show).
        assert np.allclose([a, b], [d, -c], atol=2e-3) and abs(a * d - b * c - 1) < 4e-3
        assert np.abs((source - to @ [[a, b], [c, d]]).mean(0)).max() < 0.03
        angles.append(math.degrees(math.atan2(b, a)))
    assert all(abs(angle) < 30.2 for angle in angles)
    assert min(angles) < -15 and max(angles) > 15


def test_what_rotates_in_from_outside_is_ignored() -> None:
    image, label = torch.full((3, 50, 50), 200, dtype=torch.uint8), torch.zeros(50, 50)
    change, seen = build("rotate", p=1, degrees=45), 0
    for seed in range(20):
        out, classes = apply(change, image, label.to(torch.uint8), seed)
        assert set(classes.unique().tolist()) <= {0, 255}
        corner = out[:, 0, 0].tolist()
        assert (out[:, classes == 0].float().mean() > 195) and (classes[20:30, 20:30] == 0).all()
        if (classes[:4, :4] == 255).all():
            seen += 1
            assert corner == [124, 116, 104]  # ImageNet's mean colour
    assert seen > 8


def test_rotate_leaves_the_others_as_they_are() -> None:
    image, label = places(30, 40)
    assert all(
        torch.equal(a, b)
        for a, b in zip(apply(build("rotate", p=0), image, label, 3), (image, label), strict=True)
    )
    change = build("rotate", p=0.25)
    same = sum(torch.equal(apply(change, image, label, s)[1], label) for s in range(200))
    assert 120 < same < 180


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "random_scale_crop",
            {"scale_min": "0"},
            "--aug random_scale_crop: scale_min: expected a number > 0; found '0'.",
        ),
        (
            "random_scale_crop",
            {"cat_max_ratio": "1.5"},
            "--aug random_scale_crop: cat_max_ratio: expected a number > 0 and <= 1; found '1.5'.",
        ),
        (
            "flip",
            {"prob": "1"},
            '--aug flip: unknown option "prob". Known: p.',
        ),
        (
            "rotate",
            {"degrees": "200"},
            "--aug rotate: degrees: expected a number >= 0 and <= 180; found '200'.",
        ),
        (
            "random_scale_crop",
            {"scale_min": "2", "scale_max": "1"},
            "--aug random_scale_crop: scale_min 2.0 is above scale_max 1.0.",
        ),
        (
            "cutmix",
            {"area_min": "0.6"},
            "--aug cutmix: area_min 0.6 is above area_max 0.5.",
        ),
        (
            "tf_color",
            {"saturation_max": "0.5"},
            "--aug tf_color: saturation_min 0.75 is above saturation_max 0.5.",
        ),
        (
            "copy_paste",
            {"classes": "0"},
            "--aug copy_paste: classes: expected an integer >= 1; found '0'.",
        ),
        (
            "random_erasing",
            {"fill": "black"},
            "--aug random_erasing: fill: expected one of noise, mean; found 'black'.",
        ),
        (
            "color_jitter",
            {"hue": "0.6"},
            "--aug color_jitter: hue: expected a number >= 0 and <= 0.5; found '0.6'.",
        ),
    ],
)
def test_options_that_cannot_be(name: str, values: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as error:
        build(name, **values)
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["flip", "vertical_flip"])
def test_flips_draw_and_move_as_torchvision_does(name: str) -> None:
    theirs: Any = v2.RandomHorizontalFlip() if name == "flip" else v2.RandomVerticalFlip()
    ours, moved = build(name), 0
    image = torch.arange(3 * 5 * 7, dtype=torch.uint8).reshape(3, 5, 7)
    pair = tv_tensors.Image(image), tv_tensors.Mask(image[0])
    for seed in range(20):
        torch.manual_seed(seed)
        wanted = theirs(*pair)
        torch.manual_seed(seed)
        found = ours(*pair)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert [type(one) for one in found] == [tv_tensors.Image, tv_tensors.Mask]
        moved += not torch.equal(found[0], image)
    assert 0 < moved < 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 7), (6, 7), (5, 9), (8, 9)], ids=str)
def test_padding_is_torchvisions(channels: int, size: tuple[int, int]) -> None:
    image = torch.randint(256, (channels, 5, 7), dtype=torch.uint8)
    found, classes = padded(image, image[0], size, 255)
    sides = [0, 0, size[1] - 7, size[0] - 5]
    assert torch.equal(found, F.pad(image, sides, fill=padding_color(channels)))
    assert torch.equal(classes, F.pad(image[:1], sides, fill=255)[0])


def test_a_picture_that_fits_is_looked_at_once_but_drawn_as_often() -> None:
    crop, looked = RandomScaleCrop(RandomScaleCropOptions(), facts(crop_size=(64, 64))), 0

    def refuse(counts: Any) -> bool:
        nonlocal looked
        looked += 1
        return False

    label, at = torch.zeros(40, 50, dtype=torch.uint8), [(0.3, 0.9), (0.0, 0.5), (0.99, 0.1)]
    assert crop._draw(label, (40, 50), refuse, at) == (0, 0, 40, 50)
    assert looked == 1
    wide = torch.zeros(80, 100, dtype=torch.uint8)
    assert crop._draw(wide, (80, 100), refuse, at) == (16, 3, 64, 64)  # the last of three
    assert looked == 4


@pytest.mark.parametrize("name", ["random_scale_crop", "rare_class_crop"])
def test_every_place_of_a_crop_is_as_likely(name: str) -> None:
    label = (torch.arange(20)[:, None] * 12 + torch.arange(12)).to(torch.uint8)  # all different
    values, found = {"scale_min": 1, "scale_max": 1, "cat_max_ratio": 1}, []
    for seed in range(900):
        more = {"min_pixels": 1} if name == "rare_class_crop" else {}
        told = {"num_classes": 240}
        change = build(name, (16, 10), told, **values, **more)
        _, classes = apply(change, label.expand(3, 20, 12), label, seed)
        found.append(divmod(int(classes[0, 0]), 12))
    if name == "random_scale_crop":
        counts = np.unique(found, axis=0, return_counts=True)[1]
        assert len(counts) == 5 * 3 and counts.min() > 35  # of 60 each
    assert {tuple(one) for one in found} == {(y, x) for y in range(5) for x in range(3)}
