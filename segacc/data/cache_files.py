"""The folder of a cached split: its key, the estimate of its size, and how it is built.

`DIR/<key>/` contains

    data.bin     image and label (H, W), uint8, of one sample after the other; the image in the
                 memory format of the decoder, (C, H, W) or (H, W, C)
    index.npy    (N, 4) int64: offset of the sample in data.bin, height, width, and whether the
                 channels are last; the height is 0 for an unreadable sample
    meta.json    written last: the size of data.bin, and what it was made from

It is written to `DIR/.<key>.part` under a file lock, which the operating system releases if the
process dies, and renamed when it is complete. The key is a hash of the files' contents and the
options. The contents are read once: after that, `DIR/.<identity>.key` contains the key, where the
identity is a hash of file metadata that is available without reading the files.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torchvision
from filelock import FileLock, Timeout

from segacc.contracts import USUAL, Drawn
from segacc.data.batches import EvalData, Source
from segacc.data.codecs import picture_size
from segacc.data.samples import evenly_spaced
from segacc.errors import OptionError, SegaccError
from segacc.labels import LabelMap
from segacc.settings.machine import processors
from segacc.settings.secrets import shown

FORMAT = 2
"""Increased whenever decoding gives other pixels or another memory format, or the files change."""

DATA, INDEX, META = "data.bin", "index.npy", "meta.json"

HEADERS = 256
"""Number of images whose headers are read to estimate the size of a split."""

FEW = 64
"""Number of samples below which starting workers costs more time than it saves."""

FIRST, THEN = 5.0, 15.0
"""Seconds until the first progress line of a long job, and between two lines."""

new_digest = partial(blake2b, digest_size=16)


class Notice:
    """Prints the progress of long jobs to stderr."""

    def __init__(self, *, speaks: bool) -> None:
        """Start the clock; only the main process prints."""
        self.next = time.monotonic() + FIRST if speaks else float("inf")

    def start(self, text: str) -> None:
        """Print a line immediately, before the job."""
        if self.next < float("inf"):
            sys.stderr.write(shown(f"cache: {text}\n"))

    def tell(self, text: str) -> None:
        """Print a line if enough time has passed."""
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + THEN
            sys.stderr.write(shown(f"cache: {text}\n"))


def gigabytes(size: float) -> str:
    """Format a number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def estimate(source: Source) -> int:
    """Estimate the bytes of all decoded samples from some of the image headers."""
    indices = evenly_spaced(len(source), HEADERS)
    found = [size for index in indices if (size := picture_size(source.samples[index].image))]
    mean = sum(height * width for height, width in found) / max(1, len(found))
    return int(mean * (source.num_channels + 1) * len(source))


def remove_unlocked(folder: Path, lock: Path) -> None:
    """Remove what a killed process left: the operating system has released its lock."""
    with suppress(Timeout), FileLock(lock).acquire(timeout=0):
        shutil.rmtree(folder, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """True if a folder contains everything that was written to it."""
    try:
        told = json.loads((folder / META).read_text(encoding="utf-8"))
        return bool(told["bytes"] == (folder / DATA).stat().st_size)
    except (OSError, ValueError, KeyError):
        return False


def build(source: Source, folder: Path, where: str, notice: Notice) -> None:
    """Build the folder of a split, or wait until another process has built it.

    Raises:
        OptionError: there is not enough space, or the folder is not writable.
    """
    if is_whole(folder):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, notice):
            if not is_whole(folder):
                _build(source, folder, where, notice)
    except OSError as error:
        raise OptionError(_complaint(error, source, folder.parent, where)) from None


def _locked(folder: Path, notice: Notice) -> Any:
    """Wait for the lock of a folder, and return the context that releases it."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    while True:
        with suppress(Timeout):
            return lock.acquire(timeout=0.2)
        notice.tell(f"waiting for another process that builds {folder}")


def _build(source: Source, folder: Path, where: str, notice: Notice) -> None:
    for other in folder.parent.glob(f".{'[0-9a-f]' * 32}.part"):  # keys only, no other files
        remove_unlocked(other, other.with_suffix(".lock"))
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
        _fill(part, source, folder, notice)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _fill(part: Path, source: Source, folder: Path, notice: Notice) -> None:
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
    return min(processors(), 8)


def _complaint(error: OSError, source: Source, root: Path, where: str) -> str:
    if error.errno in (ENOSPC, EDQUOT):
        return (
            f"{where}: {root} is full: the decoded samples take about "
            f"{gigabytes(estimate(source))}. Name a folder on a larger disk, or omit this option."
        )
    return f"{where}: {root} cannot be written: {error.strerror or error}."


# --------------------------------------------------------------------------------------------- key


def key_of(source: Source, root: Path | None, notice: Notice) -> str:
    """Return the key of a split: a hash of 32 hexadecimal digits over all that its data depends on.

    These are FORMAT, the versions of Pillow and torchvision, the label map, the number of channels,
    and for each sample in order: its id, its own label map, the contents of both files, and its
    Reading if it is not the default. So a data set that was copied, moved or touched keeps its
    key.

    Args:
        source: the split.
        root: the folder of the caches, which stores known keys; None for a temporary cache, for
            which the files need not be read.
        notice: prints progress.
    """
    embedded = True

    def known(file: bytes | Path | Drawn) -> tuple[Any, ...]:
        nonlocal embedded
        embedded &= isinstance(file, bytes)
        return identity(file)

    quick = _digest(source, known)
    if embedded or root is None:
        return quick
    memory = root / f".{quick}.key"
    with suppress(OSError):
        if re.fullmatch(
            "[0-9a-f]{32}", key := memory.read_text(encoding="ascii", errors="replace")
        ):
            return key
    key = _digest(source, contents, notice)
    with suppress(OSError):  # not writable: read the files again next time
        root.mkdir(parents=True, exist_ok=True)
        memory.write_text(key, encoding="ascii")
    return key


def _digest(
    source: Source, of_file: Callable[[bytes | Path | Drawn], Any], notice: Notice | None = None
) -> str:
    labels = source.labels.to_dict()
    given = [FORMAT, PIL.__version__, torchvision.__version__, source.num_channels, labels]
    digest = new_digest(json.dumps(given).encode())
    last: LabelMap | None = None
    own = ""
    for index in range(len(source)):
        sample = source.samples[index]
        if sample.labels is not last:  # usually the same one for all samples
            last = sample.labels
            own = json.dumps(last.to_dict()) if last else ""
        row: list[Any] = [sample.id, of_file(sample.image), of_file(sample.label), own]
        reading = sample.reading
        if (reading.exif, reading.bits) != (USUAL.exif, USUAL.bits):
            row.append({"exif": reading.exif, "bits": reading.bits})
        digest.update(json.dumps(row).encode())
        if notice:
            notice.tell(
                f"computing the cache key: read the files of {index + 1} of {len(source)} samples"
            )
    return digest.hexdigest()


def contents(file: bytes | Path | Drawn) -> str | int:
    """Return a hash of the contents of a file, or the errno of the error when reading it."""
    try:
        if isinstance(file, Drawn):
            file = file.read_bytes()
    except SegaccError as error:
        return str(error)
    if isinstance(file, bytes):
        return new_digest(file).hexdigest()
    try:
        with file.open("rb") as opened:
            return file_digest(opened, new_digest).hexdigest()
    except OSError as error:  # the key changes once it can be read
        return error.errno or 0


def identity(file: bytes | Path | Drawn) -> tuple[Any, ...]:
    """Return values that change whenever a file is written or replaced, without reading it.

    The ctime of an inode cannot be set by users; embedded data is identified by its bytes.
    """
    if isinstance(file, bytes):
        return (contents(file),)
    if isinstance(file, Drawn):
        return (file.rules, *identity(file.file))
    try:
        told = file.stat()
    except OSError as error:
        return (str(file.absolute()), error.errno)
    return (str(file.resolve()), told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
