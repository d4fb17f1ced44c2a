"""Splits by name, their slices, and a validation split carved out of the training split."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import datasets
import numpy as np
import pytest

from segacc.data.samples import ids_of
from segacc.data.splits import Part, carve, carved_line, chances_of, data_splits, pick_split
from segacc.errors import DataError, OptionError, SegaccError
from segacc.hookspecs import Chosen, Dataset, DataSplits, Sample, Stream
from segacc.labels import LabelMap
from segacc.plugins.datasets.nuclei import NucleiOptions, build_nuclei

LABELS = LabelMap.plain(("sky", "road"))


def samples(count: int, where: str = "s") -> list[Sample]:
    return [Sample(b"image", b"label", f"{where}{number}") for number in range(count)]


def no_samples(shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
    return iter(())


STREAM = Stream(shards=("a.tar",), read=no_samples)


def of(**splits: Any) -> DataSplits:
    """Make splits of so many samples, or of what is given."""
    ready = {
        name: samples(given, name) if isinstance(given, int) else given
        for name, given in splits.items()
    }
    return DataSplits(ready, LABELS)


def ids(splits: DataSplits, name: str) -> list[str]:
    picked = pick_split(splits, name, "--train-split")
    assert isinstance(picked, Sequence)
    return [sample.id for sample in picked]


def refusal(kind: type[SegaccError], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


# --------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", slice(None)),
        ("train[:4]", slice(4)),
        ("train[4:]", slice(4, None)),
        ("train[2:5]", slice(2, 5)),
        ("train[-3:]", slice(-3, None)),
        ("train[:-3]", slice(-3)),
        ("train[-5:-2]", slice(-5, -2)),
        ("train[:]", slice(None)),
        ("train[:99]", slice(99)),
        ("train[-99:2]", slice(-99, 2)),
    ],
)
def test_a_slice_is_that_of_a_list(name: str, expected: slice) -> None:
    whole = [f"train{number}" for number in range(11)]
    assert ids(of(train=11, test=2), name) == whole[expected]


@pytest.mark.parametrize("count", [1, 3, 10, 33, 101, 250])
def test_percentages_are_rounded_as_datasets_rounds_them(count: int) -> None:
    splits, whole = of(train=count), [f"train{number}" for number in range(count)]
    for first, last in [("", "10%"), ("10%", "20%"), ("33%", "67%"), ("50%", ""), ("", "100%")]:
        name = f"train[{first}:{last}]"
        (told,) = datasets.ReadInstruction.from_spec(name).to_absolute({"train": count})
        expected = whole[told.from_ : told.to]
        if expected:
            assert ids(splits, name) == expected
        else:
            with pytest.raises(DataError):
                pick_split(splits, name, "--train-split")


def test_percentages_from_the_end_never_become_the_start() -> None:
    splits = of(train=30)
    assert ids(splits, "train[-10%:]") == ["train27", "train28", "train29"]
    assert len(ids(splits, "train[:-10%]")) == 27
    assert len(ids(splits, "train[:-1%]")) == 30  # 0.3 samples are none
    assert refusal(DataError, lambda: pick_split(splits, "train[-1%:]", "--split")) == (
        '--split: "train[-1%:]" is empty: the split has 30 samples.'
    )


@pytest.mark.parametrize("count", [2, 7, 48, 101])
@pytest.mark.parametrize("percent", [20, 33, 50, 80])
def test_two_sides_of_a_cut_are_the_whole(count: int, percent: int) -> None:
    splits = of(train=count)
    sides = []
    for name in (f"train[:{percent}%]", f"train[{percent}%:]"):
        try:
            sides += ids(splits, name)
        except DataError:
            assert count == 2  # nothing is left of it on one side
    assert sides == [f"train{number}" for number in range(count)]


def test_a_slice_reads_a_sample_when_it_is_asked_for() -> None:
    @dataclass(frozen=True)
    class Counted(Sequence[Sample]):
        asked: list[int]

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: Any) -> Any:
            self.asked.append(index)
            return Sample(b"", b"", str(index))

    whole = Counted([])
    part = pick_split(of(train=whole), "train[20:30]", "--train-split")
    assert isinstance(part, Part) and len(part) == 10 and whole.asked == []
    assert [part[0].id, part[-1].id, part[3:5][1].id] == ["20", "29", "24"]
    assert whole.asked == [20, 29, 24]
    with pytest.raises(IndexError):
        part[10]


def test_slices_of_real_samples_can_be_sent_to_a_worker() -> None:
    splits = build_nuclei(NucleiOptions())
    part = pick_split(splits, "train[50%:60%]", "--train-split")
    assert isinstance(part, Part) and len(part) == 17  # 83..99 of 166
    again = pickle.loads(pickle.dumps(part))
    assert list(again) == [splits.splits["train"][number] for number in range(83, 100)]


def test_a_whole_split_is_returned_as_it_is() -> None:
    splits = of(train=3, video=STREAM)
    assert pick_split(splits, "train", "x") is splits.splits["train"]
    assert pick_split(splits, "video", "x") is STREAM


@pytest.mark.parametrize("name", ["val", "valid", "dev"])
def test_other_names_of_the_validation_split(name: str) -> None:
    splits = of(train=3, validation=6)
    assert pick_split(splits, name, "x") is splits.splits["validation"]
    part = pick_split(splits, f"{name}[:2]", "x")
    assert isinstance(part, Part) and list(part.indices) == [0, 1]
    own = of(**{name: 2, "validation": 6})
    assert pick_split(own, name, "x") is own.splits[name], "a split of that name comes first"


# ------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("name", ["valid", "valid[:5]"])
def test_an_unknown_split(name: str) -> None:
    text = refusal(OptionError, lambda: pick_split(of(train=3, test=2), name, "--eval-split"))
    assert text == '--eval-split: the data set has no split "valid"; it has train, test.'


def test_an_empty_split() -> None:
    text = refusal(DataError, lambda: pick_split(of(train=0), "train", "--train-split"))
    assert text == '--train-split: the split "train" is empty.'


@pytest.mark.parametrize("name", ["train[5:5]", "train[9:]", "train[4:2]", "train[:0]"])
def test_an_empty_slice(name: str) -> None:
    text = refusal(DataError, lambda: pick_split(of(train=9), name, "--train-split"))
    assert text == f'--train-split: "{name}" is empty: the split has 9 samples.'


@pytest.mark.parametrize(
    "name",
    ["train[50]", "train[a:b]", "train[::2]", "train[:5", "train[:5]x", "[:5]", "train[1.5:]"],
)
def test_a_slice_that_cannot_be_read(name: str) -> None:
    text = refusal(OptionError, lambda: pick_split(of(train=9), name, "--train-split"))
    assert text == (
        f'--train-split: cannot read "{name}". Slices are written train[:50], train[50:], '
        "train[-20:] or train[10%:20%]."
    )


def test_a_slice_of_two_units_or_of_too_much() -> None:
    splits = of(train=9)
    assert refusal(OptionError, lambda: pick_split(splits, "train[10%:5]", "--split")) == (
        '--split: "train[10%:5]" counts one end in samples and the other in percent; use one unit.'
    )
    assert refusal(OptionError, lambda: pick_split(splits, "train[:120%]", "--split")) == (
        '--split: "train[:120%]" is more than 100 % of the split.'
    )


def test_a_stream_cannot_be_cut() -> None:
    text = refusal(OptionError, lambda: pick_split(of(train=STREAM), "train[:9]", "--train-split"))
    assert text == (
        '--train-split: "train[:9]" is a slice of "train", which is streamed and cannot be '
        "sliced; give the whole split, train."
    )


# ---------------------------------------------------------------------------------------- carve


def carved(splits: DataSplits, fraction: float = 0.2, seed: int = 0, **names: str) -> DataSplits:
    given = {"train": "train", "validation": "validation", "where": "--val-fraction", **names}
    return carve(splits, fraction, seed, **given)


@pytest.mark.parametrize(
    ("count", "fraction", "share"),
    [
        (50, 0.2, 10),
        (10, 0.15, 2),
        (10, 0.14, 1),
        (7, 0.5, 4),
        (3, 0.01, 1),
        (3, 0.99, 2),
        (2, 0.5, 1),
    ],
)
def test_a_share_is_drawn_and_the_rest_is_trained_on(
    count: int, fraction: float, share: int
) -> None:
    splits = carved(of(train=count, test=4), fraction)
    assert list(splits.splits) == ["train", "validation", "test"] and splits.labels == LABELS
    left, drawn = ids(splits, "train"), ids(splits, "validation")
    assert (len(drawn), len(left)) == (share, count - share)
    whole = [f"train{number}" for number in range(count)]
    assert sorted(left + drawn) == sorted(whole)
    for part in (left, drawn):  # in the order of the split
        assert part == [one for one in whole if one in part]
    assert ids(splits, "test") == [f"test{number}" for number in range(4)]


def test_the_draw_is_the_seeds_alone() -> None:
    splits = of(train=40)
    first = ids(carved(splits), "validation")
    np.random.seed(7)
    np.random.random(3)
    assert ids(carved(splits), "validation") == first
    others = [ids(carved(splits, seed=seed), "validation") for seed in range(1, 6)]
    assert all(other != first for other in others)
    # Neither the first samples nor those that the first epoch sees first.
    assert first != [f"train{number}" for number in range(8)]
    epoch = np.random.default_rng((0, 0)).permutation(40)[:8]
    assert first != [f"train{number}" for number in sorted(epoch)]
    # Over many seeds each sample has its turn.
    seen = {one for seed in range(60) for one in ids(carved(splits, seed=seed), "validation")}
    assert len(seen) == 40


def test_a_slice_is_carved_as_in_the_tutorial() -> None:
    """Fifty images, a fifth of them for validation."""
    splits = carved(of(train=200, test=5), train="train[:50]")
    assert list(splits.splits) == ["train[:50]", "validation", "test"]
    left, drawn = ids(splits, "train[:50]"), ids(splits, "validation")
    assert (len(left), len(drawn)) == (40, 10)
    assert {*left, *drawn} == {f"train{number}" for number in range(50)}
    line = carved_line(splits, 0.2, 0, train="train[:50]", validation="validation")
    assert line == (
        "held out 10 of 50 samples of train[:50] as validation (--val-fraction 0.2, seed 0)"
    )
    # What was not chosen is in no split, so that no one trains on it by mistake.
    assert refusal(OptionError, lambda: pick_split(splits, "train", "--split")) == (
        '--split: the data set has no split "train"; it has train[:50], validation, test.'
    )


def test_a_slice_of_the_carved_split_may_be_scored() -> None:
    splits = carved(of(train=40), 0.25, validation="validation[:4]")
    assert len(ids(splits, "validation")) == 10
    assert ids(splits, "validation[:4]") == ids(splits, "validation")[:4]


def test_carved_samples_can_be_sent_to_a_worker() -> None:
    splits = carved(build_nuclei(NucleiOptions()), train="train[:30]", validation="held_out")
    assert list(splits.splits) == ["train[:30]", "held_out", "validation"]
    assert splits.crop_size == (192, 192)
    for name, count in (("train[:30]", 24), ("held_out", 6)):
        part = splits.splits[name]
        assert isinstance(part, Part)
        again = pickle.loads(pickle.dumps(part))
        assert list(again) == list(part) and len(again) == count


def test_carving_where_there_is_a_split_already() -> None:
    text = refusal(OptionError, lambda: carved(of(train=9, validation=2)))
    assert text == (
        '--val-fraction: the data set has a split "validation", so none can be held out from '
        '"train"; leave out the fraction.'
    )
    again = refusal(
        OptionError, lambda: carved(of(train=9, validation=2), validation="validation[:1]")
    )
    assert again == text


def test_carving_what_cannot_be_carved() -> None:
    assert refusal(OptionError, lambda: carved(of(train=STREAM))) == (
        '--val-fraction: the split "train" is streamed, so no fraction of it can be held out; '
        "choose a validation split of the data set."
    )
    assert refusal(DataError, lambda: carved(of(train=1))) == (
        '--val-fraction: the split "train" has one sample, which cannot be divided.'
    )
    assert refusal(OptionError, lambda: carved(of(test=5))) == (
        '--val-fraction: the data set has no split "train"; it has test.'
    )


def test_a_length_and_samples_by_index_are_enough() -> None:
    """Torch's data sets need not raise IndexError, without which a loop over them never ends."""

    class Drawn:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Sample:
            return Sample(b"image", b"label", f"s{index}")

    assert list(ids_of(cast("Sequence[Sample]", Drawn()))) == ["s0", "s1", "s2"]


# -------------------------------------------------------------------------------------- chances


def test_chances_follow_their_samples() -> None:
    weights = [float(number) for number in range(1, 31)]
    splits = DataSplits(
        {"train": samples(30), "test": samples(3)}, LABELS, chances={"train": weights}
    )
    assert chances_of(splits, "train") == weights
    other = DataSplits({"validation": samples(4)}, LABELS, chances={"validation": weights[:4]})
    assert chances_of(other, "val") == weights[:4] and chances_of(other, "val[:2]") == weights[:2]
    assert chances_of(splits, "train[10:13]") == [11.0, 12.0, 13.0]
    assert chances_of(splits, "train[50%:60%]") == [16.0, 17.0, 18.0]
    assert chances_of(splits, "test") is None and chances_of(splits, "test[:2]") is None
    for train in ("train", "train[5:25]"):
        parts = carved(splits, train=train)
        for name in (train, "validation"):
            expected = [float(one.removeprefix("s")) + 1 for one in ids(parts, name)]
            assert chances_of(parts, name) == expected


def test_without_chances_a_carved_split_has_none() -> None:
    assert carved(of(train=9)).chances == {}


# ---------------------------------------------------------------------------------- data_splits


def test_a_data_set_is_built_and_carved() -> None:
    record = Dataset(name="nine", summary="", options=dict, build=lambda options: of(train=9))
    chosen = Chosen(record, {}, "nine")
    whole, notes = data_splits(chosen, None, 0, scored="validation")
    assert ids(whole, "train") == [f"train{number}" for number in range(9)] and notes == ()
    parts, notes = data_splits(chosen, 0.3, 5, scored="validation[:2]", train="train[:8]")
    assert (len(ids(parts, "train[:8]")), len(ids(parts, "validation"))) == (6, 2)
    assert notes == (
        "held out 2 of 8 samples of train[:8] as validation (--val-fraction 0.3, seed 5)",
    )
    text = refusal(OptionError, lambda: data_splits(chosen, 0.3, 5, scored="train"))
    assert text == (
        '--val-fraction: the data set has a split "train", so none can be held out from "train"; '
        "leave out the fraction."
    )
