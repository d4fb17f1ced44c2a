"""The folder of a cached split: how its size is estimated, and how it is built.

`DIR/<key>/`, with a key from `cache_key`, contains

    data.bin     image and label (H, W), uint8, of one sample after the other; the image in the
                 memory format of the decoder, (C, H, W) or (H, W, C)
    index.npy    (N, 4) int64: offset of the sample in data.bin, height, width, and whether the
                 channels are last; the height is 0 for an unreadable sample
    meta.json    written last: the size of data.bin, and what it was made from

It is written to `DIR/.<key>.part` under a file lock, which the operating system releases if the
process dies, and renamed when it is complete.
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
"""Increased whenever decoding gives other pixels or another memory format, or the files change."""

DATA, INDEX, META = "data.bin", "index.npy", "meta.json"

HEADERS = 256
"""Number of images whose headers are read to estimate the size of a split."""

FEW = 64
"""Number of samples below which starting workers costs more time than it saves."""

FIRST, THEN = 5.0, 15.0
"""Seconds until the first progress line of a long job, and between two lines."""

T = TypeVar("T")
Work = Generator[None, None, T]
"""Work in small steps: the generator yields between them, and returns its result."""


class Notice:
    """Prints the progress of long jobs to stderr."""

    def __init__(self, *, speaks: bool) -> None:
        """Start the clock; only the main process prints."""
        self.next = time.monotonic() + FIRST if speaks else float("inf")

    def start(self, text: str) -> None:
        """Print a line immediately, before the job."""
        if self.next < float("inf"):
            sys.stderr.write(f"cache: {text}\n")

    def tell(self, text: str) -> None:
        """Print a line if enough time has passed."""
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + THEN
            sys.stderr.write(f"cache: {text}\n")


def gigabytes(size: float) -> str:
    """Format a number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def estimate(source: Source) -> int:
    """Estimate the bytes of all decoded samples from some of the image headers."""
    count = min(HEADERS, len(source))
    indices = [turn * len(source) // count for turn in range(count)]
    found = [pixels for index in indices if (pixels := _pixels(source.samples[index].image))]
    mean = sum(found) / max(1, len(found))
    return int(mean * (source.num_channels + 1) * len(source))


def _pixels(file: bytes | Path) -> int:
    """Return the number of pixels of an image; 0 if it cannot be read."""
    try:
        with PILImage.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            return picture.width * picture.height
    except Exception:  # Pillow may raise anything for a damaged file
        return 0


def is_whole(folder: Path) -> bool:
    """True if a folder contains everything that was written to it."""
    try:
        told = json.loads((folder / META).read_text(encoding="utf-8"))
        return bool(told["bytes"] == (folder / DATA).stat().st_size)
    except (OSError, ValueError, KeyError):
        return False


def stored(source: Source, folder: Path, where: str, notice: Notice) -> Work[None]:
    """Build the folder of a split, or wait until another process has built it.

    Raises:
        OptionError: there is not enough space, or the folder is not writable.
        DataError: a sample is invalid.
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
    for left in (part, folder):  # left by a killed run; incomplete
        shutil.rmtree(left, ignore_errors=True)
    need, free = estimate(source), shutil.disk_usage(folder.parent).free
    if need > free:
        raise OptionError(
            f"{where}: the decoded samples take about {gigabytes(need)}, and {folder.parent} has "
            f"{gigabytes(free)} free. Name a folder on a larger disk, or omit this option."
        )
    part.mkdir()
    try:
        yield from _fill(part, source, folder, notice)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sweep(root: Path) -> None:
    """Remove incomplete folders of killed runs for other keys, whose locks are free."""
    for part in root.glob(".*.part"):
        with suppress(Timeout), FileLock(part.with_suffix(".lock")).acquire(timeout=0):
            shutil.rmtree(part, ignore_errors=True)


def _fill(part: Path, source: Source, folder: Path, notice: Notice) -> Work[None]:
    index = np.zeros((len(source), 4), np.int64)
    workers = _workers(len(source))
    items = EvalData(source).loader(process=0, processes=1, num_workers=workers)
    with (part / DATA).open("wb") as file:
        for k, item in enumerate(items):
            if isinstance(item, SegaccError):
                raise item
            if not item.unreadable:
                last = not item.image.is_contiguous()
                index[k] = (file.tell(), *item.label.shape, last)
                image = item.image.permute(1, 2, 0) if last else item.image
                for tensor in (image, item.label):
                    file.write(tensor.contiguous().numpy().data)
            notice.tell(f"{k + 1} of {len(source)} samples decoded into {folder}")
            yield
        file.flush()
        os.fsync(file.fileno())  # written to disk before the rename marks it complete
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
    """Return the number of decoding workers; 0 decodes in this process."""
    if count < FEW:
        return 0
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, 8)


def _complaint(error: OSError, source: Source, root: Path, where: str) -> str:
    if error.errno in (ENOSPC, EDQUOT):
        return (
            f"{where}: {root} is full: the decoded samples take about "
            f"{gigabytes(estimate(source))}. Name a folder on a larger disk, or omit this option."
        )
    return f"{where}: {root} cannot be written: {error.strerror or error}."
