"""The key of a cached split: a hash of its files' contents and the options.

The contents are read once. After that, `DIR/.<identity>.key` contains the key, where the identity
is a hash of file metadata that is available without reading the files.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import PIL
import torchvision

from segacc.data.batches import Source
from segacc.data.cache_files import FORMAT, Notice, Work
from segacc.hookspecs import USUAL
from segacc.labels import LabelMap

new_digest = partial(blake2b, digest_size=16)


def key_of(source: Source, root: Path | None, notice: Notice) -> Work[str]:
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

    def known(file: bytes | Path) -> tuple[Any, ...]:
        nonlocal embedded
        embedded &= isinstance(file, bytes)
        return identity(file)

    quick = yield from _digest(source, known)
    if embedded or root is None:
        return quick
    memory = root / f".{quick}.key"
    with suppress(OSError):
        if re.fullmatch(
            "[0-9a-f]{32}", key := memory.read_text(encoding="ascii", errors="replace")
        ):
            return key
    key = yield from _digest(source, contents, notice)
    with suppress(OSError):  # not writable: read the files again next time
        root.mkdir(parents=True, exist_ok=True)
        memory.write_text(key, encoding="ascii")
    return key


def _digest(
    source: Source, of_file: Callable[[bytes | Path], Any], notice: Notice | None = None
) -> Work[str]:
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
        if sample.reading != USUAL:
            row.append(asdict(sample.reading))
        digest.update(json.dumps(row).encode())
        if notice:
            notice.tell(
                f"computing the cache key: read the files of {index + 1} of {len(source)} samples"
            )
        yield
    return digest.hexdigest()


def contents(file: bytes | Path) -> str | int:
    """Return a hash of the contents of a file, or the errno of the error when reading it."""
    if isinstance(file, bytes):
        return new_digest(file).hexdigest()
    try:
        with file.open("rb") as opened:
            return file_digest(opened, new_digest).hexdigest()
    except OSError as error:  # the key changes once it can be read
        return error.errno or 0


def identity(file: bytes | Path) -> tuple[Any, ...]:
    """Return values that change whenever a file is written or replaced, without reading it.

    The ctime of an inode cannot be set by users; embedded data is identified by its bytes.
    """
    if isinstance(file, bytes):
        return (contents(file),)
    try:
        told = file.stat()
    except OSError as error:
        return (str(file.absolute()), error.errno)
    return (str(file.resolve()), told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
