"""`hub`: data sets on the Hugging Face Hub, and local files that `datasets` can load."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from segacc.errors import DataError, OptionError, did_you_mean
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap, NamesFile, read_names
from segacc.plugins.datasets.files import NAMES_FILES, plain_map
from segacc.plugins.datasets.hub_files import (
    WHERE,
    Loaded,
    choose,
    file_in,
    from_path,
    quiet_datasets,
)
from segacc.plugins.datasets.hub_repository import from_hub

IMAGE_NAMES = ("image", "img", "pixel_values", "picture", "photo", "jpg", "jpeg")
LABEL_NAMES = (
    *("label", "labels", "label_map", "label_image", "annotation", "annotations"),
    *("mask", "masks", "segmentation_mask", "semantic_mask", "semantic_segmentation"),
    *("segmentation", "segmentation_map", "semseg", "ground_truth", "gt"),
)
ID_NAMES = ("id", "image_id", "file_name", "filename")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Options of hub."""

    id: str | None = None
    """Data set on the Hub, USER/NAME; give either this or `path`."""
    path: Path | None = None
    """Local data: a folder with parquet files, with metadata.jsonl next to image files, or written
    by save_to_disk; or a parquet file, or a pattern such as `data/*.parquet`."""
    image: str | None = None
    """Image column; default: detected by name and type."""
    label: str | None = None
    """Label column; default: detected by name and type."""
    config: str | None = None
    """Configuration name, if the data set has several."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    split: str | None = None
    """Load only this split, or a slice such as `train[:50]` or `train[10%:20%]`; default: all."""
    names: Path | None = None
    """Class names: a text file with one per line, or JSON; default: those in the data set."""
    ignore: tuple[int, ...] = ()
    """Raw label ids to ignore, e.g. `ignore=0/11`; 255 is always ignored."""
    reduce_labels: bool | None = None
    """True: raw id 0 is ignored, raw id i is class i - 1 (ADE20K); default: as in the names
    file."""

    def __post_init__(self) -> None:
        """Check that exactly one of `id` and `path` is given, and a revision only with `id`."""
        if (self.id is None) == (self.path is None):
            raise ValueError("give either id=USER/NAME or path=FOLDER")
        if self.path is not None and self.revision is not None:
            raise ValueError("revision is only valid with id=USER/NAME, not with path")


@dataclass(frozen=True)
class Columns:
    """The columns of image and label."""

    image: str
    label: str
    names: tuple[str, ...] | None
    """Class names, if a feature has them."""
    passed_over: tuple[str, ...] = ()
    """Columns with class names that do not refer to pixels."""


@dataclass(frozen=True)
class HubSamples(Sequence[Sample]):
    """Rows of a datasets.Dataset as samples, not decoded."""

    data: Any
    """A datasets.Dataset with the two columns, in Arrow format."""
    columns: Columns
    ids: tuple[str, ...]
    roots: tuple[Path, ...]
    """Folders that relative paths in rows may refer to."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample, or a list of them for a slice.

        An empty cell becomes empty bytes, which raise an error when they are decoded.
        """
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        row = self.data[index]
        image = row.column(self.columns.image)[0].as_py()
        label = encoded(row.column(self.columns.label)[0])
        return Sample(self._source(image), self._source(label), self.ids[index])

    def _source(self, cell: Any) -> bytes | Path:
        """Return a cell's bytes, or else its path."""
        if isinstance(cell, dict):
            cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
        if isinstance(cell, str):
            return file_in(self.roots, cell)
        return cell or b""


def encoded(cell: Any) -> Any:
    """Convert the cell of a label to Python; raw ids in nested lists are encoded as an image.

    Args:
        cell: a pyarrow.Scalar: bytes, a path, both, or integers (H, W).

    Returns:
        For integers an 8- or 16-bit PNG, or a 32-bit TIFF if ids are negative or larger, so that
        the error names them; None if there are no ids; bytes that are no image if rows differ in
        length or a cell of one is empty.
    """
    import pyarrow as pa

    storage = cell.value if isinstance(cell, pa.ExtensionScalar) else cell
    if not isinstance(storage, pa.ListScalar):
        return None if storage is None else storage.as_py()
    rows = storage.values
    widths = set() if rows is None else {len(row) if row.is_valid else 0 for row in rows}
    if not widths or widths == {0}:
        return None
    if len(widths) > 1 or rows.flatten().null_count:
        return b"no rectangle of ids"
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
    """Load the splits with `datasets`; detect columns, ids and class names.

    Raises:
        DataError: nothing can be loaded, or the data set does not have images and labels.
        OptionError: an option refers to something that does not exist.
    """
    with quiet_datasets():
        if options.path is not None:
            loaded = from_path(options.path, options.config)
        else:
            loaded = from_hub(str(options.id), options.config, options.revision)
        found, unusable, start = choose(loaded.splits, options.split)
        first = found.get("train", next(iter(found.values())))
        columns = find_columns(first.features, options.image, options.label)
        needed = columns.image, columns.label
        unusable |= {
            name: DataError(f"{WHERE}: the split {name} has no column {gone[0]}.")
            for name, data in found.items()
            if (gone := [one for one in needed if one not in data.column_names])
        }
        splits = {
            name: _samples(data, columns, loaded.roots, start)
            for name, data in found.items()
            if name not in unusable
        }
        return DataSplits(splits, _label_map(options, loaded, columns), unusable=unusable)


def _samples(data: Any, columns: Columns, roots: tuple[Path, ...], start: int) -> HubSamples:
    ids = sample_ids(data, columns.image, start)
    rows = data.select_columns([columns.image, columns.label]).with_format("arrow")
    return HubSamples(rows, columns, ids, roots)


def _label_map(options: HubOptions, loaded: Loaded, columns: Columns) -> LabelMap:
    path = options.names
    if path is None and columns.names is None:
        path = loaded.find_names()
    if path is not None:
        told = _read(path, columns.label, typed=options.names is not None)
    elif columns.names is not None:
        told = NamesFile(list(columns.names), source=f"{WHERE}: {loaded.what}")
    else:
        others = ", ".join(columns.passed_over)
        raise DataError(
            f"{WHERE}: {loaded.what} has no class names"
            f"{f' ({others}: not names of pixels)' if others else ''}. Add names=FILE (a text file "
            'with one per line, or JSON such as {"0": "road", "1": "sky"}), or put it next to the '
            f"data as {' or '.join(NAMES_FILES)}."
        )
    return plain_map(told, options)


def _read(path: Path, column: str, *, typed: bool) -> NamesFile:
    """Read class names; for a detected file, the error says how to give another one."""
    try:
        return read_names(path, column)
    except DataError as error:
        more = (
            ""
            if typed
            else " It is next to the data; use names=FILE of --dataset hub to override it."
        )
        raise DataError(f"{error}{more}") from None


# ----------------------------------------------------------------------------------------- columns


def find_columns(features: Mapping[str, Any], image: str | None, label: str | None) -> Columns:
    """Detect the columns by their type and usual names, unless the user gave them.

    Raises:
        OptionError: a given column does not exist or has another type. DataError: no or several
            columns match.
    """
    image = _typed(features, "image", image, ("picture", "path"))
    label = _typed(features, "label", label, ("picture", "path", "ids"))
    image = image or _found(features, "image", IMAGE_NAMES, LABEL_NAMES, label)
    label = label or _found(features, "label", LABEL_NAMES, IMAGE_NAMES, image)
    if image == label:
        raise OptionError(f"{WHERE}: image={image},label={label}: the two must differ.")
    names, passed_over = _names(features, label)
    return Columns(image, label, names, passed_over)


def _typed(
    features: Mapping[str, Any], option: str, given: str | None, kinds: tuple[str, ...]
) -> str | None:
    if given is not None and given not in features:
        raise OptionError(
            f"{WHERE}: {option}={given}: there is no such column. {did_you_mean(given, features)}"
            f"The columns are {tell(features)}."
        )
    if given is not None and kind(features[given]) not in kinds:
        ids = ", nor integers in two dimensions" if "ids" in kinds else ""
        raise OptionError(
            f"{WHERE}: {option}={given}: the column contains {type_name(features[given])}, which "
            f"is not an image{ids}. The columns are {tell(features)}."
        )
    return given


def _found(
    features: Mapping[str, Any],
    option: str,
    usual: tuple[str, ...],
    others: tuple[str, ...],
    taken: str | None,
) -> str:
    """Detect a column: the one with a usual name, or else the only remaining one but `taken`."""
    wanted = ("picture", "ids") if option == "label" else ("picture",)
    fit = [name for name, one in features.items() if kind(one) in wanted and name != taken]
    known = [name for name in fit if name.lower() in usual]
    known = known or [name for name in fit if name.lower() not in others]
    if len(known) == 1:
        return known[0]
    ways = " or ".join(f"{option}={name}" for name in known)
    why = f"several columns may be the {option}" if known else f"no column looks like the {option}"
    say = f"add {ways}" if known else f"add {option}=COLUMN if one of them is"
    raise DataError(f"{WHERE}: {why}; {say}. The columns are {tell(features)}.")


def kind(feature: Any) -> str:
    """Return how a feature can be read.

    Returns:
        `picture`: an encoded image; `ids`: integers in two dimensions; `path`: a text that may be
        the path of an image; or an empty text.
    """
    import datasets

    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature):
        return "picture"
    leaf, depth = _leaf(feature)
    if isinstance(leaf, datasets.ClassLabel):
        return "ids" if depth == 2 else ""
    dtype = str(getattr(leaf, "dtype", "")) if isinstance(leaf, datasets.Value) else ""
    if depth == 2 and (dtype.startswith(("int", "uint")) or dtype == "bool"):
        return "ids"
    if depth:
        return ""
    return {"binary": "picture", "string": "path"}.get(dtype.removeprefix("large_"), "")


def _leaf(feature: Any) -> tuple[Any, int]:
    """Return the innermost feature of nested lists, and their depth."""
    import datasets

    depth = 0
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature, depth = feature.feature, depth + 1
    if isinstance(feature, datasets.Array2D):
        return datasets.Value(feature.dtype), depth + 2
    return feature, depth


def type_name(feature: Any) -> str:
    """Describe a feature in a word or two."""
    import datasets

    leaf, depth = _leaf(feature)
    if isinstance(leaf, dict):
        name = f"struct of {', '.join(leaf)}"
    elif isinstance(leaf, datasets.Value):
        name = leaf.dtype
    else:
        name = type(leaf).__name__
    return "list of " * depth + name


def tell(features: Mapping[str, Any]) -> str:
    """List columns with their types."""
    return ", ".join(f"{name} ({type_name(feature)})" for name, feature in features.items())


def _names(
    features: Mapping[str, Any], label: str
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Find class names: those of the label, or of a list of the classes in the image.

    A single class per row, such as a scene or species, describes the whole image, so its names are
    not those of pixels. Names are not used either if several lists have different ones.
    """
    import datasets

    leaf, _ = _leaf(features[label])
    if isinstance(leaf, datasets.ClassLabel):
        return tuple(leaf.names), ()
    inner = {name: _leaf(feature) for name, feature in features.items()}
    classes = {name: one for name, one in inner.items() if isinstance(one[0], datasets.ClassLabel)}
    lists = {tuple(leaf.names) for leaf, depth in classes.values() if depth}
    return (lists.pop(), ()) if len(lists) == 1 else (None, tuple(classes))


def sample_ids(data: Any, image: str, start: int) -> tuple[str, ...]:
    """Return a split's ids, all different: from an id column, from image file names, or numbers."""
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = data.with_format("arrow")[:]  # a view: images are not read
    for name in ID_NAMES:
        if kind(data.features.get(name)) == "path" or _is_integer(data.features.get(name)):
            values = rows.column(name).to_pylist()
            if _differ(values):
                return tuple(map(str, values))
    paths, feature = rows.column(image), data.features[image]
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "path" in feature):
        paths = pc.struct_field(paths, "path")
    is_text = pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)
    stems = [path and PurePath(path).stem for path in paths.to_pylist()] if is_text else []
    if stems and _differ(stems):
        return tuple(stems)
    return tuple(map(str, range(start, start + len(data))))


def _is_integer(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint"))


def _differ(values: list[Any]) -> bool:
    """True if no value is missing and all are different."""
    return None not in values and "" not in values and len(set(values)) == len(values)


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register hub."""
    return [
        Dataset(
            name="hub",
            summary="a data set on the Hugging Face Hub, or local parquet files and image folders",
            options=HubOptions,
            build=build_hub,
        )
    ]
