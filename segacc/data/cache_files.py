"""The folder of a cached split: how large it will be, and how it is built.

`DIR/<key>/`, of a key from `cache_key`, holds

    data.bin     image and label (H, W), uint8, of one sample after the other; the image as it came
                 from the decoder, (C, H, W) or (H, W, C)
    index.npy    (N, 4) int64: where a sample starts in data.bin, its height, its width, and whether
                 its channels lie last; a height of 0 is that of a sample that could not be read
    meta.json    written last: the bytes of data.bin, and what it was made of

It is filled as `DIR/.<key>.part` under a lock of the operating system, which ends with the process
that holds it, and renamed when it is whole.
"""

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image as PILImage

from segacc.data.batches import EvalData, Source
from segacc.errors import OptionError, SegaccError

FORMAT = 2
"""Raised whenever a sample is read to other pixels, or in another order, or the files change."""

DATA, INDEX, META = "data.bin", "index.npy", "meta.json"

HEADERS = 256
"""Pictures whose headers tell how large a split will be."""

FEW = 64
"""Samples below which workers cost more time than they save."""

FIRST, THEN = 5.0, 15.0
"""Seconds after which a long job is told of, and between two times."""

T = TypeVar("T")
Work = Generator[None, None, T]
"""Work in small pieces: it yields between them, and returns its result."""


class Notice:
    """Tells on stderr how far a job is, if it takes long."""

    def __init__(self, *, speaks: bool) -> None:
        """Start the clock; only the main process speaks."""
        self.next = time.monotonic() + FIRST if speaks else float("inf")

    def start(self, text: str) -> None:
        """Write a line at once, before the job."""
        if self.next < float("inf"):
            sys.stderr.write(f"cache: {text}\n")

    def tell(self, text: str) -> None:
        """Write a line, if it is time for one."""
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + THEN
            sys.stderr.write(f"cache: {text}\n")


def gigabytes(size: float) -> str:
    """Tell a number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def estimate(source: Source) -> int:
    """Estimate the bytes of all decoded samples, from the headers of some of them."""
    count = min(HEADERS, len(source))
    places = [turn * len(source) // count for turn in range(count)]
    found = [pixels for place in places if (pixels := _pixels(source.samples[place].image))]
    mean = sum(found) / max(1, len(found))
    return int(mean * (source.num_channels + 1) * len(source))


def _pixels(file: bytes | Path) -> int:
    """Count the pixels of a picture; 0 for one that cannot be read."""
    try:
        with PILImage.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            return picture.width * picture.height
    except Exception:  # a damaged file makes Pillow raise anything
        return 0


def is_whole(folder: Path) -> bool:
    """Tell whether a folder holds all that was written into it."""
    try:
        told = json.loads((folder / META).read_text(encoding="utf-8"))
        return bool(told["bytes"] == (folder / DATA).stat().st_size)
    except (OSError, ValueError, KeyError):
        return False


def stored(source: Source, folder: Path, where: str, notice: Notice) -> Work[None]:
    """Build the folder of a split, or wait for another process that does; then it is whole.

    Raises:
        OptionError: there is no room for it, or nobody may write there.
        DataError: a sample is not what it should be.
    """
    if is_whole(folder):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        while True:
            with suppress(Timeout):
                lock.acquire(timeout=0.2)
                break
            notice.tell(f"waiting for another process that builds {folder}")
            yield
        try:
            if not is_whole(folder):
                yield from _build(source, folder, where, notice)
        finally:
            lock.release()
    except OSError as error:
        raise OptionError(_complaint(error, source, folder.parent, where)) from None


def _build(source: Source, folder: Path, where: str, notice: Notice) -> Work[None]:
    _sweep(folder.parent)
    part = folder.with_name(f".{folder.name}.part")
    for left in (part, folder):  # of a builder that was killed; what somebody has cut off
        shutil.rmtree(left, ignore_errors=True)
    need, free = estimate(source), shutil.disk_usage(folder.parent).free
    if need > free:
        raise OptionError(
            f"{where}: the decoded samples take about {gigabytes(need)}, and {folder.parent} has "
            f"{gigabytes(free)} free. Name a folder on a larger disk, or leave this out."
        )
    part.mkdir()
    try:
        yield from _fill(part, source, folder, notice)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sweep(root: Path) -> None:
    """Remove what builders of other keys left that were killed: nobody holds their locks."""
    for part in root.glob(".*.part"):
        with suppress(Timeout), FileLock(part.with_suffix(".lock")).acquire(timeout=0):
            shutil.rmtree(part, ignore_errors=True)


def _fill(part: Path, source: Source, folder: Path, notice: Notice) -> Work[None]:
    index = np.zeros((len(source), 4), np.int64)
    workers = _workers(len(source))
    items = EvalData(source).loader(process=0, processes=1, num_workers=workers)
    with (part / DATA).open("wb") as file:
        for place, item in enumerate(items):
            if isinstance(item, SegaccError):
                raise item
            if not item.unreadable:
                last = not item.image.is_contiguous()
                index[place] = (file.tell(), *item.label.shape, last)
                image = item.image.permute(1, 2, 0) if last else item.image
                for tensor in (image, item.label):
                    file.write(tensor.contiguous().numpy().data)
            notice.tell(f"{place + 1} of {len(source)} samples decoded into {folder}")
            yield
        file.flush()
        os.fsync(file.fileno())  # the disk has it before the rename says that it is whole
        size = file.tell()
    np.save(part / INDEX, index)
    meta = {
        "bytes": size,
        "samples": len(source),
        "unreadable": int((index[:, 1] == 0).sum()),
        "num_channels": source.num_channels,
        "format": FORMAT,
    }
    (part / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _workers(count: int) -> int:
    """Choose how many processes decode; with 0, this one does."""
    if count < FEW:
        return 0
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, 8)


def _complaint(error: OSError, source: Source, root: Path, where: str) -> str:
    if error.errno in (ENOSPC, EDQUOT):
        return (
            f"{where}: {root} is full: the decoded samples take about "
            f"{gigabytes(estimate(source))}. Name a folder on a larger disk, or leave this out."
        )
    return f"{where}: {root} cannot be written: {error.strerror or error}."
