"""`labelstudio`: polygons, rectangles, ellipses and brush strokes in Label Studio's JSON."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, hookimpl
from segacc.plugins.datasets.annotated import DrawOptions, Part, build_parts, unlisted
from segacc.plugins.datasets.located import located

WHERE = "--dataset labelstudio"
PREFIX = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""


@dataclass(frozen=True, kw_only=True)
class LabelstudioOptions(DrawOptions):
    """Options of labelstudio."""

    file: Path
    """The file exported as `JSON`; all its tasks are the split train."""
    validation: Path | None = None
    """Another file, whose tasks are the split validation."""
    test: Path | None = None
    """Another file, whose tasks are the split test."""
    images: Path | None = None
    """The folder of the images; default: images/ beside each file, or the file's own folder."""
    names: Path | None = None
    """Class names in order, one per line; default: the labels in alphabetical order."""


def build_labelstudio(options: LabelstudioOptions) -> DataSplits:
    """Read the tasks of the files.

    Raises:
        DataError: a file or the images are missing, or a region is faulty.
    """
    files = {"train": options.file, "validation": options.validation, "test": options.test}
    parts = {split: _part(file, options.images) for split, file in files.items() if file}
    data = build_parts(WHERE, parts, options, options.names)
    return replace(data, notes=(*data.notes, *unlisted(parts)))


def _part(file: Path, images: Path | None) -> Part:
    from segacc.labels.annotations.labelstudio import read_labelstudio

    folder = images or file.parent / "images"
    if images is None and not folder.is_dir():
        folder = file.parent
    annotations = read_labelstudio(file)
    if not annotations.images:
        raise DataError(f"{file}: no task has an annotation that is not cancelled.")
    names = _names([one.name for one in annotations.images], folder)
    found = located(WHERE, file, names, folder)
    return Part(annotations, found, [file] * len(found))


def _names(names: Sequence[str], folder: Path) -> list[str]:
    """Return the names of the files, which may lack the prefix that Label Studio adds."""
    here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    plain = [PREFIX.sub("", name, count=1) for name in names]
    return [
        own if name not in here and own in here else name
        for name, own in zip(names, plain, strict=True)
    ]


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register labelstudio."""
    return [
        Dataset(
            name="labelstudio",
            summary="polygons, rectangles, ellipses and brush masks in Label Studio's JSON export",
            options=LabelstudioOptions,
            build=build_labelstudio,
        )
    ]
