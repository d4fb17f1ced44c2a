"""Samples and batches: what a worker reads, changes and hands over."""

import gc
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, get_worker_info
from torchvision import tv_tensors

from data_tools import encode, facts, random_sample
from segacc.data.augment import Pipeline, Stage
from segacc.data.batches import EvalData, Source, TrainData, end_workers, load, quiet
from segacc.data.items import Batch, Item, collate
from segacc.data.order import Cut, Order, StepSampler
from segacc.errors import DataError, SegaccError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap
from segacc.plugins.augmentations.geometry import (
    Mirror,
    RandomScaleCrop,
    RandomScaleCropOptions,
)

LABELS = LabelMap.plain(("sky", "road", "tree"))
CUT = Cut(batch_size=4, accumulation=2)


def global_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), rest


def numpy_noise(image: Any, label: Any) -> Any:
    """An augmentation of the kind that strangers write: it draws from numpy and from random."""
    shift = int(np.random.randint(1, 1000)) + random.randrange(1000)
    rolled = torch.roll(image.as_subclass(torch.Tensor), shift, dims=-1)
    return tv_tensors.Image(rolled), tv_tensors.Mask(torch.roll(label, shift, dims=-1))


def mix_halves(image: Any, label: Any, another: Any) -> Any:
    """Take the right half from another sample."""
    other, beside = another()
    image, label = image.clone(), label.clone()
    half = label.shape[-1] // 2
    image[..., half:], label[..., half:] = other[..., half:], beside[..., half:]
    return image, label


class Fade:
    """Darken a whole batch on the device, each picture by its own factor."""

    def draw(self, image: Any, label: Any) -> Any:
        return torch.rand(1)

    def __call__(self, images: Any, labels: Any, drawn: Any) -> Any:
        return images * drawn[:, :, None, None], labels


def pipeline(size: int = 16) -> Pipeline:
    crop = RandomScaleCrop(RandomScaleCropOptions(), facts(crop_size=(size, size)))
    flip = Mirror(0.5, -1)
    worker = Stage(numpy_noise), Stage(crop), Stage(mix_halves, partners=True), Stage(flip)
    return Pipeline(worker, (Stage(Fade()),))


def train_data(samples: Any = None, *, seed: int = 0, through: Any = None) -> TrainData:
    samples = [random_sample(number) for number in range(13)] if samples is None else samples
    order = Order(len(samples), seed=seed)
    return TrainData(Source(samples, LABELS), pipeline() if through is None else through, order)


def same(one: Item, other: Item) -> bool:
    mine, yours = ((i.image, i.label, *i.drawn) for i in (one, other))
    equal = all(torch.equal(a, b) for a, b in zip(mine, yours, strict=True))
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
    assert [tuple(one.shape) for one in first.drawn] == [(1,)]


def test_without_augmentations_a_sample_is_its_files() -> None:
    item = train_data(through=Pipeline())[3, 2]
    assert torch.equal(item.image, train_data(through=Pipeline())[0, 2].image)
    sample = random_sample(2)
    assert item.image.shape == (3, 24, 32)
    label = encode(item.label.numpy())
    assert label == sample.label


def windows() -> Pipeline:
    """Return a pipeline whose crop leaves its scaling to the device."""
    crop = RandomScaleCrop(RandomScaleCropOptions(), facts(crop_size=(16, 16)))
    flip = Stage(Mirror(0.5, -1), deferrable="flip")
    return Pipeline((Stage(numpy_noise), Stage(crop, deferrable="crop"), flip))


def batches(num_workers: int, *, first: int = 0, data: TrainData | None = None) -> list[Any]:
    given, steps = data or train_data(), range(first, 6)
    return list(given.loader(CUT, steps, positions=[], num_workers=num_workers, pin_memory=False))


def assert_equal_batches(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.placements == other.placements
        assert (one.ids, one.seeds, one.unreadable) == (other.ids, other.seeds, other.unreadable)
        assert all(torch.equal(a, b) for a, b in zip(one.drawn, other.drawn, strict=True))


def test_batches_do_not_depend_on_workers_nor_on_what_came_before() -> None:
    alone = batches(0)
    assert len(alone) == 12
    assert alone[0].images.shape == (4, 3, 16, 16) and alone[0].labels.shape == (4, 16, 16)
    torch.manual_seed(31)
    assert_equal_batches(batches(2), alone)
    assert_equal_batches(batches(1, first=4), alone[8:])
    assert [one.shape for one in alone[0].drawn] == [(4, 1)]
    keys = list(StepSampler(Order(13, seed=0), range(6), CUT))
    assert [batch.ids for batch in alone] == [
        tuple(f"s{index}" for _, index in keys_) for keys_ in keys
    ]


class Frozen(Dataset[int]):
    """Tell how many objects the search for garbage leaves out."""

    def __getitem__(self, place: int) -> int:
        return gc.get_freeze_count()


def test_a_worker_does_not_search_the_libraries_for_garbage() -> None:
    before = gc.get_freeze_count()
    [count] = load(Frozen(), 1, batch_size=None, sampler=range(1))
    assert count > 50_000 and gc.get_freeze_count() == before


def test_windows_do_not_depend_on_workers() -> None:
    wanted, found = (batches(n, data=train_data(through=windows())) for n in (0, 2))
    assert_equal_batches(found, wanted)
    assert all(len(batch.placements) == 4 for batch in found)
    assert len({place.window for batch in found for place in batch.placements}) > 10
    laid = [batch.laid_out() for batch in found]
    assert all(batch.images.shape == (4, 3, 16, 16) for batch in laid)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_never_draws_from_the_global_random_states(num_workers: int) -> None:
    before = global_states()
    batches(num_workers)
    data = EvalData(Source([random_sample(number) for number in range(3)], LABELS))
    list(data.loader(process=0, processes=1, num_workers=num_workers))
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
    "255. If these pixels should be ignored, add ignore=7; otherwise name the missing "
    "classes."
)


def test_bad_samples_are_returned_for_all_processes_to_count_them_together(
    bad: list[Sample],
) -> None:
    data = train_data(bad)
    assert data[0, 1].unreadable == OUTSIDE and (data[0, 1].label == 255).all()
    item = data[0, 2]
    assert item.unreadable == (
        f"{bad[2].label}: the label is missing; each image needs a label with the same name."
    )
    assert item.image.shape == (3, 16, 16) and (item.label == 255).all()
    scored = EvalData(Source(bad, LABELS))
    assert scored[1, False].unreadable == OUTSIDE
    passed = scored[2, True]
    assert (passed.id, passed.padding, passed.unreadable) == ("gone", True, item.unreadable)
    assert (passed.label == 255).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_arrives_as_an_empty_one_in_its_batch(
    num_workers: int, bad: list[Sample]
) -> None:
    data, one = train_data(bad, through=Pipeline()), Cut(batch_size=1)
    loader = data.loader(one, range(3), positions=[], num_workers=num_workers, pin_memory=False)
    order = StepSampler(data.order, range(3), one)
    found = dict(zip((keys[0][1] for keys in order), loader, strict=True))
    assert found[1].unreadable == (OUTSIDE,) and (found[1].labels == 255).all()
    assert found[0].unreadable == ("",)
    assert found[2].unreadable[0].startswith(f"{bad[2].label}: the label is missing")
    assert (found[2].labels == 255).all()
    scored = EvalData(Source(bad, LABELS)).loader(process=0, processes=1, num_workers=num_workers)
    items = list(scored)
    assert [type(item) for item in items] == [Item] * 3
    assert [bool(item.unreadable) for item in items] == [False, True, True]


# -------------------------------------------------------------------------------------- batches


def item(height: int, width: int, **rest: Any) -> Item:
    image = torch.full((3, height, width), 9, dtype=torch.uint8)
    label = torch.zeros(height, width, dtype=torch.uint8)
    return Item(image, label, f"{height}x{width}", 1, **rest)


def test_collate_stacks_items_of_one_size() -> None:
    batch = collate([item(4, 6), item(4, 6)])
    assert isinstance(batch, Batch)
    assert batch.images.shape == (2, 3, 4, 6) and batch.labels.shape == (2, 4, 6)
    assert (batch.ids, batch.seeds, batch.unreadable) == (("4x6",) * 2, (1, 1), ("", ""))


def test_a_batch_lies_in_memory_as_its_images_do_and_goes_to_the_network_in_planes() -> None:
    pixels = torch.arange(2 * 3 * 4 * 6, dtype=torch.uint8).view(2, 4, 6, 3).permute(0, 3, 1, 2)
    label = torch.zeros(4, 6, dtype=torch.uint8)
    beside = collate([Item(one, label) for one in pixels])
    planes = collate([Item(one.contiguous(), label) for one in pixels])
    mixed = collate([Item(pixels[0], label), Item(pixels[1].contiguous(), label)])
    orders = (torch.channels_last, torch.contiguous_format, torch.channels_last)
    for batch, order in zip((beside, planes, mixed), orders, strict=True):
        assert isinstance(batch, Batch)
        assert torch.equal(batch.images, pixels)
        assert batch.images.is_contiguous(memory_format=order)
        images = Pipeline().on_device(batch).images
        assert torch.equal(images, pixels) and images.is_contiguous()


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
    assert (batch.ids[1], batch.unreadable) == ("64x64", ("", "why", ""))
    alone = collate([item(64, 64, unreadable="why")] * 2)
    assert isinstance(alone, Batch) and alone.images.shape == (2, 3, 64, 64)


# ----------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_reads_originals_in_order_and_flags_padding(num_workers: int) -> None:
    samples = [random_sample(number, size=(10 + number, 20)) for number in range(5)]
    data = EvalData(Source(samples, LABELS))
    assert (data.num_samples, data.example_ids(2)) == (5, {"s0", "s2"})
    loader = data.loader(process=1, processes=2, num_workers=num_workers)
    items = list(loader)
    assert [(one.id, one.padding) for one in items] == [("s1", False), ("s3", False), ("s0", True)]
    assert [tuple(one.image.shape) for one in items] == [(3, 11, 20), (3, 13, 20), (3, 10, 20)]
    assert [tuple(one.label.shape) for one in items] == [(11, 20), (13, 20), (10, 20)]


def test_a_killed_worker_is_replaced_and_no_batch_is_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = EvalData(Source([random_sample(number) for number in range(60)], LABELS))
    given = {"process": 0, "processes": 1, "batch_size": 2}
    found = []
    for batch in data.batches(num_workers=2, **given):
        found.append(batch)
        if len(found) in (5, 12):
            multiprocessing.active_children()[0].kill()
    expected = list(data.batches(num_workers=0, **given))
    assert [[one.id for one in batch] for batch in found] == [
        [one.id for one in batch] for batch in expected
    ]
    assert all(torch.equal(a[0].image, b[0].image) for a, b in zip(found, expected, strict=True))
    assert capsys.readouterr().err.count("was killed, probably by the system because memory") == 2


def sleep(ready: Any, ignored: bool) -> None:
    """Sleep as a worker, which ignores signals, or as another process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if ignored:
        quiet(0)
    ready.put(True)
    time.sleep(60)


def test_workers_that_ignore_the_signal_are_ended_together() -> None:
    context = multiprocessing.get_context("fork")
    ready, ignored = context.SimpleQueue(), [True] * 5 + [False]
    workers = [context.Process(target=sleep, args=(ready, one), daemon=True) for one in ignored]
    for worker in workers:
        worker.start()
    assert all(ready.get() for _ in workers)
    start = time.monotonic()
    end_workers()
    took = time.monotonic() - start
    for worker in workers:
        worker.join(10)
    assert took < 1.5, "not half a second for each"
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * 5 + [-signal.SIGTERM]


class Holding(Dataset[int]):
    """Its worker holds the lock of the event that ends workers from one index on, if it has one."""

    def __init__(self, since: int, died: Path | None) -> None:
        self.since, self.died = since, died

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        if index == self.since and get_worker_info():
            frame = sys._getframe()
            while "done_event" not in frame.f_locals:
                assert frame.f_back is not None
                frame = frame.f_back
            with suppress(AttributeError):
                frame.f_locals["done_event"]._cond.acquire()
            if self.died and not self.died.exists():
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return index


@pytest.mark.parametrize(
    "dies",
    [pytest.param(True, marks=pytest.mark.slow, id="within"), pytest.param(False, id="at the end")],
)
def test_a_worker_killed_while_it_asks_for_the_end_blocks_nobody(
    tmp_path: Path, dies: bool
) -> None:
    """With the event of multiprocessing, which has a lock, it ends in the alarm."""
    data = Holding(5, tmp_path / "died") if dies else Holding(11, None)
    loader = load(data, num_workers=2, batch_size=None, sampler=range(12))

    def alarm(number: int, frame: object) -> None:
        raise AssertionError("the loader waits for ever")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(60)
    found = []
    try:
        for item in loader:
            found.append(item)
            if len(found) == 12:
                for worker in multiprocessing.active_children():
                    worker.kill()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (found, loader.lost) == (list(range(12)), 1 if dies else 0)
