"""Streams: who reads what, in what order, and how a reader goes on with the very next sample."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from data_tools import encode, facts, random_sample
from segacc.data.augment import Pipeline, Stage
from segacc.data.batches import EvalData, Source
from segacc.data.items import Batch, Item
from segacc.data.order import Cut
from segacc.data.streams import EvalStream, Position, Reader, TrainStream, deal
from segacc.errors import DataError
from segacc.evaluation.scoring import scored_data
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap
from segacc.plugins.augmentations.geometry import RandomScaleCrop, RandomScaleCropOptions
from stream_tools import Counted, FromLists, small_stream

LABELS = LabelMap.plain(("sky", "road", "tree"))
CUTS = [(1, 0), (1, 2), (2, 1), (2, 2), (3, 2)]
"""Processes, and workers of each."""


def roll(image: Any, label: Any) -> Any:
    """An augmentation that draws from torch, numpy and random."""
    shift = int(torch.randint(8, ())) + int(np.random.randint(8)) + random.randrange(8)
    rolled = image.as_subclass(torch.Tensor).roll(shift, -1)
    return tv_tensors.Image(rolled), tv_tensors.Mask(
        label.as_subclass(torch.Tensor).roll(shift, -1)
    )


def halves(image: Any, label: Any, another: Any) -> Any:
    """Take the right half from a partner."""
    other, beside = another()
    image, label = image.clone(), label.clone()
    image[..., 4:], label[..., 4:] = other[..., 4:], beside[..., 4:]
    return image, label


class Fade:
    """Draw a number for each sample, for the device."""

    def draw(self, image: Any, label: Any) -> Any:
        return torch.rand(1)

    def __call__(self, images: Any, labels: Any, drawn: Any) -> Any:
        return images * drawn[:, :, None, None], labels


def pipeline() -> Pipeline:
    crop = RandomScaleCrop(RandomScaleCropOptions(), facts(crop_size=(8, 8)))
    return Pipeline((Stage(roll), Stage(crop), Stage(halves, partners=True)), (Stage(Fade()),))


def training(stream: Stream, through: Pipeline | None = None, seed: int = 3) -> TrainStream:
    return TrainStream(stream, LABELS, 3, pipeline() if through is None else through, seed)


def load(data: TrainStream, cut: Cut, steps: range, workers: int, positions: Any = ()) -> list[Any]:
    loader = data.loader(cut, steps, positions=positions, num_workers=workers, pin_memory=False)
    return list(loader)


def ids(batch: Batch) -> list[str]:
    return list(batch.ids)


def assert_equal_batches(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.ids, one.seeds, one.unreadable) == (other.ids, other.seeds, other.unreadable)
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.placements == other.placements
        assert all(torch.equal(a, b) for a, b in zip(one.drawn, other.drawn, strict=True))
        assert one.position == other.position


def states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), rest


def test_windows_of_a_stream_go_on_from_any_batch() -> None:
    crop = RandomScaleCrop(RandomScaleCropOptions(), facts(crop_size=(8, 8)))
    pipeline = Pipeline((Stage(crop, deferrable="crop"),))
    data, cut = training(small_stream(7, 5, 9), pipeline), Cut(batch_size=3)
    whole = load(data, cut, range(8), 2)
    assert all(len(batch.placements) == 3 for batch in whole)
    assert all(batch.laid_out().images.shape == (3, 3, 8, 8) for batch in whole)
    latest: dict[int, Any] = {batch.position[0]: batch.position[1] for batch in whole[:4]}
    rest = load(data, cut, range(4, 8), 2, [latest[0], latest[1]])
    assert_equal_batches(rest, whole[4:])


# --------------------------------------------------------------------------------- who reads what


@pytest.mark.parametrize("readers", range(1, 9))
@pytest.mark.parametrize("shards", range(1, 10))
def test_each_sample_is_dealt_to_one_reader(shards: int, readers: int) -> None:
    order = list(np.random.default_rng(shards).permutation(shards))
    hands = [deal(order, reader, readers) for reader in range(readers)]
    owners = Counter(
        (shard, number)
        for hand in hands
        for shard, part, parts in hand
        for number in range(24)
        if number % parts == part
    )
    assert owners == {(shard, number): 1 for shard in range(shards) for number in range(24)}
    assert all(len(hand) <= shards // readers + 1 for hand in hands)
    if shards % readers == 0:
        assert all(parts == 1 for hand in hands for _, _, parts in hand)


def by_epoch(batches: list[Batch]) -> dict[int, list[str]]:
    """Collect ids by the epoch of their reader, of batches of one sample."""
    found: dict[int, list[str]] = {}
    for batch in batches:
        found.setdefault(batch.position[1]["epoch"], []).extend(ids(batch))
    return found


@pytest.mark.parametrize("counts", [(5, 3, 7, 1, 4, 6, 2), (9, 14), (20,)])
@pytest.mark.parametrize(("processes", "workers"), CUTS)
def test_an_epoch_has_each_sample_once(
    counts: tuple[int, ...], processes: int, workers: int
) -> None:
    data = training(small_stream(*counts), Pipeline())
    letters = zip("abcdefg", counts, strict=False)
    whole = Counter(f"{letter}{k}" for letter, count in letters for k in range(count))
    readers, seen, gone = max(1, workers), Counter[tuple[int, str]](), []
    for process in range(processes):
        cut = Cut(batch_size=1, process=process, processes=processes)
        batches = load(data, cut, range(4 * sum(counts)), workers)
        turns = [batch.position[0] for batch in batches]
        assert turns == [number % readers for number in range(len(batches))]
        for number in range(readers):
            own = by_epoch(batches[number::readers])
            seen.update((epoch, name) for epoch, names in own.items() for name in names)
            gone.append(max(own))  # the epochs before this one were gone through
    assert max(seen.values()) == 1 and min(gone) >= 2
    for epoch in range(min(gone)):
        assert Counter(name for at, name in seen if at == epoch) == whole


def reader(stream: Stream, number: int = 0, readers: int = 1, seed: int = 3) -> Reader:
    return Reader(TrainStream(stream, LABELS, 3, Pipeline(), seed), number, readers)


def names(one: Reader, count: int, position: Position | None = None) -> list[str]:
    return [item.id for item, _ in islice(one.items(position or Position()), count)]


def test_the_order_is_another_in_each_epoch_and_for_each_seed() -> None:
    stream = small_stream(8, 8, 8, buffer=6)
    order = names(reader(stream), 72)
    epochs = [order[:24], order[24:48], order[48:]]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(dict.fromkeys(name[0] for name in epoch)) for epoch in epochs}) > 1  # shards
    assert names(reader(stream), 72) == order
    assert names(reader(stream, seed=4), 72) != order


def test_a_buffer_shuffles_its_block_and_no_further() -> None:
    stream = small_stream(40, buffer=10)
    order = [int(name[1:]) for name in names(reader(stream), 40)]
    for block in range(4):
        part = order[10 * block : 10 * block + 10]
        assert sorted(part) == list(range(10 * block, 10 * block + 10)) != part
    assert names(reader(replace(stream, buffer=1)), 40) == [f"a{k}" for k in range(40)]
    shared = [int(name[1:]) for name in names(reader(stream, 1, 2), 5)]
    assert sorted(shared) == [1, 3, 5, 7, 9]  # two readers have half a buffer each


@pytest.mark.parametrize(("counts", "told"), [((1,), "a"), ((0, 0), "a ... b")])
def test_a_reader_without_samples_gives_up(counts: tuple[int, ...], told: str) -> None:
    with pytest.raises(DataError) as error:
        names(reader(small_stream(*counts), 1, 2), 1)
    assert str(error.value) == (
        f"{told}: 20 epochs contained no sample for reader 2 of 2 (processes x workers). Are the "
        "shards empty? With so few samples, use fewer processes or --num-workers 0."
    )
    assert names(reader(small_stream(1), 0, 2), 3) == ["a0", "a0", "a0"]


# ------------------------------------------------------------------------------ exact continuation


@pytest.mark.parametrize(
    ("processes", "workers", "batch_size"), [(1, 0, 3), (1, 2, 3), (2, 0, 2), (2, 3, 1)]
)
def test_it_goes_on_from_any_batch(processes: int, workers: int, batch_size: int) -> None:
    data = training(small_stream(6, 3, 4, 5, buffer=6 * processes * max(1, workers)))
    cut = Cut(batch_size=batch_size, process=processes - 1, processes=processes)
    last = 10
    whole = load(data, cut, range(last), workers)
    assert max(batch.position[1]["epoch"] for batch in whole) >= 1
    positions: list[Any] = [None] * max(1, workers)
    for step in range(last):
        stored = json.loads(json.dumps(positions))
        if not workers or step % 3 == 1:  # each start of workers takes its time
            assert_equal_batches(load(data, cut, range(step, last), workers, stored), whole[step:])
        turn, position = whole[step].position
        positions[turn] = position


def test_it_goes_on_between_micro_batches_of_several_epochs() -> None:
    data = training(small_stream(5, 2, buffer=4))
    cut = Cut(batch_size=2, accumulation=3)
    whole = load(data, cut, range(6), 2)
    assert len(whole) == 18
    for step in (1, 2, 5):  # an odd number of batches, so that the second worker is next
        positions = {batch.position[0]: batch.position[1] for batch in whole[: 3 * step]}
        again = load(data, cut, range(step, 6), 2, [positions[0], positions[1]])
        assert_equal_batches(again, whole[3 * step :])


def test_a_place_opens_one_shard_where_it_stands() -> None:
    asked: list[tuple[str, Any]] = []
    lists = small_stream(6, 6, 6, buffer=4)

    def read(shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        asked.append((shard, position))
        return lists.read(shard, position)

    one = reader(replace(lists, read=read))
    row = [(item.id, position) for item, position in islice(one.items(Position()), 15)]
    order = [shard for shard, _ in asked]
    asked.clear()
    position = row[13][1]
    assert position == Position(epoch=0, shard=1, position=6, passed=6, block=3, offset=2)
    assert names(one, 1, position) == [row[14][0]]
    assert asked == [(order[1], 6), (order[2], None)]


@pytest.mark.parametrize("workers", [0, 2])
def test_global_states_are_left_alone(workers: int) -> None:
    data = training(small_stream(7, 6))
    before = states()
    first = load(data, Cut(batch_size=2), range(5), workers)
    assert states() == before
    torch.manual_seed(8)
    np.random.seed(8)
    random.seed(8)
    assert_equal_batches(load(data, Cut(batch_size=2), range(5), workers), first)


def test_a_sample_is_drawn_anew_in_each_epoch() -> None:
    data = training(small_stream(1, buffer=1))
    first, second = load(data, Cut(batch_size=1), range(2), 0)
    assert ids(first) == ids(second) and first.seeds != second.seeds
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.drawn[0], second.drawn[0])


def test_partners_come_from_the_block() -> None:
    grey = [np.full((8, 8, 3), 10 * k, np.uint8) for k in range(24)]
    samples = {
        "a": [Sample(encode(one), encode(one[..., 0] * 0), f"a{k}") for k, one in enumerate(grey)]
    }
    stream = Stream(shards=("a",), read=FromLists(samples), buffer=4)
    data = training(stream, Pipeline((Stage(halves, partners=True),)))
    batches = load(data, Cut(batch_size=1), range(48), 0)
    partners = set()
    for batch in batches:
        own, other = (int(batch.images[0, 0, 0, column]) // 10 for column in (0, 7))
        assert f"a{own}" == ids(batch)[0] and own // 4 == other // 4
        partners.add((other - own) % 4)
    assert partners == {0, 1, 2, 3}


# ---------------------------------------------------------------------------------- what is wrong


def spoilt(label: bytes) -> Stream:
    """A stream whose sample a2 has another label."""
    stream = small_stream(6, buffer=1)
    samples = list(stream.read.samples["a"])  # type: ignore[attr-defined]
    samples[2] = replace(samples[2], label=label)
    return replace(stream, read=FromLists({"a": samples}))


def test_an_unreadable_sample_weighs_nothing() -> None:
    batches = load(training(spoilt(b"no picture"), Pipeline()), Cut(batch_size=3), range(2), 0)
    why = "sample a2: the label cannot be read: not an image of a known format."
    assert batches[0].unreadable == ("", "", why)
    assert (batches[0].labels[2] == 255).all() and (batches[0].labels[:2] < 3).all()
    assert ids(batches[1]) == ["a3", "a4", "a5"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_label_outside_the_map_is_handed_on(workers: int) -> None:
    seven = encode(np.full((8, 8), 7, np.uint8))
    data = training(spoilt(seven), Pipeline())
    found = load(data, Cut(batch_size=1), range(6 * max(1, workers)), workers)
    errors = [text for one in found for text in one.unreadable if text]
    assert len(found) == 6 * max(1, workers) and len(errors) == max(1, workers)
    assert errors[0].startswith("sample a2: label values outside the 3 classes: 7 (64 pixels).")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_cannot_be_read_is_told_in_every_batch_from_there(workers: int) -> None:
    stream = small_stream(4, 4, buffer=2, broken={"b": 2})
    found = load(training(stream, Pipeline()), Cut(batch_size=1, accumulation=2), range(6), workers)
    assert len(found) == 12
    texts = [str(one) if isinstance(one, DataError) else "" for one in found]
    assert set(texts) == {"", "b: the shard cannot be read."}
    for number in range(max(1, workers)):
        mine = texts[number :: max(1, workers)]
        assert mine == sorted(mine)  # the error comes to stay


# ------------------------------------------------------------------------------------------ memory


def test_no_more_samples_are_held_than_the_buffer() -> None:
    source = Counted(3000)
    stream = Stream(shards=("a", "b"), read=source, buffer=50)
    batches = load(training(stream, Pipeline()), Cut(batch_size=10), range(100), 0)
    assert len(batches) == 100 and source.made >= 1000
    assert source.most <= 51  # the buffer, and the one that is being read
    source.most = source.alive
    share = reader(stream, 1, 5)  # of five that read a buffer together, and two shards
    assert len(names(share, 300)) == 300
    assert source.most - source.alive <= 12


# -------------------------------------------------------------------------------------- evaluation


def scored(stream: Stream, processes: int, workers: int) -> list[list[Any]]:
    """Load the shares of all processes."""
    data = EvalStream(stream, LABELS, 3)
    given = range(processes)
    return [
        list(data.loader(process=one, processes=processes, num_workers=workers)) for one in given
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_all_processes_score_equally_many(processes: int, workers: int) -> None:
    shares = scored(small_stream(4, 0, 3), processes, workers)
    assert {len(share) for share in shares} == {-(-7 // processes)}
    order = [item for turn in zip(*shares, strict=True) for item in turn]
    real = [item for item in order if not item.padding]
    assert [item.id for item in real] == ["a0", "a1", "a2", "a3", "c0", "c1", "c2"]
    assert order[: len(real)] == real  # padding comes last
    for item in order[len(real) :]:
        assert item.image.shape == (3, 64, 64) and (item.label == 255).all()


def confusion(items: list[Item]) -> Any:
    """Count labels against a made up prediction that depends on the image."""
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for item in items:
        predicted = item.image.sum(0) % 3
        pairs = torch.bincount((3 * item.label.long() + predicted).ravel(), minlength=9)
        counts += pairs.view(3, 3) if not item.padding else 0
    return counts


def test_a_stream_scores_as_the_same_samples_in_a_list_do() -> None:
    sizes = [(8, 8), (5, 9), (12, 4), (7, 7), (8, 16)]
    samples = [random_sample(k, size=size) for k, size in enumerate(sizes)]
    listed = EvalData(Source(samples, LABELS))
    wanted = confusion(list(listed.loader(process=0, processes=1, num_workers=0)))
    assert wanted.sum() == sum(height * width for height, width in sizes)
    read = FromLists({"a": samples[:2], "b": samples[2:]})
    stream = Stream(shards=("a", "b"), read=read)
    for processes in (1, 2, 3):
        shares = scored(stream, processes, 0)
        assert torch.equal(sum(confusion(share) for share in shares), wanted)


def test_the_first_samples_are_kept_for_pictures() -> None:
    read: list[str] = []
    lists = small_stream(3, 3)

    def noted(shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        read.append(shard)
        return lists.read(shard, position)

    data = EvalStream(replace(lists, read=noted), LABELS, 3)
    assert data.example_ids(0) == frozenset() and read == []
    assert data.example_ids(2) == {"a0", "a1"} and read == ["a"]
    assert data.example_ids(4) == {"a0", "a1", "a2", "b0"}
    assert data.example_ids(100) == {"a0", "a1", "a2", "b0", "b1", "b2"}
    assert data.num_samples is None
    assert isinstance(scored_data(lists, LABELS, 3), EvalStream)


def test_all_processes_meet_a_shard_that_cannot_be_scored() -> None:
    for share in scored(small_stream(4, 4, broken={"b": 1}), 3, 0):
        *items, error = share
        assert all(isinstance(item, Item) for item in items)
        assert isinstance(error, DataError) and str(error) == "b: the shard cannot be read."


@dataclass(frozen=True)
class Breaks:
    """What `Stream.read` of a stranger is, on a connection that breaks."""

    def __call__(self, shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        yield random_sample(0, size=(8, 8)), 1
        raise ConnectionResetError("the other side\n is gone.")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_reader_raises_is_handed_on_for_all_processes_to_stop(workers: int) -> None:
    stream = Stream(shards=("far.tar",), read=Breaks(), buffer=1)
    (share,) = scored(stream, 1, workers)
    loader = training(stream).loader(
        Cut(batch_size=1), range(3), positions=[None], num_workers=workers, pin_memory=False
    )
    text = "far.tar: the shard cannot be read: ConnectionResetError the other side is gone."
    for told in (share, list(loader)):
        assert [str(one) for one in told[1:]] == [text] * (len(told) - 1) != []
        assert isinstance(told[0], Item | Batch) and isinstance(told[1], DataError)


def test_an_empty_split_is_an_error() -> None:
    for share in scored(small_stream(0, 0), 2, 0):
        assert [str(one) for one in share] == ["a, b: the split has no sample."]
