"""Augmentations: image and label move together, labels stay labels, sizes are exact."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from data_tools import facts
from segacc.data import seeded
from segacc.errors import OptionError
from segacc.hookspecs import Augmentation
from segacc.options import decode
from segacc.plugins.augmentations import segacc_augmentations


def build(name: str, crop: tuple[int, int] = (48, 64), **values: Any) -> Any:
    records = {record.name: record for record in segacc_augmentations()}
    record = records[name]
    assert isinstance(record, Augmentation) and record.on == "worker"
    options = decode(record.options, values, f"--aug {name}")
    return record.build(options, facts(crop_size=crop))


def apply(change: Any, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    with seeded(seed):
        image, label = change(tv_tensors.Image(image), tv_tensors.Mask(label))
    assert isinstance(image, tv_tensors.Image) and isinstance(label, tv_tensors.Mask)
    assert (image.dtype, label.dtype) == (torch.uint8, torch.uint8)
    assert image.shape[-2:] == label.shape
    return image.as_subclass(Tensor), label.as_subclass(Tensor)


def blocks(height: int, width: int, *, side: int = 12) -> tuple[Tensor, Tensor]:
    """Make a label of blocks 0..24 and an image whose channels say the label: 10 per class."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    label = ((7 * (y // side) + 3 * (x // side)) % 25).to(torch.uint8)
    return torch.stack([label * 10, label, 250 - label * 10]), label


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


def test_flip_mirrors_both_half_of_the_time() -> None:
    image, label = blocks(20, 33)
    for p, wanted in ((1, True), (0, False)):
        out, classes = apply(build("flip", p=p), image, label, 0)
        assert torch.equal(out, image.flip(-1) if wanted else image)
        assert torch.equal(classes, label.flip(-1) if wanted else label)
    change, times = build("flip"), 0
    for seed in range(200):
        out, classes = apply(change, image, label, seed)
        flipped = torch.equal(out, image.flip(-1))
        assert torch.equal(classes, label.flip(-1) if flipped else label)
        times += flipped
    assert 70 < times < 130


def test_color_jitter_changes_the_image_alone() -> None:
    image, label = blocks(20, 33)
    change, seen = build("color_jitter"), set()
    for seed in range(10):
        out, classes = apply(change, image, label, seed)
        assert out.shape == image.shape and not torch.equal(out, image)
        assert torch.equal(classes, label)
        seen.add(out.float().mean().item())
    assert len(seen) == 10
    none = build("color_jitter", brightness=0, contrast=0, saturation=0, hue=0)
    assert torch.equal(apply(none, image, label, 0)[0], image)


def test_brightness_alone_scales_within_its_range() -> None:
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    change = build("color_jitter", brightness=0.25, contrast=0, saturation=0, hue=0)
    label = torch.zeros(8, 8, dtype=torch.uint8)
    values = [apply(change, image, label, seed)[0][0, 0, 0].item() for seed in range(200)]
    assert 75 <= min(values) < 80 and 120 < max(values) <= 125


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "random_scale_crop",
            {"scale_min": "0"},
            "--aug random_scale_crop: \"scale_min\" is '0', expected number > 0: "
            "input should be greater than 0.",
        ),
        (
            "random_scale_crop",
            {"cat_max_ratio": "1.5"},
            "--aug random_scale_crop: \"cat_max_ratio\" is '1.5', expected number > 0 <= 1: "
            "input should be less than or equal to 1.",
        ),
        (
            "flip",
            {"prob": "1"},
            '--aug flip: unknown option "prob". Known: p.',
        ),
        (
            "color_jitter",
            {"hue": "0.6"},
            "--aug color_jitter: \"hue\" is '0.6', expected number >= 0 <= 0.5: "
            "input should be less than or equal to 0.5.",
        ),
    ],
)
def test_options_that_cannot_be(name: str, values: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as error:
        build(name, **values)
    assert str(error.value) == message
