"""`hub`: data sets of the Hugging Face Hub, and on disk what the library `datasets` reads."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap, NamesFile, edit, read_names
from segacc.plugins.datasets.hub_columns import Columns, find_columns, sample_ids
from segacc.plugins.datasets.hub_files import (
    NAMES_FILES,
    WHERE,
    Loaded,
    choose,
    from_path,
    quiet_datasets,
)
from segacc.plugins.datasets.hub_repository import from_hub


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Options of hub."""

    id: str | None = None
    """Data set on the Hub, USER/NAME; give either this or `path`."""
    path: Path | None = None
    """On disk: a folder with parquet files, with metadata.jsonl beside pictures, or as save_to_disk
    wrote it; or a parquet file, or a pattern such as `data/*.parquet`."""
    image: str | None = None
    """Column of the images; default the one that is called or looks so."""
    label: str | None = None
    """Column of the labels; default the one that is called or looks so."""
    config: str | None = None
    """Configuration, of a data set that has several."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    split: str | None = None
    """Only this split, or a slice as in `train[:50]` or `train[10%:20%]`; default all of them."""
    names: Path | None = None
    """Class names: a text file with one a line, or JSON; default what the data set brings."""
    ignore: tuple[int, ...] = ()
    """Raw label ids that count for nothing, as in `ignore=0/11`; 255 always does."""
    reduce_labels: bool | None = None
    """True: raw id 0 is ignored, raw id i is class i - 1 (ADE20K); default: the names file's."""
    map: Path | dict[str, Any] | None = None
    """Changes of the label map, in a YAML file or as a mapping: `merge`, `drop`, `rename`, ids."""

    def __post_init__(self) -> None:
        """Refuse none and both of `id` and `path`, and a revision of what has none."""
        if (self.id is None) == (self.path is None):
            raise ValueError("give either id=USER/NAME or path=FOLDER")
        if self.path is not None and self.revision is not None:
            raise ValueError("revision is of id=USER/NAME; what is on disk has none")


@dataclass(frozen=True)
class HubSamples(Sequence[Sample]):
    """Rows of a datasets.Dataset as samples; nothing is decoded here."""

    data: Any
    """A datasets.Dataset of the two columns, whose rows are Arrow tables."""
    columns: Columns
    ids: tuple[str, ...]
    roots: tuple[Path, ...]
    """Folders that the paths in rows may be relative to."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample, or for a slice a list of them.

        A cell without a picture gives one of no bytes, which says so when it is decoded.
        """
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        row = self.data[index]
        image = row.column(self.columns.image)[0].as_py()
        label = encoded(row.column(self.columns.label)[0])
        return Sample(self._source(image), self._source(label), self.ids[index])

    def _source(self, cell: Any) -> bytes | Path:
        """Take what a cell has: bytes before a path."""
        if isinstance(cell, dict):
            cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
        if isinstance(cell, str):
            places = [root / cell for root in self.roots]
            return next((place for place in places if place.is_file()), Path(cell))
        return cell or b""


def encoded(cell: Any) -> Any:
    """Return the cell of a label as Python has it; encode raw ids in lists of rows.

    Args:
        cell: a pyarrow.Scalar: bytes, path, both, or integers (H, W).

    Returns:
        Of integers a PNG of 8 or 16 bits; a TIFF of 32 bits where ids are negative or larger, so
        that whoever reads it says which they are; nothing where rows are not of one length.
    """
    import pyarrow as pa

    storage = cell.value if isinstance(cell, pa.ExtensionScalar) else cell
    if not isinstance(storage, pa.ListScalar):
        return None if storage is None else storage.as_py()
    rows = storage.values
    widths = set() if rows is None else {len(row) if row.is_valid else 0 for row in rows}
    if len(widths) != 1 or widths == {0} or rows.flatten().null_count:
        return None
    return _encode(rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1))


def _encode(ids: Any) -> bytes:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    if ids.min() < 0 or ids.max() > 65535:
        limits = np.iinfo(np.int32)
        Image.fromarray(np.clip(ids, limits.min, limits.max).astype(np.int32)).save(file, "TIFF")
    else:
        dtype = np.uint8 if ids.max() < 256 else np.uint16
        Image.fromarray(ids.astype(dtype)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def build_hub(options: HubOptions) -> DataSplits:
    """Load the splits with `datasets`, and find columns, ids and class names.

    Raises:
        DataError: nothing can be loaded, or it is not a data set of images and labels.
        OptionError: an option names what is not there.
    """
    with quiet_datasets():
        if options.path is not None:
            loaded = from_path(options.path, options.config)
        else:
            loaded = from_hub(str(options.id), options.config, options.revision)
        found, start = choose(loaded.splits, options.split)
        first = found.get("train", next(iter(found.values())))
        columns = find_columns(first.features, options.image, options.label)
        splits = {
            name: _samples(data, columns, loaded.roots, start)
            for name, data in found.items()
            if {columns.image, columns.label} <= {*data.column_names}  # a test split may lack them
        }
        return DataSplits(splits, _label_map(options, loaded, columns))


def _samples(data: Any, columns: Columns, roots: tuple[Path, ...], start: int) -> HubSamples:
    ids = sample_ids(data, columns.image, start)
    rows = data.select_columns([columns.image, columns.label]).with_format("arrow")
    return HubSamples(rows, columns, ids, roots)


def _label_map(options: HubOptions, loaded: Loaded, columns: Columns) -> LabelMap:
    path = options.names.expanduser() if options.names else None
    if path is None and columns.names is None:
        path = loaded.find_names()
    if path is not None:
        told = _read(path, columns.label, typed=options.names is not None)
    elif columns.names is not None:
        told = NamesFile(list(columns.names))
    else:
        others = ", ".join(columns.passed_over)
        raise DataError(
            f"{WHERE}: {loaded.what} brings no class names"
            f"{f' ({others}: not names of pixels)' if others else ''}. Add names=FILE (a text file "
            'with one a line, or JSON like {"0": "road", "1": "sky"}), or put it beside the data '
            f"as {' or '.join(NAMES_FILES)}."
        )
    reduce_labels = told.reduce_labels if options.reduce_labels is None else options.reduce_labels
    ignore = (*told.ignored, *options.ignore)
    labels = LabelMap.plain(
        told.names, ignore=ignore, reduce_labels=reduce_labels, palette=told.palette
    )
    return edit(labels, options.map, f"{WHERE}: map")


def _read(path: Path, column: str, *, typed: bool) -> NamesFile:
    """Read class names; of a file that nobody typed it is said how to name another."""
    try:
        return read_names(path, column)
    except DataError as error:
        more = (
            "" if typed else " It lies beside the data; names=FILE of --dataset hub goes before it."
        )
        raise DataError(f"{error}{more}") from None


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register hub."""
    return [
        Dataset(
            name="hub",
            summary="a data set of the Hugging Face Hub, or parquet and the like on disk",
            options=HubOptions,
            build=build_hub,
        )
    ]
