"""`shards`: tars and parquet files are read exactly, from any position, on disk and over HTTP."""

import json
import pickle
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from check_tools import chosen
from data_tools import random_sample
from segacc.data.augment import Pipeline
from segacc.data.batches import EvalData, Source
from segacc.data.order import Cut
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.data.streams import EvalStream, TrainStream
from segacc.errors import DataError, OptionError, SegaccError, UnreadableError
from segacc.hookspecs import DataSplits, Sample, Stream
from segacc.plugins.datasets import shard_files
from segacc.plugins.datasets.nuclei import NucleiOptions, build_nuclei
from segacc.plugins.datasets.shard_files import ShardReader
from segacc.plugins.datasets.shards import (
    ShardsOptions,
    braces,
    build_shards,
    roles,
    segacc_datasets,
)
from stream_tools import Plain, Ranges, content, serving, write_parquet, write_samples, write_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
READ = ShardReader("jpg", "seg.png")


def build(text: str) -> DataSplits:
    """Build as the command line does."""
    return build_splits(chosen(f"shards:{text}"))


def refusal(text: str) -> str:
    with pytest.raises(DataError) as error:
        build(text)
    return str(error.value)


def refused(shard: Path | str, position: Any = None, read: ShardReader = READ) -> str:
    with pytest.raises(DataError) as error:
        list(read(str(shard), position))
    return str(error.value)


def stream(splits: DataSplits, split: str = "train") -> Stream:
    found = splits.splits[split]
    assert isinstance(found, Stream)
    return found


def everything(found: Stream) -> list[Sample]:
    return [sample for shard in found.shards for sample, _ in found.read(shard, None)]


def some(count: int, where: str = "s") -> list[Sample]:
    return [random_sample(number, size=(8, 8), where=where) for number in range(count)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long before a broken connection is tried again; local servers need no proxy."""
    monkeypatch.setattr(shard_files, "PAUSE", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars and two parquet files of nuclei, and class names."""
    place = tmp_path_factory.mktemp("shards")
    nuclei = build_nuclei(NucleiOptions()).splits["train"]
    samples = [nuclei[number] for number in range(12)]
    for number, (first, last) in enumerate([(0, 5), (5, 6), (6, 12)]):
        write_samples(place / f"n-{number:03d}.tar", samples[first:last])
    write_parquet(place / "n-0.parquet", samples[:7], group=3)
    write_parquet(place / "n-1.parquet", samples[7:], group=100)
    (place / "classes.txt").write_text("background\nnucleus\n")
    return place


# ---------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("typed", ["n-{000..002}.tar", "n-*.tar", "n-*.parquet"])
def test_shards_hold_the_samples_that_were_written(folder: Path, typed: str) -> None:
    splits = build(f"train={folder}/{typed}")
    nuclei = build_nuclei(NucleiOptions())
    found = everything(stream(splits))
    assert len(found) == 12 and splits.labels.names == ("background", "nucleus")
    for sample, wanted in zip(found, nuclei.splits["train"], strict=False):
        assert (sample.image, sample.label) == (wanted.image, wanted.label)
    label = read_sample(found[4], splits.labels)[1]
    assert torch.equal(label, read_sample(nuclei.splits["train"][4], nuclei.labels)[1])


def test_ids_name_the_shard_and_the_sample(folder: Path) -> None:
    first = build_nuclei(NucleiOptions()).splits["train"][5].id
    tar = everything(stream(build(f"train={folder}/n-001.tar")))
    assert [sample.id for sample in tar] == [f"n-001/{first}"]
    rows = everything(stream(build(f"train={folder}/n-*.parquet")))
    numbers = [f"n-0/{k}" for k in range(7)] + [f"n-1/{k}" for k in range(5)]
    assert [sample.id for sample in rows] == numbers


def test_shards_of_one_name_in_several_folders(tmp_path: Path) -> None:
    for part in ("x", "y"):
        (tmp_path / part).mkdir()
        write_samples(tmp_path / part / "a.tar", some(1))
    (tmp_path / "names.txt").write_text("sky\nroad\ntree\n")
    found = everything(stream(build(f"train={tmp_path}/*/a.tar,names={tmp_path}/names.txt")))
    assert [sample.id for sample in found] == [f"{tmp_path}/{part}/a.tar/s0" for part in "xy"]


def test_datasets_streams_the_same_from_tars(folder: Path, monkeypatch: Any) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    files = [str(folder / f"n-{number:03d}.tar") for number in range(3)]
    theirs = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    for column in ("jpg", "seg.png"):
        theirs = theirs.cast_column(column, datasets.Image(decode=False))
    rows = [(row["__key__"], row["jpg"]["bytes"], row["seg.png"]["bytes"]) for row in theirs]
    ours = everything(stream(build(f"train={folder}/n-*.tar")))
    assert rows == [(one.id.split("/")[1], one.image, one.label) for one in ours]


def test_datasets_streams_the_same_from_parquet(folder: Path, monkeypatch: Any) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    files = [str(folder / f"n-{number}.parquet") for number in range(2)]
    theirs = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    rows = [(row["image"]["bytes"], row["label"]["bytes"]) for row in theirs]
    ours = everything(stream(build(f"train={folder}/n-*.parquet")))
    assert rows == [(one.image, one.label) for one in ours]


@pytest.mark.parametrize("name", FORMATS)
def test_a_tar_is_read_on_from_every_position(name: str, tmp_path: Path) -> None:
    keys = ["a", "folder/b", "folder/b2", "ü" if name != "ustar" else "u", "long/" + 120 * "n"]
    keys[-1] = "long/" + "n" * 60 if name == "ustar" else keys[-1]
    members = {"README.txt": b"x", "folder/.hidden.jpg": b"x", "__MACOSX/._a.jpg": b"x"}
    for number, key in enumerate(keys):
        sample = random_sample(number, size=(30 + number, 9))
        members |= {f"{key}.json": b"{", f"{key}.jpg": sample.image, f"{key}.txt": b"?"}
        members |= {f"{key}.seg.PNG": sample.label, f"{key}.cls": b"no number"}
    path = write_tar(tmp_path / "x.tar", members, FORMATS[name])
    whole = list(READ(str(path), None))
    assert [sample.id for sample, _ in whole] == [f"x/{key}" for key in keys]
    assert [sample.image for sample, _ in whole] == [members[f"{key}.jpg"] for key in keys]
    assert [sample.label for sample, _ in whole] == [members[f"{key}.seg.PNG"] for key in keys]
    for number, (_, position) in enumerate(whole):
        assert isinstance(position, int)
        assert list(READ(str(path), json.loads(json.dumps(position)))) == whole[number + 1 :]


@pytest.mark.parametrize("group", [1, 3, 7, 100])
def test_a_parquet_file_is_read_on_from_every_position(group: int, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", some(7), group=group)
    read = ShardReader("image", "label")
    whole = list(read(str(path), None))
    assert [sample.id for sample, _ in whole] == [f"x/{number}" for number in range(7)]
    for number, (_, position) in enumerate(whole):
        assert list(read(str(path), json.loads(json.dumps(position)))) == whole[number + 1 :]


def test_plain_binaries_and_paths_in_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sample = random_sample(1)
    image, label = content(sample.image), content(sample.label)
    (tmp_path / "there.png").write_bytes(label)
    rows = [
        {"photo": image, "mask": {"bytes": label, "path": None}},
        {"photo": image, "mask": {"bytes": None, "path": str(tmp_path / "there.png")}},
        {"photo": image, "mask": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\n")
    splits = build(f"train={tmp_path}/x.parquet")
    first, second, third = everything(stream(splits))
    assert (first.image, first.label) == (image, label)
    assert second.label == tmp_path / "there.png"
    same = [read_sample(one, splits.labels)[1] for one in (first, second)]
    assert torch.equal(*same)
    with pytest.raises(UnreadableError) as error:
        read_sample(third, splits.labels)
    assert str(error.value) == (
        "x.parquet::2.mask: the label is missing; each image needs a label with the same name."
    )


def test_a_missing_part_is_found_when_the_sample_is_read(tmp_path: Path) -> None:
    image, label = random_sample(0).image, random_sample(0).label
    members = {"a.jpg": image, "a.seg.png": label, "b.jpg": image, "c.seg.png": label}
    path = write_tar(tmp_path / "x.tar", members)
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\n")
    splits = build(f"train={path}")
    found = everything(stream(splits))
    assert [sample.id for sample in found] == ["x/a", "x/b", "x/c"]
    texts = []
    for sample in found[1:]:
        with pytest.raises(UnreadableError) as error:
            read_sample(sample, splits.labels)
        texts.append(str(error.value))
    assert texts == [
        "x.tar::b.seg.png: the label is missing; each image needs a label with the same name.",
        "x.tar::c.jpg: the image cannot be read: No such file or directory.",
    ]


def test_raw_ids_are_mapped_as_in_a_folder(folder: Path, tmp_path: Path) -> None:
    labels = build(f"train={folder}/n-001.tar,ignore=1/7").labels
    assert labels.classes == {0: 0, 1: 255, 7: 255, 255: 255}
    labels = build(f"train={folder}/n-001.tar,reduce_labels=true").labels
    assert labels.classes == {0: 255, 1: 0, 2: 1, 255: 255}
    (tmp_path / "edits.yaml").write_text("rename: {nucleus: cell}\n")
    labels = build(f"train={folder}/n-001.tar,map={tmp_path}/edits.yaml").labels
    assert labels.names == ("background", "cell")


def test_samples_are_counted_where_a_footer_tells(folder: Path) -> None:
    splits = build(f"train={folder}/n-*.parquet,validation={folder}/n-0.parquet,buffer=7")
    assert [stream(splits, name).num_samples for name in splits.splits] == [12, 7]
    assert stream(splits).buffer == 7
    splits = build(f"train={folder}/n-*.tar,test={folder}/n-000.tar,num_samples=12")
    assert [stream(splits, name).num_samples for name in ("train", "test")] == [12, None]
    assert stream(build(f"train={folder}/n-000.tar")).num_samples is None
    assert stream(build(f"train={folder}/n-000.tar")).buffer == 1000


def test_a_reader_goes_to_workers(folder: Path) -> None:
    found = stream(build(f"train={folder}/n-000.tar"))
    again = pickle.loads(pickle.dumps(found))
    assert again == found and everything(again) == everything(found)


# ------------------------------------------------------------------------------------- over HTTP


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("handler", [Plain, Ranges])
def test_tars_over_http(folder: Path, handler: type[Plain]) -> None:
    local = list(READ(str(folder / "n-000.tar"), None))
    with serving(folder, handler) as (address, asked):
        shard = f"{address}/n-000.tar"
        far = list(READ(shard, None))
        assert [(one.image, one.label, one.id, at) for one, at in far] == [
            (one.image, one.label, one.id, at) for one, at in local
        ]
        assert asked == [("/n-000.tar", "bytes=0-")]
        for number, (_, position) in enumerate(local):
            assert list(READ(shard, position)) == far[number + 1 :]
            assert asked[-1] == ("/n-000.tar", f"bytes={position}-")


@pytest.mark.usefixtures("quick")
def test_parquet_over_http(folder: Path) -> None:
    read = ShardReader("image", "label")
    local = list(read(str(folder / "n-0.parquet"), None))
    with serving(folder, Ranges) as (address, asked):
        assert list(read(f"{address}/n-0.parquet", None)) == local
        assert list(read(f"{address}/n-0.parquet", [1, 2])) == local[5:]
        assert all(span for _, span in asked)
    with serving(folder, Plain) as (address, _):
        text = refused(f"{address}/n-0.parquet", read=read)
    assert text == (
        f"{address}/n-0.parquet: the shard cannot be read: The HTTP server doesn't appear to "
        "support range requests. Only reading this file from the beginning is supported. Open with "
        "block_size=0 for a streaming file interface."
    )


@pytest.mark.usefixtures("quick")
def test_a_connection_that_breaks_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "x.tar", [random_sample(k, size=(200, 200)) for k in range(16)])
    local = list(READ(str(path), None))
    # What has come and was not read yet, up to half a megabyte, is lost with the connection.
    with serving(tmp_path, Ranges, breaks=[1_000_000, 700, 1_200_000]) as (address, asked):
        far = list(READ(f"{address}/x.tar", None))
    assert far == local
    starts = [int(span.removeprefix("bytes=")[:-1]) for _, span in asked if span]
    assert len(starts) == 4 and 0 < starts[1] == starts[2] < starts[3]
    assert set(starts[1:]) <= {position for _, position in local}


@pytest.mark.usefixtures("quick")
def test_a_host_that_is_out_of_reach(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, read in (("x.tar", READ), ("x.parquet", ShardReader("image", "label"))):
        shard = f"http://127.0.0.1:{port}/{name}"
        text = refused(shard, read=read)
        assert text.startswith(f"{shard}: the shard cannot be read: ")
        assert "Connect call failed" in text and text.endswith("(tried 3 times).")
    assert refusal(f"train={shard},names={folder}/classes.txt") == text


@pytest.mark.usefixtures("quick")
def test_a_shard_that_a_server_does_not_have(folder: Path) -> None:
    with serving(folder) as (address, asked):
        text = f"{address}/gone.tar: the shard cannot be read: there is no such file."
        assert refused(f"{address}/gone.tar") == text
        assert asked == [("/gone.tar", "bytes=0-")]  # once: it will not come
        text = f"{address}/gone.parquet: the shard cannot be read: there is no such file."
        assert refused(f"{address}/gone.parquet", read=ShardReader("a", "b")) == text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_load_over_http_what_is_on_disk(folder: Path, workers: int) -> None:
    cut, none = Cut(batch_size=1), Pipeline()

    def batches(place: str) -> list[Any]:
        splits = build(f"train={place}/n-{{000..002}}.tar,names={folder}/classes.txt,buffer=4")
        data = TrainStream(stream(splits), splits.labels, 3, none, 0)
        given = {"positions": (), "num_workers": workers, "pin_memory": False}
        return list(data.loader(cut, range(18), **given))

    with serving(folder, Ranges) as (address, _):
        far = batches(address)
    near = batches(str(folder))
    assert not [one for one in (*far, *near) if isinstance(one, SegaccError)]
    assert [(one.ids, one.seeds) for one in far] == [(one.ids, one.seeds) for one in near]
    assert all(torch.equal(a.images, b.images) for a, b in zip(far, near, strict=True))


@pytest.mark.usefixtures("quick")
def test_a_listing_over_http_is_searched(folder: Path) -> None:
    with serving(folder) as (address, _):
        found = stream(build(f"train={address}/n-*.tar,names={folder}/classes.txt"))
        assert found.shards == tuple(f"{address}/n-{number:03d}.tar" for number in range(3))


def test_a_file_system_that_is_not_installed() -> None:
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        text = refused("s3://bucket/x.tar")
        assert text == "s3://bucket/x.tar: the shard cannot be read: Install s3fs to access S3."
    text = refused("nowhere://bucket/x.tar")
    assert text == (
        "nowhere://bucket/x.tar: the shard cannot be read: Protocol not known: nowhere."
    )


# ---------------------------------------------------------------------------------- what is damaged


def test_a_tar_that_was_cut_off(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "x.tar", some(4))
    whole, content = list(READ(str(path), None)), path.read_bytes()
    starts = f"{path}: the shard cannot be read: "
    path.write_bytes(content[: whole[1][1] + 700])  # in a picture
    assert refused(path) == f"{starts}unexpected end of data."
    path.write_bytes(content[: whole[1][1] + 100])  # in a header
    assert refused(path) == f"{starts}the tar is truncated or damaged (truncated header)."
    path.write_bytes(content[: whole[1][1]])  # between two samples: tarfile sees nothing wrong
    assert refused(path) == f"{starts}the tar is truncated or damaged (empty header)."
    path.write_bytes(content[: whole[1][1]] + b"x" * 512 + content[whole[1][1] :])
    assert refused(path) == f"{starts}the tar is truncated or damaged (invalid header)."
    path.write_bytes(b"")
    assert refused(path) == f"{starts}the tar is truncated or damaged (empty header)."
    path.write_bytes(content)
    assert list(READ(str(path), None)) == whole


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"not parquet, but long enough to look")
    text = refused(path, read=ShardReader("image", "label"))
    assert text.startswith(f"{path}: the shard cannot be read: Parquet magic bytes not found")


def test_names_with_a_dot_in_the_middle_make_one_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"img.{number:04d}.jpg": b"x" for number in range(70)})
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert refusal(f"train={path}") == (
        f"{path}: the shard cannot be read: more than 64 of its files are named img.*."
    )


def test_files_of_the_system_are_no_samples_and_no_shards(tmp_path: Path) -> None:
    one = random_sample(1, size=(8, 8))
    members = {"Thumbs.db": b"x", "__MACOSX/._a.jpg": b"x", "._a.jpg": b"x"}
    members |= {"a.jpg": content(one.image), "a.png": content(one.label), ".DS_Store": b"x"}
    write_tar(tmp_path / "x.tar", members)
    (tmp_path / "._x.tar").write_bytes(b"x")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    found = stream(build(f"train={tmp_path}/*.tar"))
    assert found.shards == (str(tmp_path / "x.tar"),)
    assert [sample.id for sample in everything(found)] == ["x/a"]


# ------------------------------------------------------------------------------------ what is typed


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{0..1}/{a,b}.tar", ["0/a.tar", "0/b.tar", "1/a.tar", "1/b.tar"]),
        ("{07..9}", ["07", "08", "09"]),
    ],
)
def test_ranges_are_written_out_as_a_shell_does(typed: str, wanted: list[str]) -> None:
    assert braces(typed) == wanted


def test_shards_are_typed_in_several_ways(folder: Path) -> None:
    names = [str(folder / f"n-{number:03d}.tar") for number in range(3)]
    for typed in (
        f"{folder}/n-{{000..002}}.tar",
        f"{folder}/n-*.tar",
        f"{folder}/n-00[0-2].tar",
        f'["{names[0]}", "{folder}/n-{{001..002}}.tar"]',
        f"'{folder}/n-{{000,001,002}}.tar'",
    ):
        assert stream(build(f"train={typed}")).shards == tuple(names)
    with pytest.raises(OptionError) as error:
        build("train={a: b}")
    assert str(error.value) == (
        "--dataset shards: train: expected text or list of text; found {'a': 'b'}."
    )


def test_relative_paths_and_the_home_folder(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    assert stream(build("train=n-00*.tar")).shards == ("n-000.tar", "n-001.tar", "n-002.tar")
    assert len(everything(stream(build("train=n-000.tar")))) == 5
    monkeypatch.setenv("HOME", str(folder))
    assert stream(build("train=~/n-000.tar")).shards == (str(folder / "n-000.tar"),)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ("jpg png", ("jpg", "png")),
        ("png seg.png", ("png", "seg.png")),
        ("json jpg label.png txt", ("jpg", "label.png")),
        ("image.png mask.png depth.png", ("image.png", "mask.png")),
        ("image label", ("image", "label")),
        ("image annotation annotation_border", ("image", "annotation")),
        ("pixels mask", ("pixels", "mask")),
        ("image conditioning_image segmentation_mask", ("image", "segmentation_mask")),
    ],
)
def test_image_and_label_are_told_apart(fields: str, found: tuple[str, str]) -> None:
    assert roles("x", fields.split(), None, None) == found


@pytest.mark.parametrize("fields", ["jpg", "png", "jpg left.png right.png", "a b c"])
def test_image_and_label_that_cannot_be_told_apart(fields: str) -> None:
    with pytest.raises(DataError) as error:
        roles("x.tar", fields.split(), None, None)
    assert str(error.value) == (
        f"--dataset shards: x.tar contains {', '.join(fields.split())}; image and label are "
        "ambiguous. Specify both, e.g. image=jpg,label=seg.png."
    )
    if fields.count("png") == 2:
        assert roles("x.tar", fields.split(), None, "left.png") == ("jpg", "left.png")
        assert roles("x.tar", fields.split(), "left.png", "right.png") == ("left.png", "right.png")


def test_a_field_that_is_not_there(folder: Path) -> None:
    assert refusal(f"train={folder}/n-000.tar,label=png") == (
        f"--dataset shards: label=png: {folder}/n-000.tar contains jpg, seg.png."
    )
    assert refusal(f"train={folder}/n-0.parquet,image=xyz") == (
        f"--dataset shards: image=xyz: {folder}/n-0.parquet contains image, label."
    )


def test_what_is_typed_wrong(folder: Path, tmp_path: Path) -> None:
    names = f"names={folder}/classes.txt"
    assert refusal(names) == (
        "--dataset shards: no shards given; use for example "
        "shards:train=data/train-{000..146}.tar,validation=data/val-000.tar,names=classes.txt."
    )
    assert refusal(f"train={tmp_path}/*.tar") == (
        f"--dataset shards: train: nothing matches {tmp_path}/*.tar."
    )
    assert refusal(f"train={folder}/n-{{000..004}}.tar") == (
        f"--dataset shards: train: there is no file {folder}/n-003.tar (2 of 5 shards are missing)."
    )
    assert refusal(f"test={folder}/n.tar") == (
        f"--dataset shards: test: there is no file {folder}/n.tar."
    )
    assert refusal(f"train={folder}/n-000.tar.gz") == (
        f"--dataset shards: train: {folder}/n-000.tar.gz is not in a supported format: .tar (not "
        "compressed) or .parquet, e.g. data/*.tar."
    )
    assert refusal(f"train={folder}/n-000.tar,test={folder}/n-0.parquet,{names}") == (
        "--dataset shards: the shards are 1 .tar and 1 .parquet; use a single format."
    )
    assert refusal(f'train=["{folder}/n-000.tar","{folder}/n-*.tar"]') == (
        f"--dataset shards: train: {folder}/n-000.tar is given twice."
    )
    write_samples(tmp_path / "x.tar", some(1))
    assert refusal(f"train={tmp_path}/x.tar") == (
        "--dataset shards: no class names. Add names=FILE (a text file with one class name "
        "per line, or JSON), or put classes.txt next to the first shard."
    )
    write_tar(tmp_path / "empty.tar", {})
    assert refusal(f"train={tmp_path}/empty.tar,{names}") == (
        f"--dataset shards: {tmp_path}/empty.tar contains no sample."
    )


def test_evaluation_is_that_of_the_list(folder: Path) -> None:
    splits, nuclei = build(f"validation={folder}/n-*.tar"), build_nuclei(NucleiOptions())
    listed = EvalData(Source([nuclei.splits["train"][k] for k in range(12)], nuclei.labels))
    wanted = list(listed.loader(process=0, processes=1, num_workers=0))
    data = EvalStream(stream(splits, "validation"), splits.labels, 3)
    shares = [list(data.loader(process=k, processes=2, num_workers=1)) for k in range(2)]
    found = [item for pair in zip(*shares, strict=True) for item in pair]
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.label, other.label)


def test_shards_is_registered() -> None:
    (record,) = segacc_datasets()
    assert (record.name, record.options, record.build) == ("shards", ShardsOptions, build_shards)
