"""Order, seeds and batches: functions of (seed, epoch, index), never of workers or of the past."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from data_tools import encode, facts, random_sample
from segacc.data import (
    Batch,
    EvalData,
    Item,
    StepSampler,
    TrainData,
    collate,
    epoch_order,
    eval_loader,
    sample_seed,
    seeded,
    share,
    train_loader,
)
from segacc.errors import DataError, SegaccError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap
from segacc.plugins.augmentations import (
    ColorJitterOptions,
    FlipOptions,
    RandomScaleCrop,
    RandomScaleCropOptions,
    build_color_jitter,
    build_flip,
)

LABELS = LabelMap.plain(("sky", "road", "tree"))
CUTS = [  # processes, batch size, accumulation: twelve images a step
    (processes, batch, 12 // processes // batch)
    for processes in (1, 2, 3, 4, 6, 12)
    for batch in (1, 2, 3, 4, 6, 12)
    if 12 % (processes * batch) == 0
]


def sampler(
    count: int, *, processes: int = 1, batch: int = 4, accumulation: int = 1, **rest: Any
) -> StepSampler:
    given = {"seed": 5, "first": 0, "last": 10, "process": 0, **rest}
    return StepSampler(
        count, batch_size=batch, accumulation=accumulation, processes=processes, **given
    )


def keys_by_step(count: int, cut: tuple[int, int, int], **rest: Any) -> list[list[Any]]:
    """Collect each step's keys from the samplers of all processes."""
    processes, batch, accumulation = cut
    steps: list[list[Any]] = []
    for process in range(processes):
        one = sampler(
            count,
            processes=processes,
            batch=batch,
            accumulation=accumulation,
            process=process,
            **rest,
        )
        batches = list(one)
        assert len(one) == len(batches)
        assert all(len(keys) == batch for keys in batches)
        for start in range(0, len(batches), accumulation):
            if process == 0:
                steps.append([])
            window = batches[start : start + accumulation]
            steps[start // accumulation] += [key for keys in window for key in keys]
    return steps


# ------------------------------------------------------------------------------------ the order


@pytest.mark.parametrize("count", [1, 5, 12, 37, 100])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_step_holds_the_same_samples_however_it_is_cut(
    count: int, cut: tuple[int, int, int]
) -> None:
    whole = keys_by_step(count, (1, 12, 1))
    assert [Counter(step) for step in keys_by_step(count, cut)] == [Counter(s) for s in whole]


@pytest.mark.parametrize("count", [1, 5, 12, 37, 100])
def test_no_sample_is_lost_or_repeated_within_an_epoch(count: int) -> None:
    keys = [key for step in keys_by_step(count, (2, 3, 2), last=50) for key in step]
    assert len(keys) == len(set(keys)) == 600
    for epoch in range(600 // count):
        seen = sorted(index for number, index in keys if number == epoch)
        assert seen == list(range(count))


@pytest.mark.parametrize("first", [1, 7, 9])
def test_a_resumed_sampler_goes_on_where_the_other_was(first: int) -> None:
    cut = {"processes": 2, "process": 1, "batch": 3, "accumulation": 2}
    whole = list(sampler(17, **cut))
    assert list(sampler(17, **cut, first=first)) == whole[first * 2 :]
    assert list(sampler(17, **cut, first=10)) == []


def test_orders_differ_by_epoch_and_by_seed_and_are_the_same_again() -> None:
    orders = [tuple(epoch_order(seed, epoch, 50)) for seed in (0, 1) for epoch in range(4)]
    assert len(set(orders)) == 8
    assert tuple(range(50)) not in orders
    epoch_order.cache_clear()
    assert tuple(epoch_order(0, 3, 50)) == orders[3]


def test_each_place_of_an_epoch_gets_each_sample_about_as_often() -> None:
    found = np.array([epoch_order(0, epoch, 4) for epoch in range(2000)])
    counts = np.array([[np.sum(found[:, place] == k) for k in range(4)] for place in range(4)])
    assert np.abs(counts - 500).max() < 100  # five standard deviations


def test_sample_seeds_are_all_different() -> None:
    seeds = {sample_seed(s, e, i) for s in range(3) for e in range(10) for i in range(200)}
    assert len(seeds) == 6000
    assert all(0 <= seed < 2**63 for seed in seeds)


# ---------------------------------------------------------------------------- seeds and samples


def draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()


def global_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), rest


def test_seeded_gives_the_same_draws_and_leaves_no_trace() -> None:
    before = global_states()
    with seeded(2**62 + 1):
        first = draws()
    assert global_states() == before
    with pytest.raises(ZeroDivisionError), seeded(3):
        draws()
        raise ZeroDivisionError
    assert global_states() == before
    draws()
    with seeded(2**62 + 1):
        assert draws() == first
    with seeded(2**62 + 2):
        assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_seeded_may_be_nested() -> None:
    with seeded(1):
        start = draws()
        with seeded(2):
            draws()
        after = draws()
    with seeded(1):
        assert (draws(), draws()) == (start, after)


def numpy_noise(image: Any, label: Any) -> Any:
    """An augmentation of the kind that strangers write: it draws from numpy and from random."""
    shift = int(np.random.randint(1, 1000)) + random.randrange(1000)
    rolled = torch.roll(image.as_subclass(torch.Tensor), shift, dims=-1)
    return tv_tensors.Image(rolled), tv_tensors.Mask(torch.roll(label, shift, dims=-1))


def augmentations(size: int = 16) -> list[Any]:
    crop = RandomScaleCrop(RandomScaleCropOptions(), facts(crop_size=(size, size)))
    flip = build_flip(FlipOptions(), facts())
    return [numpy_noise, crop, flip, build_color_jitter(ColorJitterOptions(), facts())]


def train_data(samples: Any = None, *, seed: int = 0, augment: Any = None) -> TrainData:
    samples = [random_sample(number) for number in range(13)] if samples is None else samples
    return TrainData(samples, LABELS, augmentations() if augment is None else augment, seed)


def same(one: Item, other: Item) -> bool:
    equal = torch.equal(one.image, other.image) and torch.equal(one.label, other.label)
    return equal and (one.id, one.seed) == (other.id, other.seed)


def test_a_sample_is_a_function_of_seed_epoch_and_index_alone() -> None:
    data, again = train_data(), train_data()
    before = global_states()
    first = data[1, 4]
    assert global_states() == before
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    for key in [(0, 4), (7, 1), (1, 5)]:
        assert not same(again[key], first)
    assert same(again[1, 4], first)
    assert not torch.equal(train_data(seed=1)[1, 4].image, first.image)
    assert (first.image.shape, first.label.shape) == ((3, 16, 16), (16, 16))
    assert (first.image.dtype, first.label.dtype) == (torch.uint8, torch.uint8)
    assert type(first.image) is type(first.label) is torch.Tensor
    assert (first.id, first.unreadable, first.padding) == ("s4", "", False)


def test_without_augmentations_a_sample_is_its_files() -> None:
    item = train_data(augment=[])[3, 2]
    assert torch.equal(item.image, train_data(augment=[])[0, 2].image)
    sample = random_sample(2)
    assert item.image.shape == (3, 24, 32)
    label = encode(item.label.numpy())
    assert label == sample.label


def batches(num_workers: int, *, first: int = 0, data: TrainData | None = None) -> list[Any]:
    order = sampler(13, first=first, last=6, accumulation=2)
    given = data or train_data()
    return list(train_loader(given, order, num_workers=num_workers, pin_memory=False))


def assert_equal_batches(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.items == other.items


def test_batches_do_not_depend_on_workers_nor_on_what_came_before() -> None:
    alone = batches(0)
    assert len(alone) == 12
    assert alone[0].images.shape == (4, 3, 16, 16) and alone[0].labels.shape == (4, 16, 16)
    torch.manual_seed(31)
    assert_equal_batches(batches(2), alone)
    assert_equal_batches(batches(1, first=4), alone[8:])
    keys = list(sampler(13, last=6, accumulation=2))
    assert [[id_ for id_, _, _ in batch.items] for batch in alone] == [
        [f"s{index}" for _, index in keys_] for keys_ in keys
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_never_draws_from_the_global_random_states(num_workers: int) -> None:
    before = global_states()
    batches(num_workers)
    data = EvalData([random_sample(number) for number in range(3)], LABELS)
    list(eval_loader(data, process=0, processes=1, num_workers=num_workers))
    assert global_states() == before


# ------------------------------------------------------------------------------------ bad data


@pytest.fixture
def bad(tmp_path: Path) -> list[Sample]:
    """A good sample, one whose label has an id outside the map, one without a label file."""
    outside = np.full((24, 32), 7, np.uint8)
    return [
        random_sample(0),
        Sample(random_sample(1).image, encode(outside), "outside"),
        Sample(random_sample(2).image, tmp_path / "gone.png", "gone"),
    ]


OUTSIDE = (
    "sample outside: label values outside the 3 classes: 7 (768 pixels). Allowed raw ids: 0-2, "
    "255. If these pixels should count for nothing, add ignore=7; otherwise name the missing "
    "classes."
)


def test_bad_samples_are_returned_for_all_processes_to_stop_together(bad: list[Sample]) -> None:
    data = train_data(bad)
    error = data[0, 1]
    assert type(error) is DataError and str(error) == OUTSIDE
    item = data[0, 2]
    assert item.unreadable == (
        f"{bad[2].label}: the label is missing; each image needs one of the same stem."
    )
    assert item.image.shape == (3, 16, 16) and (item.label == 255).all()
    scored = EvalData(bad, LABELS)
    assert type(scored[1, False]) is DataError and str(scored[1, False]) == OUTSIDE
    passed = scored[2, True]
    assert (passed.id, passed.padding, passed.unreadable) == ("gone", True, item.unreadable)
    assert (passed.label == 255).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_arrives_as_an_error_in_place_of_its_batch(
    num_workers: int, bad: list[Sample]
) -> None:
    order = StepSampler(
        3, seed=0, first=0, last=3, batch_size=1, accumulation=1, process=0, processes=1
    )
    loader = train_loader(train_data(bad), order, num_workers=num_workers, pin_memory=False)
    found = dict(zip((keys[0][1] for keys in order), loader, strict=True))
    assert type(found[1]) is DataError and str(found[1]) == OUTSIDE
    assert found[0].items[0][2] == ""
    assert found[2].items[0][2].startswith(f"{bad[2].label}: the label is missing")
    assert (found[2].labels == 255).all()
    data = EvalData(bad, LABELS)
    items = list(eval_loader(data, process=0, processes=1, num_workers=num_workers))
    assert [type(item) for item in items] == [Item, DataError, Item]


# -------------------------------------------------------------------------------------- batches


def item(height: int, width: int, **rest: Any) -> Item:
    image = torch.full((3, height, width), 9, dtype=torch.uint8)
    label = torch.zeros(height, width, dtype=torch.uint8)
    return Item(image, label, f"{height}x{width}", 1, **rest)


def test_collate_stacks_items_of_one_size() -> None:
    batch = collate([item(4, 6), item(4, 6)])
    assert isinstance(batch, Batch)
    assert batch.images.shape == (2, 3, 4, 6) and batch.labels.shape == (2, 4, 6)
    assert batch.items == (("4x6", 1, ""), ("4x6", 1, ""))


def test_collate_tells_of_different_sizes() -> None:
    error = collate([item(4, 6), item(5, 6), item(4, 6)])
    assert type(error) is DataError
    assert str(error) == (
        "--aug: the images of a batch have different sizes after augmentation: (4, 6), (5, 6). "
        "Add `--aug random_scale_crop` last, or use batch_size 1."
    )


def test_collate_hands_the_first_error_on() -> None:
    errors: list[SegaccError] = [UnreadableError("first"), DataError("second")]
    assert collate([item(4, 6), *errors]) is errors[0]


def test_an_unreadable_item_takes_the_size_of_the_others() -> None:
    batch = collate([item(4, 6), item(64, 64, unreadable="why"), item(4, 6)])
    assert isinstance(batch, Batch)
    assert batch.images.shape == (3, 3, 4, 6)
    assert (batch.labels[1] == 255).all() and (batch.labels[[0, 2]] == 0).all()
    assert (batch.images[1] == 0).all()
    assert batch.items[1] == ("64x64", 1, "why")
    alone = collate([item(64, 64, unreadable="why")] * 2)
    assert isinstance(alone, Batch) and alone.images.shape == (2, 3, 64, 64)


# ----------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 4, 11, 15])
def test_shares_cover_each_sample_once_and_are_equally_long(count: int, processes: int) -> None:
    shares = [share(count, process=one, processes=processes) for one in range(processes)]
    assert {len(one) for one in shares} == {-(-count // processes)}
    keys = [key for one in shares for key in one]
    assert sorted(index for index, padding in keys if not padding) == list(range(count))
    assert all(index == 0 for index, padding in keys if padding)
    assert sum(padding for _, padding in keys) == -count % processes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_reads_originals_in_order_and_flags_padding(num_workers: int) -> None:
    samples = [random_sample(number, size=(10 + number, 20)) for number in range(5)]
    data = EvalData(samples, LABELS)
    loader = eval_loader(data, process=1, processes=2, num_workers=num_workers)
    assert len(loader) == 3
    items = list(loader)
    assert [(one.id, one.padding) for one in items] == [("s1", False), ("s3", False), ("s0", True)]
    assert [tuple(one.image.shape) for one in items] == [(3, 11, 20), (3, 13, 20), (3, 10, 20)]
    assert [tuple(one.label.shape) for one in items] == [(11, 20), (13, 20), (10, 20)]
