"""Refuses files that a library would expand to far more than they hold, before it does."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from zipfile import ZipFile

LARGE, EXPANDS = 1 << 24, 1000
"""Bytes of a column in a row group, or of a member of a zip, and ratio to those in the file, above
which it is refused."""


def refuse_bombs(files: Iterable[Path]) -> None:
    """Refuse parquet and zip files that would be expanded to far more than they hold.

    Raises:
        ValueError: a column or a member is EXPANDS times as large as in the file. Images are
            compressed themselves, so that this is not their data.
        Exception: Arrow's or zipfile's, for a damaged file.
    """
    for file in files:
        with file.open("rb") as opened:
            parts = {b"PAR1": _columns, b"PK\3\4": _members}.get(opened.read(4))
        for what, size, stored in parts(file) if parts else ():
            if size > max(LARGE, EXPANDS * stored):
                raise ValueError(
                    f"{file}: the {what} has {size} bytes, which are {stored} in the file: it "
                    "would fill the memory or the disk, and cannot hold images"
                )


def _columns(file: Path) -> Iterator[tuple[str, int, int]]:
    from pyarrow.parquet import read_metadata

    about = read_metadata(file)
    for group in map(about.row_group, range(about.num_row_groups)):
        for one in map(group.column, range(group.num_columns)):
            sizes = one.total_uncompressed_size, one.total_compressed_size
            yield f"column {one.path_in_schema}", *sizes


def _members(file: Path) -> Iterator[tuple[str, int, int]]:
    with ZipFile(file) as opened:
        for one in opened.infolist():  # never more bytes than stated here are extracted
            yield f"member {one.filename}", one.file_size, one.compress_size
