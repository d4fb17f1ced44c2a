"""Augmentations of several samples: what comes from where, pixel for pixel."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from augmentation_tools import Pair, apply, build, places


def filled(value: int, size: tuple[int, int] = (40, 50)) -> Pair:
    """Make a sample of one class and one grey value."""
    return torch.full((3, *size), value).to(torch.uint8), torch.full(size, value).to(torch.uint8)


def window(marks: Tensor) -> tuple[slice, slice]:
    """Return what the marks (H, W) bool fill, which must be a whole rectangle."""
    rows, columns = marks.any(1).nonzero()[:, 0].tolist(), marks.any(0).nonzero()[:, 0].tolist()
    assert len(rows) * len(columns) == marks.sum() > 0
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def never() -> Pair:
    raise AssertionError("no partner is needed")


# -------------------------------------------------------------------------------------- cutmix


def test_cutmix_lays_a_rectangle_where_it_was() -> None:
    image, label = filled(250)
    other, beside = places(40, 50)
    change, areas, ratios = build("cutmix", p=1), [], []
    for seed in range(100):
        out, classes = apply(change, image, label, seed, lambda: (other, beside))
        box = window(classes != 250)
        assert torch.equal(out[:, *box], other[:, *box])
        assert torch.equal(classes[box], beside[box])
        assert (out[:, classes == 250] == 250).all()
        tall, wide = classes[box].shape
        areas.append(tall * wide / 2000)
        ratios.append(tall / wide)
    assert 0.08 < min(areas) < 0.15 and 0.45 < max(areas) < 0.53
    assert 0.45 < min(ratios) < 0.65 and 1.55 < max(ratios) < 2.2


def test_cutmix_takes_ignored_pixels_over() -> None:
    image, label = filled(3)
    other, beside = filled(255)
    out, classes = apply(build("cutmix", p=1), image, label, 0, lambda: (other, beside))
    assert (classes == 255).any() and torch.equal(classes == 255, out[0] == 255)


@pytest.mark.parametrize("size", [(20, 63), (63, 20), (3, 2)], ids=str)
def test_cutmix_with_a_partner_of_another_size(size: tuple[int, int]) -> None:
    image, label = filled(250)
    other, beside = places(*size)
    change = build("cutmix", p=1)
    for seed in range(30):
        out, classes = apply(change, image, label, seed, lambda: (other, beside))
        assert classes.shape == (40, 50)
        rows, columns = window(classes != 250)
        y, x = int(out[0, rows, columns][0, 0]) // 4, int(out[1, rows, columns][0, 0]) // 4
        tall, wide = classes[rows, columns].shape
        assert torch.equal(classes[rows, columns], beside[y : y + tall, x : x + wide])
        assert torch.equal(out[:, rows, columns], other[:, y : y + tall, x : x + wide])


@pytest.mark.parametrize("name", ["cutmix", "class_mix", "mosaic", "copy_paste"])
def test_mixing_comes_now_and_then(name: str) -> None:
    image, label = filled(0)
    assert torch.equal(apply(build(name, p=0), image, label, 0, never)[0], image)
    change, calls, changed = build(name, p=0.3, told={"class_shares": (0.8, 0.1, 0.1)}), [], 0

    def another() -> Pair:
        calls.append(1)
        return filled(1)

    for seed in range(200):
        calls.clear()
        out, _ = apply(change, image, label, seed, another)
        assert torch.equal(out, image) == (not calls)
        changed += bool(calls)
    assert 35 < changed < 85


# ----------------------------------------------------------------------------------- class_mix


@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.2, 1), (1.0, 5)])
def test_class_mix_pastes_some_classes_wholly(share: float, count: int) -> None:
    image, label = filled(250)
    other, _ = places(40, 50)
    beside = torch.randint(6, (40, 50), generator=torch.Generator().manual_seed(0))
    beside = beside.where(beside < 5, 255).to(torch.uint8)  # five classes, and ignored ones
    change, times = build("class_mix", p=1, share=share), Counter[int]()
    for seed in range(100):
        out, classes = apply(change, image, label, seed, lambda: (other, beside))
        new = set(classes.unique().tolist()) - {250}
        assert len(new) == count and 255 not in new
        pasted = torch.isin(beside, torch.tensor(sorted(new), dtype=torch.uint8))
        assert torch.equal(classes, beside.where(pasted, label))
        assert torch.equal(out, other.where(pasted, image))
        times.update(new)
    assert all(abs(times[k] - 20 * count) < 25 for k in range(5))


def test_class_mix_with_a_partner_of_another_size_and_with_one_of_nothing() -> None:
    image, label = filled(250)
    other, beside = places(20, 60)
    change, starts = build("class_mix", p=1, share=1), set()
    for seed in range(30):
        out, classes = apply(change, image, label, seed, lambda: (other, beside))
        rows, columns = window(classes != 250)
        assert (rows.stop - rows.start, columns) == (20, slice(0, 50))
        x = int(out[1, rows.start, 0]) // 4
        assert torch.equal(classes[rows], beside[:, x : x + 50])
        assert torch.equal(out[:, rows], other[:, :, x : x + 50])
        starts.add((rows.start, x))
    assert len(starts) > 20
    out, classes = apply(change, image, label, 0, lambda: filled(255))
    assert torch.equal(classes, label) and torch.equal(out, image)


# -------------------------------------------------------------------------------------- mosaic


def test_a_mosaic_has_four_samples_around_a_point() -> None:
    image, label = filled(1, (100, 90))
    change, centres = build("mosaic", (48, 64), p=1), []
    for seed in range(60):
        others = iter([filled(2, (70, 100)), filled(3, (60, 99)), filled(4, (200, 80))])
        out, classes = apply(change, image, label, seed, lambda: next(others))  # noqa: B023
        assert classes.shape == (48, 64)
        assert all(torch.equal(channel, classes) for channel in out)
        rows, columns = window(classes == 1)
        y, x = rows.stop, columns.stop
        wanted = torch.ones(48, 64, dtype=torch.uint8)
        wanted[:y, x:], wanted[y:, :x], wanted[y:, x:] = 2, 3, 4
        assert torch.equal(classes, wanted)
        centres.append((y / 48, x / 64))
    for places_ in zip(*centres, strict=True):
        assert 0.24 < min(places_) < 0.35 and 0.65 < max(places_) < 0.76


def test_a_mosaic_cuts_whole_pieces_at_random() -> None:
    sample = places(60, 63)
    change, starts = build("mosaic", (40, 40), p=1, margin=0.5), set()
    for seed in range(30):
        out, classes = apply(change, *sample, seed, lambda: sample)
        for rows in (slice(0, 20), slice(20, 40)):
            for columns in (slice(0, 20), slice(20, 40)):
                y, x = (int(value) // 4 for value in out[:2, rows, columns][:, 0, 0])
                assert torch.equal(classes[rows, columns], sample[1][y : y + 20, x : x + 20])
                assert torch.equal(out[:, rows, columns], sample[0][:, y : y + 20, x : x + 20])
                starts.add((y, x))
    assert len(starts) > 100


@pytest.mark.parametrize("margin", [0, 0.25])
def test_small_samples_are_enlarged_until_they_fill_their_quarter(margin: float) -> None:
    change = build("mosaic", (48, 64), p=1, margin=margin)
    for seed in range(30):
        others = iter([filled(2, (1, 1)), filled(3, (5, 90)), filled(4, (90, 4))])
        out, classes = apply(change, *filled(1, (3, 4)), seed, lambda: next(others))  # noqa: B023
        assert classes.shape == (48, 64) and set(classes.unique().tolist()) <= {1, 2, 3, 4}
        assert torch.equal(out[0], classes)


def test_labels_of_enlarged_samples_lie_under_their_images() -> None:
    """A checked picture: wherever it shows one of its colours, the label says the same."""
    y, x = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    label = ((y // 4 + x // 4) % 2).to(torch.uint8)
    image = (label * 200).expand(3, 12, 12).contiguous()
    change = build("mosaic", (96, 96), p=1, margin=0.5)
    for seed in range(5):
        out, classes = apply(change, image, label, seed, lambda: (image, label))
        clear = (out[0] < 60) | (out[0] > 140)
        assert clear.float().mean() > 0.7
        assert torch.equal((out[0] > 100)[clear], (classes == 1)[clear])


# ----------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("name", ["cutmix", "class_mix", "mosaic", "copy_paste"])
def test_mixing_makes_no_new_values(name: str) -> None:
    image, label = places(40, 50)
    label[:, ::7] = 255
    other, beside = places(37, 61, seed=1)
    beside[::5] = 255
    allowed = {*label.unique().tolist(), *beside.unique().tolist()}
    told: dict[str, Any] = {"num_classes": 200, "class_shares": (1 / 200,) * 200}
    change = build(name, p=1, told=told)
    for seed in range(10):
        out, classes = apply(change, image, label, seed, lambda: (other, beside))
        assert set(classes.unique().tolist()) <= allowed
        assert not torch.equal(classes, label)
        assert (out[2] == 0).all()  # as in both
