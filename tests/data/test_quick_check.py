"""The glance at the data before a run: what stops it, what it warns of, how little it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from check_tools import chosen
from cli_tools import write_data
from data_tools import encode, random_sample
from segacc.data.quick_check import quick_check
from segacc.data.samples import build_splits
from segacc.errors import DataError
from segacc.hookspecs import DataSplits, Sample, Stream
from segacc.labels import LabelMap
from stream_tools import write_samples

LABELS = LabelMap.plain(("background", "disc", "bar"))
TOLD = "`segacc check-data` shows"


def glance(train: Any, scored: Any = (), **settings: Any) -> tuple[str, ...]:
    splits = {"train": train, "validation": scored}
    given: dict[str, Any] = {"skip_unreadable": False, "seconds": 60.0, **settings}
    return quick_check(splits, LABELS, 3, **given)


def labelled(values: Sequence[int], where: str) -> list[Sample]:
    """Make samples whose labels are of one value each."""
    samples = [random_sample(number, where=where) for number in range(len(values))]
    return [
        Sample(sample.image, encode(np.full((24, 32), value, np.uint8)), sample.id)
        for sample, value in zip(samples, values, strict=True)
    ]


class Counted(Sequence[Sample]):
    """Samples that note which of them are asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        return random_sample(index % 5, where=f"{self.count}-{index}-")


def test_good_data_is_not_talked_about(tmp_path: Path) -> None:
    built = build_splits(chosen(f"folder:root={write_data(tmp_path / 'd')}"))
    assert quick_check(built.splits, built.labels, 3, skip_unreadable=False) == ()


def test_sixteen_samples_of_each_split_are_read_evenly_spread() -> None:
    train, scored = Counted(64), Counted(16)
    assert glance(train, scored) == ()
    assert train.asked[:16] == list(range(0, 64, 4))
    assert scored.asked[:16] == list(range(16))


def test_it_ends_when_the_time_is_up() -> None:
    train, scored = Counted(64), Counted(64)
    assert glance(train, scored, seconds=0.0) == ()
    assert len(train.asked) + len(scored.asked) <= 4


def test_labels_that_are_all_ignored() -> None:
    good = [random_sample(number) for number in range(6)]
    ignored = labelled([255] * 5, "i")
    assert glance(ignored, good) == (
        "train: all 5 labels checked are ignored everywhere: there is nothing to train on or "
        "evaluate. "
        f"{TOLD} which values the files have.",
    )
    assert glance(ignored[:1], good)[0].startswith("train: the only label is ignored everywhere")
    assert glance([*ignored, good[0]], good[1:]) == ()


def test_labels_of_one_class() -> None:
    good = [random_sample(number) for number in range(6)]
    assert glance(good, labelled([0, 0, 255, 0], "v")) == (
        "validation: all 4 labels checked contain a single class, background. "
        f"{TOLD} which values the files have.",
    )
    assert glance(good, labelled([0, 0, 0], "v")) == (), "three are too few to say so"
    assert glance(good, labelled([0, 1, 0, 1], "v")) == ()


def test_classes_for_pixels_without_a_label_are_told() -> None:
    labels = LabelMap.plain(("sky", "Out of ROI", "road", "pole", "un-labelled"), ignore=(3,))
    told = quick_check({"train": []}, labels, 3, skip_unreadable=False)
    assert told == (
        "the class Out of ROI (like un-labelled) is trained and scored, though its name means `no "
        'label`. To ignore its pixels, add map={drop: ["Out of ROI", "un-labelled"]} to the '
        "options of the data set.",
        "the class pole has no pixels, as its raw id is ignored, but the network predicts it. To "
        'drop it, add map={drop: ["pole"]} to the options of the data set.',
    )
    two = LabelMap.plain(("void", "cell"))  # without the first there is nothing to tell apart
    assert quick_check({"train": []}, two, 3, skip_unreadable=False) == ()


def test_images_that_are_trained_on_and_scored() -> None:
    train = [random_sample(number) for number in range(40)]
    text = (
        "20 ids are in train and in validation, and of the 16 checked 16 have the same image "
        "(s0, s1, s2 and 13 more): scores will be too good."
    )
    assert glance(train, train[:20]) == (text,)
    assert glance(train, train) == (), "the same split was asked for"
    numbered = [Sample(train[-1 - k].image, one.label, one.id) for k, one in enumerate(train[:20])]
    assert glance(train[:20], numbered) == (), "numbered anew from 0, other pictures"


def test_files_that_are_in_both_splits(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    built = build_splits(chosen(f"folder:root={root}"))
    samples = built.splits["train"]
    parts = {"train[:3]": samples[:3], "train[2:]": samples[2:]}
    assert quick_check(parts, built.labels, 3, skip_unreadable=False) == (
        "1 id is in train[:3] and in train[2:], and of the 1 checked 1 has the same image "
        "(train2): scores will be too good.",
    )


def test_streams_that_are_not_here_are_passed_over() -> None:
    def read(shard: str, position: Any) -> Any:
        raise AssertionError("a stream is not read")

    for shards in (("s3://bucket/a.tar",), ()):
        stream = Stream(shards=shards, read=read)
        assert glance(stream, [random_sample(0)]) == ()
        with pytest.raises(DataError):
            glance(stream, labelled([7], "v"))


def test_the_first_samples_of_a_shard_are_read(tmp_path: Path) -> None:
    def shards(values: Sequence[int]) -> DataSplits:
        write_samples(tmp_path / "a.tar", labelled(values, "s"))
        (tmp_path / "names.txt").write_text("\n".join(LABELS.names))
        return build_splits(chosen(f"shards:train={tmp_path}/a.tar,names={tmp_path}/names.txt"))

    def look(values: Sequence[int]) -> tuple[str, ...]:
        built = shards(values)
        return quick_check(built.splits, built.labels, 3, skip_unreadable=False, seconds=60)

    assert look([0, 1] * 20) == ()
    assert look([0] * 40)[0].startswith("train: all 16 labels checked contain a single class")
    with pytest.raises(DataError, match=r"a/s2: label values outside the 3 classes: 9"):
        look([0, 1, 9])
    assert look([0, 1] * 8 + [9]) == (), "behind what is looked at"
    built = shards([0, 1])
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:900])
    with pytest.raises(DataError, match=r"a\.tar"):
        quick_check(built.splits, built.labels, 3, skip_unreadable=False)
