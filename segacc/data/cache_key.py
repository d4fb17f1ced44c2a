"""The key of a cached split: made of the contents of its files and of the options.

Contents are read once. Then `DIR/.<identity>.key` tells the key, where the identity is made of what
the system knows of the files without reading them.
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
    """Return the key of a split: 32 hexadecimal digits over all that decides what it reads as.

    That is FORMAT, the versions of Pillow and torchvision, the label map, the number of channels;
    and of each sample, in order, its id, its own label map, the contents of its two files, and how
    its image is read where that was said. So a data set that was copied, moved or touched has the
    key that it had.

    Args:
        source: the split.
        root: the folder of the caches, which remembers keys; None for a cache that nobody will look
            for, whose files need not be read.
        notice: tells how far it is.
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
    with suppress(OSError):  # nobody may write there: read again the next time
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
    for place in range(len(source)):
        sample = source.samples[place]
        if sample.labels is not last:  # thousands of samples have one and the same
            last = sample.labels
            own = json.dumps(last.to_dict()) if last else ""
        row: list[Any] = [sample.id, of_file(sample.image), of_file(sample.label), own]
        if sample.reading != USUAL:
            row.append(asdict(sample.reading))
        digest.update(json.dumps(row).encode())
        if notice:
            notice.tell(f"the files of {place + 1} of {len(source)} samples read for their key")
        yield
    return digest.hexdigest()


def contents(file: bytes | Path) -> str | int:
    """Return a hash of the bytes of a file, or the number of the error that reading it ends in."""
    if isinstance(file, bytes):
        return new_digest(file).hexdigest()
    try:
        with file.open("rb") as opened:
            return file_digest(opened, new_digest).hexdigest()
    except OSError as error:  # once it can be read, the key is another one
        return error.errno or 0


def identity(file: bytes | Path) -> tuple[Any, ...]:
    """Return what changes whenever a file is written to or replaced, without reading it.

    Nobody can set the time of the last change of its inode; what is embedded is known by its bytes.
    """
    if isinstance(file, bytes):
        return (contents(file),)
    try:
        told = file.stat()
    except OSError as error:
        return (str(file.absolute()), error.errno)
    return (str(file.resolve()), told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
