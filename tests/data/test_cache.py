"""Cached samples: the same bit by bit, built once, whole or not there."""

import json
import pickle
import re
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from cache_tools import LABELS, Refusing, assert_same, kept, on_disk
from data_tools import encode, random_sample
from segacc.data.batches import EvalData, Source
from segacc.data.cache import available_memory, cached
from segacc.data.cache_files import DATA, FEW, gigabytes
from segacc.data.items import Item
from segacc.errors import DataError, OptionError, UnreadableError
from segacc.evaluation.scoring import scored_data
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap

pytest_plugins = ["cache_fixtures"]


def refusal(source: Source, given: Any) -> str:
    with pytest.raises(OptionError) as error:
        kept(source, given)
    return str(error.value)


# ------------------------------------------------------------------------------ the same samples


@pytest.mark.parametrize("num_channels", [1, 3, 4])
@pytest.mark.parametrize("in_memory", [False, True])
def test_samples_are_the_same_bit_by_bit(
    num_channels: int, in_memory: bool, split: Source, tmp_path: Path
) -> None:
    if num_channels == 4:
        pixels = np.random.default_rng(4).integers(0, 256, (12, 17, 4), dtype=np.uint8)
        sample = Sample(encode(pixels), encode(np.eye(12, 17, dtype=np.uint8)), "rgba")
        split = replace(split, samples=[sample] * 3)
    split = replace(split, num_channels=num_channels)
    source = kept(split, "ram" if in_memory else tmp_path / "cache")
    assert source.read(0)[0].shape[0] == num_channels
    assert_same(source, split)
    assert [one.id for one in source.samples] == [one.id for one in split.samples]


def test_samples_with_maps_of_their_own(tmp_path: Path) -> None:
    other = LabelMap(LABELS.names, {0: 2, 1: 1, 2: 0, 255: 255})
    samples = [random_sample(0), replace(random_sample(1), labels=other)]
    assert_same(kept(Source(samples, LABELS), tmp_path), Source(samples, LABELS))


class ChannelsLast(Source):
    """Reads as a decoder does that writes pixel by pixel."""

    def read(self, index: int) -> Any:
        image, label = super().read(index)
        return image.permute(1, 2, 0).contiguous().permute(2, 0, 1), label


def test_pixels_stay_in_the_order_of_the_decoder(split: Source, tmp_path: Path) -> None:
    last = ChannelsLast(split.samples, LABELS)
    assert not last.read(0)[0].is_contiguous()
    assert_same(kept(last, tmp_path), last)


def test_what_is_read_is_a_copy(split: Source, tmp_path: Path) -> None:
    source = kept(split, tmp_path / "cache")
    image, label = source.read(3)
    image.zero_()
    label.fill_(9)
    assert_same(source, split)


@pytest.mark.parametrize("given", ["ram", "cache"])
def test_workers_read_from_the_same_files(given: str, split: Source, tmp_path: Path) -> None:
    source = kept(split, given if given == "ram" else tmp_path / given)
    items = list(EvalData(source).loader(process=0, processes=1, num_workers=2))
    for item, index in zip(items, range(len(split)), strict=True):
        assert isinstance(item, Item)
        assert torch.equal(item.image, split.read(index)[0])
        assert torch.equal(item.label, split.read(index)[1])
    assert_same(source, split)  # the workers' end removed nothing


def test_sending_a_split_to_a_worker_does_not_copy_the_pixels(tmp_path: Path) -> None:
    samples = [Sample(one.image, one.label, "x") for one in on_disk(tmp_path)] * 50
    source = kept(Source(samples, LABELS), tmp_path / "cache")
    source.read(0)
    sent = pickle.dumps(source)
    assert (source.folder / DATA).stat().st_size > 500_000 > 10 * len(sent)
    assert_same(pickle.loads(sent), source)


def test_many_samples_are_decoded_by_workers(tmp_path: Path) -> None:
    samples = [random_sample(number, size=(5 + number % 7, 8)) for number in range(FEW + 3)]
    assert_same(kept(Source(samples, LABELS), tmp_path), Source(samples, LABELS))


# ----------------------------------------------------------------- caches that are changed or shut


def test_a_cache_that_was_cut_off_is_built_again(split: Source, tmp_path: Path) -> None:
    source = kept(split, tmp_path / "cache")
    with (source.folder / DATA).open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError) as error:
        source.read(len(split) - 1)
    start = f"{source.folder}: the cache was changed while it was in use: "
    assert str(error.value).startswith(start)
    assert str(error.value).endswith(". The next run builds it again.")
    assert_same(kept(split, tmp_path / "cache"), split)


def test_a_cache_that_nobody_may_write_is_read(split: Source, tmp_path: Path) -> None:
    first = kept(split, tmp_path / "cache")
    for lock in (tmp_path / "cache").glob(".*.lock"):
        lock.unlink()
    (tmp_path / "cache").chmod(0o500)
    try:
        assert_same(kept(split, tmp_path / "cache"), split)
        assert list((tmp_path / "cache").glob(".*.lock")) == []
    finally:
        (tmp_path / "cache").chmod(0o700)
    assert first.folder.is_dir()


# -------------------------------------------------------------------------------------- bad data


def test_a_refusal_stops_the_building_with_its_own_text(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^the sample is not given$"):
        kept(Source(Refusing([random_sample(0)] * 2), LABELS), tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_bad_labels_are_so_each_time(tmp_path: Path) -> None:
    outside = Sample(random_sample(1).image, encode(np.full((24, 32), 7, np.uint8)), "outside")
    split = Source([random_sample(0), outside], LABELS)
    with pytest.raises(DataError) as plain:
        split.read(1)
    source = kept(split, tmp_path / "cache")
    with pytest.raises(DataError) as error:
        source.read(1)
    assert str(error.value) == str(plain.value)


def test_unreadable_samples_are_so_each_time(split: Source, tmp_path: Path) -> None:
    damaged = Sample(b"no picture", random_sample(0).label, "damaged")
    gone = Sample(random_sample(2).image, tmp_path / "gone.png", "gone")
    split = replace(split, samples=[damaged, *split.samples, gone])
    source = kept(split, tmp_path / "cache")
    assert json.loads((source.folder / "meta.json").read_text())["unreadable"] == 2
    for index in (0, len(split) - 1):
        with pytest.raises(UnreadableError) as plain:
            split.read(index)
        with pytest.raises(UnreadableError) as error:
            source.read(index)
        assert str(error.value) == str(plain.value)
        items = [EvalData(one)[index, False] for one in (source, split)]
        assert [one.unreadable for one in items] == [str(plain.value)] * 2  # type: ignore[union-attr]
    inner = replace(split, samples=split.samples[1:-1])
    for index in range(len(inner)):
        assert torch.equal(source.read(index + 1)[0], inner.read(index)[0])


def test_streams_are_refused(split: Source, tmp_path: Path) -> None:
    stream = Stream(shards=("a",), read=lambda shard, position: iter(()))
    more = (
        " is streamed shard by shard because it may not fit on a disk. Omit this option, "
        "or use a data set whose samples are on disk."
    )
    accelerator, given = Accelerator(cpu=True), str(tmp_path)
    with pytest.raises(OptionError) as error:
        cached(stream, EvalData(split), given, accelerator, "--cache")
    assert str(error.value) == f"--cache: {given}: the training split{more}"
    with pytest.raises(OptionError) as error:
        cached(split, scored_data(stream, LABELS, 3), "ram", accelerator, "run.yaml: cache")
    assert str(error.value) == f"run.yaml: cache: ram: the evaluation split{more}"


# ----------------------------------------------------------------- disk and memory that are small


def huge(path: Path, side: int = 9000) -> int:
    """Write a PNG that says it has side x side pixels; return what one such sample takes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return side * side * 4


def without_numbers(text: str) -> str:
    return re.sub(r"\d+\.\d [GM]B", "#", text)


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    one = huge(tmp_path / "huge.png")
    count = shutil.disk_usage(tmp_path).free // one + 50
    samples = [Sample(tmp_path / "huge.png", tmp_path / "huge.png", f"s{k}") for k in range(count)]
    text = refusal(Source(samples, LABELS), tmp_path / "cache")
    assert without_numbers(text) == (
        f"--cache: the decoded samples take about #, and {tmp_path / 'cache'} has # free. Name a "
        "folder on a larger disk, or omit this option."
    )
    assert gigabytes(count * one) in text
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock", ".key"}


def test_memory_that_is_too_small_is_refused(tmp_path: Path) -> None:
    one = huge(tmp_path / "huge.png")
    count = int(0.9 * available_memory()) // one
    samples = [Sample(tmp_path / "huge.png", tmp_path / "huge.png", f"s{k}") for k in range(count)]
    text = refusal(Source(samples, LABELS), "ram")
    assert without_numbers(text) == (
        "--cache: ram: the decoded samples take about #, more than 80% of the # of available "
        "memory. Name a folder instead to cache them on disk."
    )


def test_a_file_is_no_folder_for_a_cache(split: Source, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(split, tmp_path / "file") == (
        f"--cache: {tmp_path / 'file'} cannot be written: File exists."
    )
