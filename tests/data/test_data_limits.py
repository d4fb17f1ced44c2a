"""Files that are no files, too large, or outside the data: refused, at once and without memory."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from cli_tools import TINY, Warm, environment, write_data
from segacc.contracts import Reading
from segacc.data.decode import raw_label, read_image
from segacc.errors import DataError, UnreadableError, quoted, read_text
from segacc.labels import LabelMap
from segacc.plugins.datasets.shard_files import ShardReader

pytest_plugins = ["cli_fixtures"]

MOST = 300
"""Megabytes that refusing a bomb may take."""
BOMBS = """
import resource, sys
from pathlib import Path
from segacc.contracts import Reading
from segacc.data.decode import raw_label, read_pixels
from segacc.data.sample_pair import read_sample
from segacc.data.scan import scan
from segacc.errors import DataError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap
from segacc.plugins.datasets.shard_files import ShardReader, picture_columns

folder, labels = Path(sys.argv[1]), LabelMap.plain(("a", "b"))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def rows(name, **more):
    for number, _ in ShardReader("image", "label", **more)(str(folder / name), None):
        pass
    return "read"

import torch
picture_columns(str(folder / "cells.parquet"))  # imports pyarrow
try:
    read_pixels(folder / "small.tif", "small", 5)  # imports tifffile
except DataError as error:
    pass
tries = {
    "sparse.tar": lambda: rows("sparse.tar"),
    "cells.parquet": lambda: rows("cells.parquet"),
    "cells of 1 MB": lambda: rows("cells.parquet", max_bytes=2**20),
    "large.png": lambda: read_pixels(folder / "large.png", "large.png"),
    "large.png, 4 channels": lambda: read_pixels(folder / "large.png", "large.png", 4),
    "grey.png, 4 channels": lambda: read_pixels(folder / "grey.png", "grey.png", 4),
    "label": lambda: raw_label(folder / "large.png", labels, "large.png"),
    "large.tif, 5 channels": lambda: read_pixels(folder / "large.tif", "large.tif", 5),
    "large.npy": lambda: raw_label(folder / "large.npy", labels, "large.npy"),
    "small label": lambda: read_sample(
        Sample(folder / "grey.png", folder / "small.tif", "x"), labels
    ),
    "sparse.png": lambda: read_pixels(folder / "sparse.png", "sparse.png"),
    "check-data": lambda: scan(
        Sample(folder / "sparse.png", folder / "large.png", "x"), labels
    ).faults[0].text,
}
for name, act in tries.items():
    before = peak()
    try:
        told = act()
    except DataError as error:
        told = str(error)
    print(name, peak() - before, told, sep="|")
"""


def write_bombs(folder: Path) -> None:
    """Write files of a few kilobytes that stand for gigabytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (folder / "sparse.png").open("wb") as file:
        file.truncate(3 << 30)
    tar = ("tar", "--format=gnu", "--sparse", "-C", folder, "-cf", folder / "sparse.tar")
    os.link(folder / "sparse.png", folder / "a.image")
    subprocess.run([*tar, "a.image"], check=True)
    zeros = pa.array([bytes(64 << 20)], pa.large_binary()).cast(pa.binary())
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 16, pa.int32()), zeros)
    limit = {"dictionary_pagesize_limit": 1 << 30, "store_schema": False, "compression": "zstd"}
    table = pa.table({"image": column, "label": pa.array([b"x"] * 16)})
    pq.write_table(table, folder / "cells.parquet", **limit)
    Image.new("1", (30_000, 30_000)).save(folder / "large.png")
    Image.new("1", (14_000, 14_000)).save(folder / "grey.png")
    Image.new("L", (4, 4)).save(folder / "small.tif")
    Image.new("1", (30_000, 30_000)).save(folder / "large.tif", compression="tiff_lzw")
    head = io.BytesIO()
    about = {"descr": "<i8", "fortran_order": False, "shape": (60_000, 60_000)}
    np.lib.format.write_array_header_1_0(head, about)  # type: ignore[arg-type]
    (folder / "large.npy").write_bytes(head.getvalue() + bytes(100))


@pytest.mark.slow
def test_bombs_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    write_bombs(tmp_path)
    for name in ("sparse.tar", "cells.parquet", "large.png", "grey.png", "large.npy"):
        assert (tmp_path / name).stat().st_size < 200_000, name
    script = [sys.executable, "-c", textwrap.dedent(BOMBS), tmp_path]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        name, taken, told = line.split("|", 2)
        found[name] = told
        assert int(taken) < MOST, line
    assert "a.image: it has 3221225472 bytes, and up to 1073741824 are read" in found["sparse.tar"]
    assert found["cells.parquet"] == "read"
    assert "it has 209715" in found["cells of 1 MB"]
    for name in ("large.png", "large.png, 4 channels", "label", "large.tif, 5 channels"):
        assert "900000000 pixels" in found[name], found[name]
    assert "the image has 1 channels" in found["grey.png, 4 channels"]
    assert "the label cannot be read" in found["large.npy"]
    assert "the label is 4x4 pixels, its image 14000x14000" in found["small label"]
    assert "max_bytes=3221225472" in found["sparse.png"]
    assert found["sparse.png"].partition(": ")[2] == found["check-data"].partition(": ")[2]


def test_an_aerial_image_of_100_megapixels_is_read(tmp_path: Path) -> None:
    path = tmp_path / "aerial.tif"
    Image.new("L", (10_000, 10_000), 7).save(path)
    assert read_image(path, "aerial", 1).shape == (1, 10_000, 10_000)
    reading = Reading(max_bytes=path.stat().st_size - 1)
    with pytest.raises(UnreadableError, match=r"aerial: the image .* set max_bytes=100000"):
        read_image(path, "aerial", 1, reading)
    with pytest.raises(UnreadableError, match=r"aerial: the label .* \(--max-bytes\)"):
        raw_label(path, LabelMap.plain(("a", "b")), "aerial", reading)


def make(kind: str, path: Path) -> None:
    """Put something that is no regular file at a path."""
    path.unlink()
    os.mkfifo(path) if kind == "FIFO" else path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_what_is_no_regular_file_is_refused(
    warm: Warm, trained: Path, tmp_path: Path, kind: str
) -> None:
    """Reading it would hang, or never end."""
    data = write_data(tmp_path / "data")
    image, label = data / "images/train/train1.png", data / "annotations/train/train2.png"
    make(kind, image)
    told = f"{image}: the image cannot be read: it is a {kind}; only regular files are read."
    done = warm(*TINY, "--dataset", f"folder:root={data}", cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr
    make(kind, label)
    checked = warm("check-data", "--dataset", f"folder:root={data}", cwd=tmp_path)
    assert checked.returncode == 1 and "--skip-unreadable 2" in checked.stdout
    for path in (image, label):
        assert path.name in checked.stdout and not path.is_file()
    some = warm("predict", trained, image, image.with_name("train0.png"), cwd=tmp_path)
    assert some.returncode == 1 and told in some.stderr and "1 of 2 predictions" in some.stderr


def test_a_link_to_a_regular_file_is_followed_and_a_list_may_not_be_a_fifo(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 1).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert read_image(tmp_path / "link.png", "x", 1).shape == (1, 4, 5)
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(OSError, match="it is a FIFO; only regular files are read"):
        read_text(tmp_path / "list.txt")


def test_a_table_that_would_expand_a_thousandfold_is_not_given_to_datasets(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from segacc.plugins.datasets.hub import HubOptions, build_hub

    path, zeros = tmp_path / "train.parquet", bytes(20 << 20)
    table = pa.table({"image": [zeros, zeros], "label": [b"x", b"y"]})
    pq.write_table(table, path, compression="zstd")
    with pytest.raises(DataError) as error:
        build_hub(HubOptions(path=path, image="image", label="label"))
    start = f"--dataset hub: path={path} cannot be loaded: {path}: the column image has "
    assert str(error.value).startswith(start) and "it would fill the memory" in str(error.value)


def encoded() -> bytes:
    """Return an image."""
    file = io.BytesIO()
    Image.new("L", (5, 4), 1).save(file, "PNG")
    return file.getvalue()


def test_paths_in_parquet_cells_stay_in_the_folder(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "shards"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded())
    for path in ("../secret.png", str(secret), "a/../../secret.png"):
        rows = [{"image": encoded(), "label": {"bytes": None, "path": path}}]
        pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
        with pytest.raises(DataError) as error:
            list(ShardReader("image", "label")(str(folder / "x.parquet"), None))
        assert str(error.value) == (
            f"{folder}/x.parquet: the shard cannot be read: a cell holds the path {quoted(path)} "
            f"instead of an image, which is not followed, as it is outside {folder}. Store the "
            "images in the parquet file itself."
        )


def test_paths_in_rows_of_hub_stay_in_the_folder(tmp_path: Path) -> None:
    from segacc.plugins.datasets.hub import HubOptions, build_hub

    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "secret.png").write_bytes(encoded())
    (tmp_path / "data").mkdir()
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        rows = {"image": [path], "label": [path]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "train.parquet")
        more = {"names": tmp_path / "classes.txt", "image": "image", "label": "label"}
        samples = build_hub(HubOptions(path=tmp_path / "data", **more)).splits["train"]
        with pytest.raises(DataError, match=r"refers to the file '.*, which is not read, because"):
            samples[0]  # type: ignore[index]


def test_a_list_that_was_found_stays_in_the_folder_and_a_given_one_need_not(
    warm: Warm, tmp_path: Path
) -> None:
    data, flat = write_data(tmp_path / "data"), tmp_path / "flat"
    for kind, name in (("images", "p"), ("annotations", "m")):
        (flat / name).mkdir(parents=True)
        for path in (data / kind / "train").iterdir():
            path.rename(flat / name / f"{name}{path.name}")
    lines = [f"p/ptrain{k}.png,m/mtrain{k}.png" for k in range(2)]
    lines.append("../data/images/validation/validation0.png,m/mtrain2.png")
    (flat / "train.csv").write_text("\n".join(lines))
    (flat / "classes.txt").write_text("background\ndisc\nbar\n")
    found = warm("check-data", "--dataset", flat, cwd=tmp_path)
    assert found.returncode == 2, found.stdout
    start = f"segacc: {flat / 'train.csv'}: this list, which was found in the folder, names "
    assert found.stderr.startswith(start) and "give it: `train=train.csv`" in found.stderr
    given = warm("check-data", "--dataset", f"{flat}:train=train.csv", cwd=tmp_path)
    assert "which was found" not in given.stderr and given.returncode in (0, 1)
