"""What `check-data` finds: its numbers against plain numpy, each fault, what it means."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from check_tools import (
    SPOILS,
    change_label,
    foreign_values,
    look,
    of_samples,
    pastes,
    problems,
    smaller,
    texts,
)
from cli_tools import NAMES, write_data
from data_tools import encode, random_sample
from segacc.commands.check_data.verdict import Finding, judge
from segacc.data.quick_check import quick_check
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.errors import DataError
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap

# -------------------------------------------------------------------------------------- numbers


def test_the_numbers_are_those_of_plain_numpy(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 5, "validation": 2}, size=(24, 40))
    change_label(root / "annotations/train/train3.png", v255=(0, 30))
    found = look(f"folder:root={root}")
    for split in ("train", "validation"):
        facts = found.splits[split]
        labels = np.stack(
            [np.array(Image.open(p)) for p in (root / "annotations" / split).iterdir()]
        )
        images = np.stack([np.array(Image.open(p)) for p in (root / "images" / split).iterdir()])
        for k in (0, 1, 2, 255):
            assert facts.pixels[k] == facts.raw[k] == (labels == k).sum()
            assert facts.images[k] == (labels == k).any(axis=(1, 2)).sum()
        assert facts.labelled == (labels != 255).sum()
        assert facts.ignored_share == pytest.approx((labels == 255).mean())
        assert facts.share(1) == pytest.approx((labels == 1).sum() / (labels != 255).sum())
        means, spread = facts.statistics()
        scaled = images.astype(np.float64) / 255
        assert means == pytest.approx(scaled.mean(axis=(0, 1, 2)).tolist())
        assert spread == pytest.approx(scaled.std(axis=(0, 1, 2)).tolist())
        assert facts.sizes == {(24, 40): len(images)}
        assert (facts.image_modes, facts.label_kinds) == (
            {"RGB": len(images)},
            {"8 bit": len(images)},
        )
    assert judge(found) == []


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 40, "validation": 9}, size=(20, 24))
    foreign_values(root / "annotations/train/train17.png")
    one = look(f"folder:root={root}")
    many = look(f"folder:root={root}", num_workers=2)
    assert many.splits == one.splits and many.twins == one.twins
    assert one.splits["train"].read == 40 and len(one.splits["train"].faults) == 1


def test_a_sample_is_evenly_spread(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", counts={"train": 10, "validation": 3}, size=(20, 24))
    found = look(f"folder:root={root}", sample=4)
    assert found.splits["train"].ids == ["train0", "train2", "train5", "train7"]
    assert found.splits["validation"].ids == ["validation0", "validation1", "validation2"]
    assert (found.splits["train"].read, found.splits["train"].total) == (4, 10)


def test_kinds_and_sizes_of_files(tmp_path: Path) -> None:
    def label(kind: str) -> bytes:
        ids = np.tile(np.arange(2, dtype=np.uint8), (12, 8))
        if kind == "16 bit":
            return encode(Image.fromarray(ids.astype(np.uint16)))
        picture = Image.fromarray(ids)
        if kind == "palette":
            picture.putpalette([0, 0, 0, 255, 0, 0])
        return encode(Image.fromarray(ids == 1) if kind == "1 bit" else picture)

    kinds = ["8 bit", "16 bit", "palette", "1 bit", "8 bit"]
    modes = ["RGB", "L", "RGBA", "RGB", "RGB"]
    heights = [12, 12, 12, 12, 24]
    samples = []
    for number, (kind, mode, height) in enumerate(zip(kinds, modes, heights, strict=True)):
        image = np.random.default_rng(number).integers(0, 256, (height, 16, 3), dtype=np.uint8)
        told = label(kind) if height == 12 else encode(np.ones((24, 16), np.uint8))
        samples.append(Sample(encode(Image.fromarray(image).convert(mode)), told, f"s{number}"))
    facts = of_samples({"train": samples}).splits["train"]
    assert facts.faults == []
    assert facts.label_kinds == {"8 bit": 2, "16 bit": 1, "palette": 1, "1 bit": 1}
    assert facts.image_modes == {"RGB": 3, "L": 1, "RGBA": 1}
    assert facts.by_area() == [(12, 16)] * 4 + [(24, 16)]
    assert facts.pixels == {0: 4 * 96, 1: 4 * 96 + 24 * 16}


def test_a_sample_with_a_map_of_its_own_is_counted_by_it() -> None:
    other = LabelMap(("a", "b"), {7: 1, 8: 0, 255: 255})
    label = encode(np.array([[7, 7, 8, 255]], np.uint8))
    sample = Sample(encode(np.zeros((1, 4, 3), np.uint8)), label, "s", other)
    facts = of_samples({"train": [sample]}, ("a", "b")).splits["train"]
    assert (facts.faults, facts.pixels) == ([], {1: 2, 0: 1, 255: 1})


def test_a_palette_of_colours_is_counted_by_its_raw_ids() -> None:
    table = {(255, 0, 0): 0, (0, 255, 0): 1}
    labels = LabelMap(("red", "green"), {0: 0, 1: 1, 255: 255}, colors=table)
    picture = np.array([[(255, 0, 0), (0, 255, 0), (0, 255, 0)]], np.uint8)
    sample = Sample(encode(np.zeros((1, 3, 3), np.uint8)), encode(picture), "s", labels)
    facts = of_samples({"train": [sample]}, ("red", "green")).splits["train"]
    assert (facts.pixels, facts.label_kinds) == ({0: 1, 1: 2}, {"RGB": 1})


# --------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("name", SPOILS)
def test_each_fault_is_what_would_stop_a_run(tmp_path: Path, name: str) -> None:
    file, spoil, kind, text = SPOILS[name]
    root = write_data(tmp_path / "d")
    spoil(root / file)
    found = look(f"folder:root={root}")
    assert problems(found) == [Finding("problem", "train", text, (str(root / file),), kind)]
    [fault] = found.splits["train"].faults
    assert (fault.kind, fault.file) == (kind, str(root / file))
    assert found.splits["train"].read == 4, "the others are counted all the same"
    splits, labels = build_splits(found.data.dataset).splits, found.data.labels
    for sample in splits["train"]:
        if sample.id != "train1":
            read_sample(sample, labels)
    with pytest.raises(DataError) as error:
        read_sample(splits["train"][1], labels)
    assert str(error.value) == fault.text
    more = " To skip up to N such files, add --skip-unreadable N."
    with pytest.raises(DataError) as stopped:
        quick_check(splits, labels, 3, skip_unreadable=False, seconds=60)
    assert str(stopped.value) == f"{fault.text}{more}"
    assert quick_check(splits, labels, 3, skip_unreadable=True, seconds=60) == ()


def test_every_file_is_told_with_its_values(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    for number in (0, 2, 3):
        change_label(root / f"annotations/train/train{number}.png", v7=(number, 5), v40=(9, number))
    found = look(f"folder:root={root}")
    told = {Path(f.file).stem: f.values for f in found.splits["train"].faults}
    assert told == {"train0": {7: 5}, "train2": {7: 5, 40: 2}, "train3": {7: 5, 40: 3}}
    assert texts(found)[0] == (
        "3 labels of train have values without a class: 7 (15 pixels), 40 (5 pixels)"
    )
    assert found.splits["train"].raw[7] == 15, "they are in the histogram too"
    assert found.splits["train"].pixels.total() == 4 * 48 * 64 - 20


def test_a_label_with_two_faults_is_told_with_both(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    path = root / "annotations/train/train1.png"
    smaller(path)
    change_label(path, v9=(0, 3))
    (root / "images/train/train2.png").write_bytes(b"")
    (root / "annotations/train/train2.png").unlink()
    kinds = [fault.kind for fault in look(f"folder:root={root}").splits["train"].faults]
    assert kinds == ["values", "size", "unreadable image", "missing label"]


def test_labels_that_are_ignored_as_a_whole(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    every = sorted((root / "annotations/train").iterdir())
    for path in every[:2]:
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    found = look(f"folder:root={root}")
    assert problems(found) == []
    assert texts(found) == ["2 labels of train have only ignored pixels"]
    assert judge(found)[0].files == tuple(map(str, every[:2]))
    for path in every[2:]:
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    [problem] = problems(look(f"folder:root={root}"))
    assert problem.text == "train has no pixel of any class: all pixels that were read are ignored"
    assert problem.files == tuple(map(str, every))


def test_a_validation_split_that_is_ignored_cannot_be_scored(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d")
    for path in (root / "annotations/validation").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    found = look(f"folder:root={root}")
    assert problems(found) == []
    assert texts(found) == [
        "validation has no pixel of any class, so it cannot be used for evaluation"
    ]


def test_what_only_deserves_a_warning(tmp_path: Path) -> None:
    root = write_data(tmp_path / "d", names=(*NAMES, "tree"))
    (root / "annotations/train/stray.png").write_bytes(b"x")
    (root / "annotations/train/._train0.png").write_bytes(b"x")
    found = look(f"folder:root={root}")
    assert [(f.level, f.split, f.text) for f in judge(found)] == [
        ("warning", "train", "1 class does not occur in train: tree"),
        ("warning", "validation", "1 class does not occur in validation: tree"),
        ("warning", "", "1 label without an image"),
    ]
    assert judge(found)[-1].files == (str(root / "annotations/train/stray.png"),)
    for path in (root / "annotations/train").glob("t*.png"):
        label = np.array(Image.open(path))
        label[:] = np.where(np.arange(48)[:, None] < 30, 255, 0)
        Image.fromarray(label).save(path)
    told = texts(look(f"folder:root={root}"))
    assert "62.50 % (raw id 255) of the pixels of train are ignored" in told
    assert "train has a single class, background: there is nothing to learn" in told


def test_ids_that_come_twice() -> None:
    samples = [random_sample(number, where="s") for number in range(3)]
    found = of_samples({"train": [*samples, Sample(samples[0].image, samples[1].label, "s2")]})
    assert "train has 1 id used by several samples" in texts(found)


# --------------------------------------------------------------------------------------- streams


def test_streams_are_walked_through_shard_by_shard() -> None:
    shards = {
        name: [random_sample(number, where=name) for number in range(3)] for name in ("a", "c")
    }
    asked = []

    def read(shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        if shard == "b":
            raise DataError("b: the shard is damaged.")
        for place, sample in enumerate(shards[shard]):
            asked.append(sample.id)
            yield sample, place + 1

    stream = Stream(shards=("a", "b", "c"), read=read)
    found = of_samples({"train": stream, "validation": shards["a"]})
    train = found.splits["train"]
    assert (train.ids, train.total) == (["a0", "a1", "a2", "c0", "c1", "c2"], None)
    assert [finding.text for finding in problems(found)] == [
        "1 shard of train cannot be read: the shard is damaged"
    ]
    assert "3 images of validation are identical to one of train, so scores would be too high" in (
        texts(found)
    )
    asked.clear()
    some = of_samples({"train": stream, "validation": shards["a"]}, sample=2)
    assert some.splits["train"].ids == asked == ["a0", "a1"]
    assert "--class-weights enet" not in pastes(found), "a stream cannot be counted by a run"


def test_a_stream_without_a_sample() -> None:
    stream = Stream(shards=("a",), read=lambda shard, position: iter(()))
    found = of_samples({"train": stream, "validation": [random_sample(0)]})
    assert [finding.text for finding in problems(found)] == ["train has no sample"]
