"""rare_class_crop and copy_paste: rare classes are drawn by DAFormer's rule, and are seen more."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from augmentation_tools import Pair, apply, build, places
from segacc.data.order import seeded
from segacc.plugins.augmentations.rare_classes import draw_classes

SHARES = (0.7, 0.2, 0.08, 0.02)
TOLD: dict[str, Any] = {"num_classes": 4, "class_shares": SHARES}


# ---------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("temperature", [0.1, 0.5, 10.0])
def test_classes_are_drawn_by_rarity(temperature: float) -> None:
    present = [0, 2, 3]
    with seeded(0):
        drawn = Counter(draw_classes(present, SHARES, temperature)[0] for _ in range(2000))
    weights = np.exp([(1 - SHARES[k]) / temperature for k in present])
    for k, chance in zip(present, weights / weights.sum(), strict=True):
        error = math.sqrt(chance * (1 - chance) / 2000)
        assert abs(drawn[k] / 2000 - chance) < 4 * error + 1e-3


def test_several_classes_are_different_ones() -> None:
    with seeded(0):
        for _ in range(50):
            assert set(draw_classes([0, 1, 2, 3], SHARES, 1e-4, count=4)) == {0, 1, 2, 3}
            assert draw_classes([0, 3], SHARES, 1e-4) == [3]
            assert set(draw_classes([1, 2], SHARES, 0.1, count=5)) == {1, 2}


# ------------------------------------------------------------------------------ rare_class_crop


def corner(size: int = 120, side: int = 30) -> Pair:
    """Make an image of two halves with a small rare thing in a corner."""
    label = torch.zeros(size, size, dtype=torch.uint8)
    label[:, size // 2 :], label[:side, :side] = 1, 3
    return (label * 80).expand(3, size, size).contiguous(), label


def shown(name: str, **values: Any) -> list[int]:
    """Count the rare pixels of crops of 64x64."""
    change, counts = build(name, (64, 64), told=TOLD, cat_max_ratio=1, **values), []
    for seed in range(150):
        out, classes = apply(change, *corner(), seed)
        assert out.shape == (3, 64, 64)
        counts.append(int((classes == 3).sum()))
    return counts


def test_a_rare_class_crop_shows_the_rare_class() -> None:
    still = {"scale_min": 1, "scale_max": 1}
    plain, rare = shown("random_scale_crop", **still), shown("rare_class_crop", **still)
    assert np.mean(np.array(plain) >= 450) < 0.1
    assert np.mean(np.array(rare) >= 450) > 0.2  # half of the 900 that there are, in ten tries
    little = shown("rare_class_crop", min_pixels=20, **still)
    assert np.mean(np.array(little) >= 20) > np.mean(np.array(rare) >= 450)


def test_pixels_are_counted_as_the_crop_shows_them() -> None:
    """A threshold of N pixels is one of the scaled crop, not of the source."""
    for scale in (0.5, 2.0):
        change = build(
            "rare_class_crop",
            (64, 64),
            told=TOLD,
            cat_max_ratio=1,
            scale_min=scale,
            scale_max=scale,
            min_pixels=200,
        )
        rule = change.rule(corner()[1], (round(120 * scale), round(120 * scale)))
        counts = torch.zeros(256, dtype=torch.int64)
        counts[3] = round(200 / scale**2 * 1.05) if scale > 1 else round(112 / scale**2 * 1.05)
        assert rule(counts)  # at scale 0.5 there are but 225 in all: half of them will do
        counts[3] = int(counts[3]) * 0.9
        assert not rule(counts)


def test_no_class_dominates_a_rare_class_crop_either() -> None:
    change = build("rare_class_crop", (64, 64), told=TOLD, cat_max_ratio=0.5)
    rule = change.rule(corner()[1], (120, 120))
    counts = torch.zeros(256, dtype=torch.int64)
    counts[3], counts[0] = 1000, 999
    assert not rule(counts)
    counts[0] = 1001
    assert not rule(counts)
    counts[1] = 1000
    assert rule(counts)


def test_of_nothing_labelled_it_is_random_scale_crop() -> None:
    image = places(60, 63)[0]
    label = torch.full((60, 63), 255, dtype=torch.uint8)
    for seed in range(5):
        rare = apply(build("rare_class_crop", (40, 40), told=TOLD), image, label, seed)
        plain = apply(build("random_scale_crop", (40, 40)), image, label, seed)
        assert all(torch.equal(a, b) for a, b in zip(rare, plain, strict=True))


# ------------------------------------------------------------------------------------ copy_paste


def thing(kind: int, others: int = 0) -> Pair:
    """Make a sample with an L of one class, whose pixels say where they are, on others."""
    image, _ = places(40, 50)
    label = torch.full((40, 50), others, dtype=torch.uint8)
    label[10:22, 15:18], label[19:22, 15:27] = kind, kind
    return image, label


def paste(seed: int, partner: Pair, **values: Any) -> tuple[Tensor, Tensor]:
    image, label = torch.full((3, 60, 70), 250).to(torch.uint8), torch.zeros(60, 70).byte()
    change = build("copy_paste", told=TOLD, p=1, **values)
    return apply(change, image, label, seed, lambda: partner)


@pytest.mark.parametrize("flip", [0, 1])
def test_the_pixels_of_a_rare_class_are_pasted_as_they_are(flip: int) -> None:
    image, label = thing(3)
    starts = set()
    for seed in range(40):
        out, classes = paste(seed, (image, label), flip=flip, scale_min=1, scale_max=1)
        assert set(classes.unique().tolist()) == {0, 3}
        where = (classes == 3).nonzero()
        top, left = where.amin(0).tolist()
        object_ = label[10:22, 15:27], image[:, 10:22, 15:27]
        shape, pixels = (one.flip(-1) for one in object_) if flip else object_
        assert torch.equal(classes[top : top + 12, left : left + 12], shape)
        seen = out[:, top : top + 12, left : left + 12]
        assert torch.equal(seen[:, shape == 3], pixels[:, shape == 3])
        assert (out[:, classes != 3] == 250).all()
        starts.add((top, left))
    assert len(starts) > 35


def test_what_is_pasted_varies_in_size() -> None:
    sizes = []
    for seed in range(60):
        where = (paste(seed, thing(3), scale_min=0.5, scale_max=2)[1] == 3).nonzero()
        sizes.append((where.amax(0) - where.amin(0) + 1).tolist())
    assert all(tall == wide for tall, wide in sizes)
    assert min(sizes)[0] <= 7 and max(sizes)[0] >= 22


def test_what_is_larger_than_the_picture_is_cut() -> None:
    image, label = places(63, 63)
    label[:] = 3
    change = build("copy_paste", told=TOLD, p=1, scale_min=1, scale_max=1, flip=0)
    for seed in range(5):
        under = torch.full((3, 20, 30), 250).to(torch.uint8), torch.zeros(20, 30).byte()
        out, classes = apply(change, *under, seed, lambda: (image, label))
        assert (classes == 3).all()
        y, x = (int(value) // 4 for value in out[:2, 0, 0])
        assert torch.equal(out, image[:, y : y + 20, x : x + 30])


def test_the_rarest_of_the_partner_is_pasted_and_never_a_common_one() -> None:
    image, label = thing(3, others=2)
    label[30:], label[:5] = 0, 255
    assert {int(k) for s in range(10) for k in paste(s, (image, label))[1].unique()} == {0, 3}
    seen = {int(k) for s in range(40) for k in paste(s, (image, label), temperature=10)[1].unique()}
    assert seen == {0, 2, 3}
    both = paste(0, (image, label), classes=4, scale_min=1, scale_max=1)[1]
    assert (both == 3).any() and (both == 2).any()
    common, ignored = thing(0), thing(255, others=255)
    for partner in (common, ignored):
        out, classes = paste(0, partner)
        assert (classes == 0).all() and (out == 250).all()


@pytest.mark.parametrize(("tries", "found"), [(2, False), (3, True)])
def test_partners_are_tried_until_one_has_a_rare_class(tries: int, found: bool) -> None:
    asked = iter([thing(0), thing(0), thing(2), thing(3)])
    label = torch.zeros(60, 70, dtype=torch.uint8)
    change = build("copy_paste", told=TOLD, p=1, tries=tries)
    image = torch.zeros(3, 60, 70, dtype=torch.uint8)
    _, classes = apply(change, image, label, 0, lambda: next(asked))
    assert bool((classes == 2).any()) == found
    assert len(list(asked)) == 4 - tries
