"""`shards` that fsspec reads, other than over HTTP: its own file system in memory."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFile

from data_tools import random_sample
from segacc.data.augment import Pipeline
from segacc.data.items import Batch
from segacc.data.order import Cut
from segacc.data.streams import EvalStream, TrainStream
from segacc.errors import DataError
from segacc.hookspecs import DataSplits, Sample, Stream
from segacc.plugins.datasets import shard_files
from segacc.plugins.datasets.shard_files import ShardReader, is_far
from segacc.plugins.datasets.shards import ShardsOptions, build_shards, shards_of
from segacc.settings.options import decode, parse_component
from stream_tools import write_parquet, write_samples

TAR, PARQUET = ShardReader("jpg", "seg.png"), ShardReader("image", "label")


def build(text: str, near: Path) -> DataSplits:
    """Build as the command line does, with the class names of the shards on disk."""
    given = parse_component(f"shards:{text},names={near}/classes.txt", "--dataset")
    return build_shards(decode(ShardsOptions, given.values, "--dataset shards"))


def stream(place: Path | str, typed: str, near: Path) -> Stream:
    found = build(f"train='{place}/{typed}',buffer=4", near).splits["train"]
    assert isinstance(found, Stream)
    return found


def contents(found: Stream) -> list[list[tuple[Sample, Any]]]:
    """Read each shard, the samples with the positions behind them."""
    return [list(found.read(shard, None)) for shard in found.shards]


def missing(address: str) -> str:
    return f"{address}: the shard cannot be read: there is no such file."


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars and two parquet files on disk, and class names."""
    place = tmp_path_factory.mktemp("shards")
    samples = [random_sample(number, size=(8, 8)) for number in range(12)]
    for number, (first, last) in enumerate([(0, 5), (5, 6), (6, 12)]):
        write_samples(place / f"n-{number:02d}.tar", samples[first:last])
    write_parquet(place / "n-0.parquet", samples[:7], group=3)
    write_parquet(place / "n-1.parquet", samples[7:], group=100)
    (place / "classes.txt").write_text("sky\nroad\ntree\n")
    return place


@pytest.fixture
def far(near: Path) -> Iterator[str]:
    """The address of a folder in memory with the same files."""
    memory, place = fsspec.filesystem("memory"), f"/far-{uuid4().hex}"
    for file in sorted(near.iterdir(), reverse=True):
        memory.pipe_file(f"{place}/{file.name}", file.read_bytes())
    yield f"memory:/{place}"
    memory.rm(place, recursive=True)


# ---------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("typed", "counts"),
    [
        ("n-{00..02}.tar", [5, 1, 6]),
        ("n-{02,00}.tar", [6, 5]),
        ("n-*.tar", [5, 1, 6]),
        ("n-0[02].tar", [5, 6]),
        ("n-{0..1}.parquet", [7, 5]),
        ("n-*.parquet", [7, 5]),
    ],
)
def test_far_shards_hold_what_those_on_disk_hold(
    near: Path, far: str, typed: str, counts: list[int]
) -> None:
    found, wanted = stream(far, typed, near), stream(near, typed, near)
    assert all(is_far(shard) for shard in found.shards)
    assert [Path(shard).name for shard in found.shards] == [Path(one).name for one in wanted.shards]
    assert [len(samples) for samples in contents(wanted)] == counts
    assert contents(found) == contents(wanted)
    assert found.num_samples == (sum(counts) if "parquet" in typed else None)


def test_a_far_glob_goes_through_folders(near: Path, far: str) -> None:
    memory = fsspec.filesystem("memory")
    for part in ("y", "x"):
        memory.pipe_file(f"{far}/{part}/a.tar", (near / f"n-0{'xy'.index(part)}.tar").read_bytes())
    found = stream(far, "*/a.tar", near)
    assert [shard.split("/")[-2:] for shard in found.shards] == [["x", "a.tar"], ["y", "a.tar"]]
    # Both are called a: an id then tells the whole address, which is what the list has.
    first, second = contents(found)
    assert [one.id for one, _ in first] == [f"{found.shards[0]}/s{k}" for k in range(5)]
    assert [one.id for one, _ in second] == [f"{found.shards[1]}/s5"]


def test_a_glob_in_a_chain_keeps_the_other_links(near: Path, far: str) -> None:
    memory, archive = fsspec.filesystem("memory"), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("in/n-00.tar", (near / "n-00.tar").read_bytes())
    memory.pipe_file(f"{far}/all.zip", archive.getvalue())
    wanted = contents(stream(near, "n-00.tar", near))
    for typed, given in {
        f"simplecache::{far}/n-*0.tar": f"simplecache::{far}/n-00.tar",
        f"zip://in/*.tar::{far}/all.zip": f"zip://in/n-00.tar::{far}/all.zip",
        f"simplecache::zip://in/*.tar::{far}/all.zip": (
            f"simplecache::zip://in/n-00.tar::{far}/all.zip"
        ),
    }.items():
        found = build(f"train='{typed}'", near).splits["train"]
        assert isinstance(found, Stream)
        assert [shard.replace("memory:///", "memory://") for shard in found.shards] == [
            given.replace("memory:///", "memory://")
        ]
        assert contents(found) == wanted


def test_an_address_with_a_question_mark_is_no_glob() -> None:
    address = "memory://nowhere/n-00.tar?version=3"
    assert shards_of("train", address) == [address]
    with pytest.raises(DataError) as told:
        shards_of("train", "memory://nowhere/n-0?.tar")
    assert str(told.value).endswith("In a URL ? starts a query; use [0-9] or *.")


def test_class_names_are_not_looked_for_far_away(far: str) -> None:
    with pytest.raises(DataError) as told:
        build_shards(ShardsOptions(train=f"{far}/n-00.tar"))
    assert str(told.value) == (
        "--dataset shards: no class names. Add names=FILE (a text file with one class name per "
        "line, or JSON)."
    )


# ----------------------------------------------------------------------------------- from where


@pytest.mark.parametrize(
    ("name", "read", "last"), [("n-02.tar", TAR, None), ("n-0.parquet", PARQUET, [2, 1])]
)
def test_a_far_shard_is_read_on_from_every_position(
    near: Path, far: str, name: str, read: ShardReader, last: list[int] | None
) -> None:
    whole = list(read(str(near / name), None))
    assert len(whole) > 5 and (last is None or whole[-1][1] == last)
    for number, (_, position) in enumerate(whole):
        stored = json.loads(json.dumps(position))
        assert list(read(f"{far}/{name}", stored)) == whole[number + 1 :]


@pytest.mark.parametrize("typed", ["n-{00..02}.tar", "n-*.parquet"])
def test_training_goes_on_in_the_middle_of_a_far_shard(near: Path, far: str, typed: str) -> None:
    cut, steps = Cut(batch_size=1), 18

    def batches(place: Path | str, start: int = 0, position: Any = None) -> list[Any]:
        labels = build(f"train={near}/n-00.tar", near).labels
        data = TrainStream(stream(place, typed, near), labels, 3, Pipeline(), 0)
        given: dict[str, Any] = {"num_workers": 0, "pin_memory": False}
        positions = () if position is None else (position,)
        return list(data.loader(cut, range(start, steps), positions=positions, **given))

    whole = batches(near)
    inside = 0
    for step in range(steps):
        place = whole[step - 1].position[1] if step else None
        inside += bool(place and place["position"])
        found = batches(far, step, json.loads(json.dumps(place)))
        assert [type(one) for one in found] == [Batch] * (steps - step)
        for one, other in zip(found, whole[step:], strict=True):
            assert (one.ids, one.seeds) == (other.ids, other.seeds)
            assert one.position == other.position
            assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert inside > 5  # places whose block starts within a shard


def test_a_far_shard_that_breaks_off_is_taken_up_where_it_broke(
    tmp_path: Path, far: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [random_sample(number, size=(150, 150)) for number in range(6)]
    path = write_samples(tmp_path / "big.tar", samples)
    fsspec.filesystem("memory").pipe_file(f"{far}/big.tar", path.read_bytes())
    whole = list(TAR(str(path), None))
    monkeypatch.setattr(shard_files, "PAUSE", 0.0)
    read, asked = MemoryFile.read, list[int]()

    def breaking(file: Any, *size: int) -> Any:
        asked.append(file.tell())
        if len(asked) in (5, 9):
            raise OSError("the line is dead")
        return read(file, *size)

    monkeypatch.setattr(MemoryFile, "read", breaking)
    assert list(TAR(f"{far}/big.tar", None)) == whole
    assert 0 < asked[5] < asked[9] and {asked[5], asked[9]} <= {position for _, position in whole}


# --------------------------------------------------------------------------- what is not there


def test_a_far_shard_that_is_missing(near: Path, far: str) -> None:
    with pytest.raises(DataError) as error:
        build(f"train={far}/gone-{{00..02}}.tar", near)
    assert str(error.value) == missing(f"{far}/gone-00.tar")
    for name, read, position in (("x.tar", TAR, 512), ("x.parquet", PARQUET, [1, 2])):
        for at in (None, position):
            with pytest.raises(DataError) as error:
                list(read(f"{far}/{name}", at))
            assert str(error.value) == missing(f"{far}/{name}")  # "tried 3 times" would tell


def test_a_far_shard_that_is_missing_is_told_when_it_is_its_turn(near: Path, far: str) -> None:
    fsspec.filesystem("memory").rm(f"{far}/n-01.tar")
    labels = build(f"train={near}/n-00.tar", near).labels
    data = EvalStream(stream(far, "n-{00..02}.tar", near), labels, 3)
    *items, end = data.loader(process=0, processes=1, num_workers=0)
    assert [item.id for item in items] == [f"n-00/s{k}" for k in range(5)]
    assert isinstance(end, DataError) and str(end) == missing(f"{far}/n-01.tar")


def test_a_parquet_file_that_is_missing_is_found_when_rows_are_counted(
    near: Path, far: str
) -> None:
    with pytest.raises(DataError) as error:
        build(f"train={far}/n-{{0..2}}.parquet", near)
    assert str(error.value) == missing(f"{far}/n-2.parquet")


@pytest.mark.parametrize("typed", ["m-*.tar", "gone/*.tar"])
def test_a_far_glob_that_matches_nothing(near: Path, far: str, typed: str) -> None:
    with pytest.raises(DataError) as error:
        build(f"train={far}/{typed}", near)
    assert str(error.value) == f"--dataset shards: train: nothing matches {far}/{typed}."


def test_a_far_place_that_cannot_be_listed() -> None:
    with pytest.raises(DataError) as error:
        shards_of("train", "nowhere://bucket/*.tar")
    assert str(error.value) == (
        "nowhere://bucket/*.tar: the shard cannot be read: Protocol not known: nowhere."
    )
