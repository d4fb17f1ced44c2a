"""Built-in data sets: `nuclei`, shipped inside the package, and `folder`, pictures in folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap, NamesFile, read_names

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
"""A split's name inside segacc, and what folders call it."""

LABEL_FOLDERS = ("annotations", "labels", "masks")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
NAMES_FILES = ("classes.json", "id2label.json", "classes.txt")


@dataclass(frozen=True, kw_only=True)
class NucleiOptions:
    """Options of nuclei."""

    border: bool = False
    """True: three classes, the outer two pixels of each nucleus are `nucleus_border`."""


@dataclass(frozen=True)
class ParquetSamples(Sequence[Sample]):
    """Rows of a parquet table as samples; the encoded pictures stay in Arrow's memory."""

    table: Any
    label_column: str

    def __len__(self) -> int:
        """Count the rows."""
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample."""
        row = self.table.slice(index, 1).to_pylist()[0]
        return Sample(row["image"]["bytes"], row[self.label_column]["bytes"], row["image_id"])


def build_nuclei(options: NucleiOptions) -> DataSplits:
    """Read the two parquet files beside this module."""
    import pyarrow.parquet as pq

    column = "annotation_border" if options.border else "annotation"
    folder = Path(__file__).parent / "nuclei"
    splits = {
        split: ParquetSamples(
            pq.read_table(folder / f"{split}.parquet", columns=["image_id", "image", column]),
            column,
        )
        for split in ("train", "validation")
    }
    names = ("background", "nucleus", "nucleus_border")
    palette = ((40, 40, 40), (255, 200, 0), (200, 0, 80))
    count = 3 if options.border else 2
    return DataSplits(
        splits, LabelMap.plain(names[:count], palette=palette[:count]), crop_size=(192, 192)
    )


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Options of folder."""

    root: Path
    """Holds `images/<split>/` and `annotations/<split>/` (or `labels/`, `masks/`)."""
    names: Path | None = None
    """Class names: a text file with one a line, or JSON; default: `classes.json` in `root`."""
    ignore: tuple[int, ...] = ()
    """Raw label ids that count for nothing, as in `ignore=11` or `ignore=0/11`; 255 always does."""
    reduce_labels: bool | None = None
    """True: raw id 0 is ignored, raw id i is class i - 1 (ADE20K); default: classes.json's."""


def build_folder(options: FolderOptions) -> DataSplits:
    """Pair the pictures of each split with the labels of the same stem.

    Raises:
        DataError: no such folder, no class names, no split, or a picture without a label.
    """
    root = options.root.expanduser()
    if not root.is_dir():
        raise DataError(
            f"--dataset folder: root={options.root} is not a folder (looked in {root.resolve()})."
        )
    images = root / "images"
    label_root = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    if not images.is_dir() or label_root is None:
        raise DataError(
            f"--dataset folder: {root} must hold images/<split>/ and annotations/<split>/ (or "
            "labels/, masks/); "
            f"it holds {_listing(root)}."
        )
    labels = _label_map(options, root)
    found = {}
    for split, called in SPLITS.items():
        pair = _folder(images, called), _folder(label_root, called)
        if pair[0] and not pair[1]:
            raise DataError(
                f"--dataset folder: {pair[0]} has no folder of labels beside it in {label_root}."
            )
        if pair[0] and pair[1]:
            found[split] = _pairs(pair[0], pair[1])
    if not found:
        raise DataError(
            f"--dataset folder: {images} has no folder named train, validation or test (or "
            "training, val, valid); "
            f"it holds {_listing(images)}."
        )
    return DataSplits(found, labels)


def _label_map(options: FolderOptions, root: Path) -> LabelMap:
    given = options.names.expanduser() if options.names else None
    path = given or next((root / name for name in NAMES_FILES if (root / name).is_file()), None)
    if path is None:
        raise DataError(
            f"--dataset folder: no class names. Put classes.json or classes.txt into {root}, "
            "or add names=FILE (a text file with one class name a line)."
        )
    told: NamesFile = read_names(path)
    reduce_labels = told.reduce_labels if options.reduce_labels is None else options.reduce_labels
    ignore = (*told.ignored, *options.ignore)
    return LabelMap.plain(
        told.names, ignore=ignore, reduce_labels=reduce_labels, palette=told.palette
    )


def _folder(parent: Path, called: tuple[str, ...]) -> Path | None:
    here = {path.name.lower(): path for path in parent.iterdir() if path.is_dir()}
    return next((here[name] for name in called if name in here), None)


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")  # macOS leaves `._NAME.jpg` beside files
        if path.suffix.lower() in suffixes and not hidden:
            if path.stem in found:
                raise DataError(
                    f"{folder}: {found[path.stem].name} and {path.name} have one stem; keep one "
                    "of them."
                )
            found[path.stem] = path
    return found


def _pairs(image_folder: Path, label_folder: Path) -> list[Sample]:
    images, labels = _by_stem(image_folder, IMAGE_SUFFIXES), _by_stem(label_folder, LABEL_SUFFIXES)
    if not images:
        raise DataError(
            f"{image_folder}: the split is empty: no file ends in {', '.join(IMAGE_SUFFIXES)}."
        )
    if lossy := next((f for f in sorted(label_folder.glob("*.jp*g")) if f.stem in images), None):
        raise DataError(
            f"{lossy}: labels must be PNG or another lossless format: JPEG changes the ids. Export "
            "the labels again."
        )
    # A missing label is found out when the sample is read, where `skip_unreadable` can pass over
    # it.
    return [
        Sample(path, labels.get(stem, label_folder / f"{stem}.png"), stem)
        for stem, path in images.items()
    ]


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register the built-in data sets."""
    return [
        Dataset(
            name="nuclei",
            summary="205 microscope images of the 2018 Data Science Bowl (CC0), in the package",
            options=NucleiOptions,
            build=build_nuclei,
        ),
        Dataset(
            name="folder",
            summary="images/<split>/ and annotations/<split>/ on disk, paired by file stem",
            options=FolderOptions,
            build=build_folder,
        ),
    ]
