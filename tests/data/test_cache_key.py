"""The key of a cache: the same for the same contents and options, and for nothing else."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cache_tools import LABELS, assert_same, kept
from data_tools import random_sample
from segacc.data.batches import Source
from segacc.data.cache_files import Notice, key_of
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

pytest_plugins = ["cache_fixtures"]


def lengthen(samples: list[Sample]) -> None:
    path = samples[2].label
    assert isinstance(path, Path)
    path.write_bytes(path.read_bytes() + b"\0")


def replace_unseen(samples: list[Sample]) -> None:
    """Write other pixels of the same size in bytes, and set the old times again."""
    path = samples[2].image
    assert isinstance(path, Path) and path.suffix == ".png"
    told, pixels = path.stat(), Image.open(path).convert("RGB")
    left, right = ((x, 0) for x in (0, 30))
    colors = [pixels.getpixel(at) for at in (left, right)]
    for at, color in zip((right, left), colors, strict=True):
        pixels.putpixel(at, color)  # type: ignore[arg-type]
    pixels.save(path, compress_level=0)
    assert path.stat().st_size == told.st_size
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert path.stat().st_mtime_ns == told.st_mtime_ns


def remove(samples: list[Sample]) -> None:
    assert isinstance(samples[4].image, Path)
    samples[4].image.unlink()


def embed(samples: list[Sample]) -> None:
    samples[5] = replace(samples[5], image=random_sample(99).image)


def rename(samples: list[Sample]) -> None:
    samples[0] = replace(samples[0], id="other")


def swap(samples: list[Sample]) -> None:
    samples[0], samples[1] = samples[1], samples[0]


def own_map(samples: list[Sample]) -> None:
    samples[3] = replace(samples[3], labels=LabelMap.plain(("sky", "road", "tree"), ignore=(1,)))


@pytest.mark.parametrize("change", [lengthen, replace_unseen, remove, embed, rename, swap, own_map])
def test_a_change_of_the_samples_is_another_key(
    change: Callable[[list[Sample]], None], split: Source, tmp_path: Path
) -> None:
    samples = list(split.samples)
    assert isinstance(samples[2].image, Path)
    Image.open(samples[2].image).save(samples[2].image, compress_level=0)
    first = kept(split, tmp_path / "cache")
    change(samples)
    changed = replace(split, samples=samples)
    second = kept(changed, tmp_path / "cache")
    assert second.folder != first.folder
    if change is not remove:
        assert_same(second, changed)


def touched(folder: Path, samples: list[Sample]) -> list[Sample]:
    for path in folder.iterdir():
        os.utime(path, ns=(0, 12345))
    return samples


def copied(folder: Path, samples: list[Sample]) -> list[Sample]:
    other = folder.with_name("copy")
    shutil.copytree(folder, other, copy_function=shutil.copyfile)  # with the times of now
    shutil.rmtree(folder)
    return [
        replace(one, **{key: other / getattr(one, key).name for key in ("image", "label")})
        if isinstance(one.image, Path)
        else one
        for one in samples
    ]


@pytest.mark.parametrize("change", [touched, copied])
def test_the_same_contents_are_found_again(
    change: Callable[[Path, list[Sample]], list[Sample]], split: Source, tmp_path: Path
) -> None:
    first = kept(split, tmp_path / "cache")
    inodes = {path: path.stat().st_ino for path in first.folder.iterdir()}
    again = replace(split, samples=change(tmp_path / "data", list(split.samples)))
    second = kept(again, tmp_path / "cache")
    assert second.folder == first.folder
    assert {path: path.stat().st_ino for path in second.folder.iterdir()} == inodes
    assert_same(second, again)


def test_contents_are_read_once(split: Source, tmp_path: Path) -> None:
    """A key that is remembered is heeded, so nothing is read to find it; other texts are not."""
    first = kept(split, tmp_path / "cache")
    (memory,) = (
        path
        for path in (tmp_path / "cache").glob(".*.key")
        if path.read_text() == first.folder.name
    )
    moved = first.folder.with_name("0123456789abcdef" * 2)
    first.folder.rename(moved)
    memory.write_text(moved.name)
    assert kept(split, tmp_path / "cache").folder == moved
    for text in ("", first.folder.name[:20], f"../{first.folder.name}", "\xff" * 32):
        memory.write_text(text, encoding="latin-1")
        assert kept(split, tmp_path / "cache").folder == first.folder
        assert memory.read_text() == first.folder.name


def test_a_cache_in_memory_reads_no_file_for_its_key(split: Source, tmp_path: Path) -> None:
    samples = [replace(one, image=tmp_path / "no.png") for one in split.samples]
    os.mkfifo(tmp_path / "no.png")  # reading it would never end
    key = key_of(replace(split, samples=samples), None, Notice(speaks=False))
    assert re.fullmatch("[0-9a-f]{32}", key)


def test_a_change_of_the_options_is_another_key(split: Source, tmp_path: Path) -> None:
    reduced = LabelMap(LABELS.names, {0: 255, 1: 0, 2: 1, 255: 255})
    options: list[dict[str, Any]] = [{}, {"num_channels": 1}, {"labels": reduced}]
    sources = [replace(split, **one) for one in options]
    caches = [kept(one, tmp_path / "cache") for one in sources]
    assert len({one.folder for one in caches}) == 3
    for one, other in zip(caches, sources, strict=True):
        assert_same(one, other)


def test_the_same_samples_are_found_again(split: Source, tmp_path: Path) -> None:
    first = kept(split, tmp_path / "cache")
    before = {path: path.stat() for path in first.folder.iterdir()}
    again = kept(replace(split, samples=list(split.samples)), tmp_path / "cache")
    assert again.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == {
        path: told.st_mtime_ns for path, told in before.items()
    }
    assert {path.stat().st_ino for path in before} == {told.st_ino for told in before.values()}
