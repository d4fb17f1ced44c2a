"""Reads tars and parquet files for `shards`, local or remote, from any position.

`datasets` (5.2) streams both formats too. But its positions count samples: to resume, it reads (and
downloads) the shard again from its start. Its tar reader parses all files of a sample, and a
truncated tar ends silently. So positions are bytes or rows here; tests compare both results.
"""

import re
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from segacc.contracts import MAX_BYTES, Reading
from segacc.data.samples import IMAGE_SUFFIXES, is_hidden, is_inside
from segacc.errors import DataError, SegaccError, huge, quoted
from segacc.hookspecs import Sample

T = TypeVar("T")
Pictures = tuple[str, Mapping[str, bytes | Path]]
"""A sample in a shard: its key, and encoded images (or their paths) by field."""
ROWS = 16
"""Number of parquet rows that are converted to Python objects at a time."""
LARGE = 1 << 28
"""Rows that are converted at a time, times the bytes of the columns in a row group."""
MOST_FIELDS = 64
"""Maximum number of files of one sample in a tar; more raise an error."""
MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<field>[^/]+)")
"""KEY.FIELD, with the key up to the first dot of the name, as in WebDataset; no hidden files."""

TRIES = 3
"""Number of consecutive attempts to read a remote shard if the connection breaks."""
PAUSE = 1.0
"""Seconds before the second attempt, doubled for each further one."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
"""Seconds without a response of an HTTP server."""
CHUNK = 1 << 16


def is_far(shard: str) -> bool:
    """True for a URL, false for a path."""
    return "://" in shard


def name_of(shard: str) -> PurePosixPath:
    """Return the path of a shard, without the host and query of a URL."""
    if not is_far(shard):
        return PurePosixPath(shard)
    # In a chain such as zip://a.tar::https://..., the first link that has a path.
    return PurePosixPath(urlsplit(next(link for link in shard.split("::") if is_far(link))).path)


def suffix(shard: str) -> str:
    """Return the file ending of a shard, such as `.tar` or `.parquet`."""
    return name_of(shard).suffix.lower()


@dataclass(frozen=True)
class ShardReader:
    """The `Stream.read` of `shards`: yields the samples of a shard from a position on."""

    image: str
    """Field of a tar's sample, or column."""
    label: str
    whole_names: bool = False
    """True if two shards of the split have the same stem: ids then start with the whole address."""
    max_bytes: int = MAX_BYTES
    """Maximum size of the files of a sample in a tar, or of a cell in a parquet file."""

    def __call__(self, shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
        """Yield samples, each with the position after it: a byte, or [row group, row in it].

        Raises:
            DataError: the shard is missing, damaged or unreachable.
        """
        kinds: dict[str, Callable[..., Iterator[tuple[Pictures, Any]]]]
        kinds = {".tar": tar_groups, ".parquet": parquet_rows}
        read = kinds[suffix(shard)]
        wanted = (self.image, self.label)
        name, stem = name_of(shard).name, name_of(shard).stem
        if self.whole_names:
            name = stem = shard
        samples = patiently(shard, lambda at: read(shard, wanted, at, self.max_bytes), position)
        reading = Reading(max_bytes=self.max_bytes)
        for (key, found), behind in samples:
            # A missing part raises when the sample is read, like a missing file, where
            # `skip_unreadable` may skip it.
            image, label = (found.get(one, Path(f"{name}::{key}.{one}")) for one in wanted)
            yield Sample(image, label, f"{stem}/{key}", reading=reading), behind


# -------------------------------------------------------------------------------------------- tars
class Header(tarfile.TarInfo):
    """A tar header that, unlike tarfile's, reports damage instead of treating it as the end."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Any:
        """Read the next header.

        Raises:
            tarfile.ReadError: the tar is truncated or damaged here.
        """
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the block of zeros at the end of a tar
                raise
            raise tarfile.ReadError(f"the tar is truncated or damaged ({error})") from None


def tar_groups(
    shard: str,
    wanted: tuple[str, ...] | None,
    position: int | None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[Pictures, int]]:
    """Yield the samples of a tar, with the byte at which the next one starts.

    Args:
        shard: path or address.
        wanted: fields to keep; a sample without any is skipped. None keeps all.
        position: byte position of a header; None is 0.
        max_bytes: maximum size of the files of a sample; a sparse one may claim terabytes.

    Raises:
        ValueError: a sample has more bytes, or too many files.
    """
    start, key, files, size = position or 0, "", dict[str, bytes | Path](), 0
    with (
        closing(open_at(shard, start)) as file,
        tarfile.open(fileobj=file, mode="r|", bufsize=CHUNK, tarinfo=Header) as tar,
    ):
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # otherwise it keeps them all
            if not (named := name_in(member)):
                continue
            if named["key"] != key and files:
                yield (key, files), start + member.offset
                files, size = {}, 0
            key, field = named["key"], named["field"].lower()
            if wanted is None or field in wanted:
                size += member.size
                if size > max_bytes:
                    raise ValueError(f"{member.name}: {huge(size, max_bytes)}")
                content: Any = tar.extractfile(member)
                files[field] = content.read()
            if len(files) > MOST_FIELDS:
                raise ValueError(f"more than {MOST_FIELDS} of its files are named {key}.*")
        if files:
            yield (key, files), start + tar.offset


@dataclass(frozen=True)
class LostSamples:
    """The `Stream.lost` of `shards`: finds names in a tar that have further dots."""

    image: str
    label: str

    def __call__(self, shard: str) -> list[str]:
        """Return images that are not read as samples of the tar; the search ends at damage."""
        found: list[str] = []
        if suffix(shard) != ".tar":
            return found
        with suppress(OSError, tarfile.TarError), tarfile.open(shard, "r:", tarinfo=Header) as tar:
            for key, group in groupby(names_in(tar), key=lambda named: named["key"]):
                fields = [named["field"].lower() for named in group]
                found += [f"{key}.{field}" for field in self.of(fields)]
        return found

    def of(self, fields: list[str]) -> list[str]:
        """Return the fields of one key that are images of further samples, or of a skipped one."""
        image, label = self.image.split("."), self.label.split(".")
        while len(image) > 1 and len(label) > 1 and image[0] == label[0]:
            image, label = image[1:], label[1:]  # 5m.jpg and 5m.png: jpg and png
        endings = f".{'.'.join(image)}", f".{'.'.join(label)}"
        starts = [
            {f".{one}".removesuffix(end) for one in fields if f".{one}".endswith(end)}
            for end in endings
        ]
        own = f".{self.image}".removesuffix(endings[0])
        if further := sorted((starts[0] & starts[1]) - {own}):
            return [f"{start}{endings[0]}".removeprefix(".") for start in further]
        images = [one for one in fields if f".{one.rpartition('.')[2]}" in IMAGE_SUFFIXES]
        return [] if {self.image, self.label} & set(fields) else images[:1]


def name_in(member: tarfile.TarInfo) -> re.Match[str] | None:
    """Return the name of a sample's file; None for folders, and files that are hidden."""
    named = MEMBER.fullmatch(member.name) if member.isfile() else None
    return None if named is None or is_hidden(member.name.rpartition("/")[2]) else named


def names_in(tar: tarfile.TarFile) -> Iterator[re.Match[str]]:
    """Yield the names of sample files."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # otherwise it keeps them all
        if named := name_in(member):
            yield named


# ----------------------------------------------------------------------------------------- parquet
@contextmanager
def open_parquet(shard: str) -> Iterator[Any]:
    """Open a parquet file without Arrow's threads, because workers are forked."""
    from pyarrow.parquet import ParquetFile

    source: Any = shard
    if is_far(shard):
        system, path = file_system(shard)
        source = system.open(path, "rb")
    file = ParquetFile(source, pre_buffer=False)
    try:
        yield file
    finally:
        file.close(force=True)


def parquet_rows(
    shard: str,
    columns: tuple[str, ...],
    position: list[int] | None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[Pictures, list[int]]]:
    """Yield the rows of a parquet file by number, with [row group, row in it] after each.

    Args:
        shard: path or address.
        columns: columns of binaries, or of structs with `bytes` and optionally `path`, as in
            `datasets`.
        position: [row group, row in it]; None is the start.
        max_bytes: maximum size of a cell.

    Raises:
        ValueError: a cell is larger, or its path leaves the shard's folder.
    """
    first, passed = position or (0, 0)
    root = None if is_far(shard) else Path(shard).parent
    with open_parquet(shard) as file:
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        for group in range(first, len(sizes)):
            most = rows_at_once(file.metadata.row_group(group), columns, max_bytes)
            batches = file.iter_batches(most, [group], list(columns), use_threads=False)
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            before = sum(sizes[:group])
            for number, row in enumerate(islice(rows, passed, None), passed):
                found = {name: picture(value, root) for name, value in row.items()}
                pictures = {name: one for name, one in found.items() if one is not None}
                yield (str(before + number), pictures), [group, number + 1]
            passed = 0


def rows_at_once(group: Any, columns: Sequence[str], max_bytes: int) -> int:
    """Return how many rows of a row group can be converted without much memory.

    A cell can be as large as its whole column, and a dictionary holds it once for many rows.

    Args:
        group: the row group's metadata.
        columns: those that are read.
        max_bytes: see `parquet_rows`.

    Raises:
        ValueError: the cells have more bytes on average.
    """
    parts = (group.column(k) for k in range(group.num_columns))
    read = (one for one in parts if one.path_in_schema.split(".")[0] in columns)
    size: int = sum(one.total_uncompressed_size for one in read)
    if size > max_bytes * group.num_rows * len(columns):
        raise ValueError(huge(size // (group.num_rows * len(columns)), max_bytes))
    return max(1, min(ROWS, LARGE // max(1, size)))


def picture(value: Any, root: Path | None) -> bytes | Path | None:
    """Return the encoded image of a cell, or its path; None if it is empty.

    Args:
        value: the cell.
        root: the folder that paths are relative to; None for a remote shard, which has no paths.

    Raises:
        ValueError: the path leaves the folder.
    """
    path: str | None = value.get("path") if isinstance(value, dict) else None
    encoded: bytes | None = value.get("bytes") if isinstance(value, dict) else value
    if encoded or not path:
        return encoded or None
    if root is None or not is_inside(root, root / path):
        raise ValueError(
            f"a cell holds the path {quoted(path)} instead of an image, which is not followed, as "
            f"it is outside {root or 'the shard'}. Store the images in the parquet file itself"
        )
    return root / path


def picture_columns(shard: str) -> list[str]:
    """Return the columns that may contain encoded images: binaries, or structs with `bytes`."""
    import pyarrow.types as kinds

    def holds(kind: Any) -> bool:
        if kinds.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    with open_parquet(shard) as file:
        return [field.name for field in file.schema_arrow if holds(field.type)]


def count_rows(shard: str) -> int:
    """Return the number of rows of a parquet file from its footer."""

    def look() -> int:
        with open_parquet(shard) as file:
            return int(file.metadata.num_rows)

    return once(shard, look)


# ----------------------------------------------------------------------------------------- opening
def file_system(shard: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path in it."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if shard.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        limits = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    system, path = url_to_fs(shard, **options)
    return system, path


def open_at(shard: str, position: int) -> Any:
    """Open a shard for reading from a byte position to its end.

    An HTTP server sends a single response; if it does not support ranges, the bytes before the
    position are sent too and skipped.
    """
    system, path = file_system(shard)
    if "http" not in system.protocol:
        file = system.open(path, "rb")
        file.seek(position)
        return file
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={position}-"}
    # Block size 0 means a single response; with a given size, it is not requested first.
    file = system.open(path, "rb", block_size=0, size=1, headers=headers)
    before = 0 if file.r.status == 206 else position
    while before and (passed := len(file.read(min(before, CHUNK)))):
        before -= passed
    return file


def patiently(
    shard: str, read: Callable[[Any], Iterator[tuple[T, Any]]], position: Any = None
) -> Iterator[tuple[T, Any]]:
    """Yield from `read` starting at a position; resume there if a connection breaks.

    Raises:
        DataError: the shard is missing, damaged or unreachable.
    """
    failed = 0
    while True:
        try:
            for thing, behind in read(position):
                yield thing, behind
                position, failed = behind, 0
            return
        except SegaccError:
            raise
        except Exception as error:  # readers and file systems may raise anything
            failed += 1
            final, why = explain(error)
            if final or failed == TRIES or not is_far(shard):
                tried = f" (tried {failed} times)" if failed > 1 else ""
                raise DataError(f"{shard}: the shard cannot be read: {why}{tried}.") from None
            time.sleep(PAUSE * 2 ** (failed - 1))


def once(shard: str, look: Callable[[], T]) -> T:
    """Call a function that inspects a shard, with the same retries and errors."""
    return next(patiently(shard, lambda _: iter([(look(), None)])))[0]


def explain(error: BaseException) -> tuple[bool, str]:
    """Return whether an error is permanent, and a short description."""
    while error.__cause__ is not None and (isinstance(error, FileNotFoundError) or not str(error)):
        error = error.__cause__  # fsspec wraps any error when it requests the size
    status = getattr(error, "status", 0)  # aiohttp's
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return True, "there is no such file"
    why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    final = isinstance(error, ImportError | ValueError) or 400 <= status < 408
    return final, why.rstrip(".")
