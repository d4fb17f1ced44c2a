"""`cvat`: CVAT's exports `CVAT for images 1.1` (XML) and `Segmentation mask 1.1`."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segacc.data.splits import read_each
from segacc.errors import DataError, first_of
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap, read_colors
from segacc.plugins.datasets.annotated import DrawOptions, Part, build_parts, unlisted
from segacc.plugins.datasets.files import (
    SPLITS,
    expect_labels,
    listed,
    listing,
    open_root,
    pictures,
    with_labels,
)
from segacc.plugins.datasets.located import located

if TYPE_CHECKING:
    from segacc.labels.annotations.shapes import Annotations

WHERE = "--dataset cvat"
IMAGES = ("JPEGImages", "images")
MASKS, COLORS = "SegmentationClass", "labelmap.txt"
"""Folders and colour table of `Segmentation mask 1.1`."""


@dataclass(frozen=True, kw_only=True)
class CvatOptions(DrawOptions):
    """Options of cvat."""

    root: Path
    """The unpacked export: annotations.xml beside images/, or labelmap.txt beside
    SegmentationClass/ and JPEGImages/; or an XML file."""
    images: Path | None = None
    """The folder of the images, if it is not images/ beside the XML file, or its own folder."""


def build_cvat(options: CvatOptions) -> DataSplits:
    """Read an export of CVAT.

    Raises:
        DataError: it is none, or faulty.
    """
    if options.root.is_file():
        return _of_xml(options.root, options)
    root = open_root(options.root, WHERE)
    if (root / MASKS).is_dir() and (root / COLORS).is_file():
        return _of_masks(root, options)
    files = sorted(root.glob("*.xml"))
    if not files:
        raise DataError(
            f"{WHERE}: {root} must contain annotations.xml (`CVAT for images 1.1`), or {COLORS} "
            f"and {MASKS}/ (`Segmentation mask 1.1`); it contains {listing(root)}."
        )
    if len(files) > 1:
        raise DataError(f"{WHERE}: {root} has several XML files: {first_of(files, 4)}. Name one.")
    return _of_xml(files[0], options)


def _of_masks(root: Path, options: CvatOptions) -> DataSplits:
    """Read the PNGs in colours; the lists of names are the splits.

    Raises:
        DataError: files are missing; or options of shapes are given.
    """
    if (options.background, options.overlap) != ("class", "order"):
        raise DataError(
            f"{WHERE}: {root} contains masks, not shapes, so background and overlap have no "
            "effect; leave them out. map={drop: [background]} ignores the background."
        )
    beside = next((root / name for name in IMAGES if (root / name).is_dir()), root / IMAGES[0])
    folder = options.images or beside
    if not folder.is_dir():
        raise DataError(
            f"{WHERE}: {root} has no folder {IMAGES[0]}: CVAT leaves out the images unless `Save "
            "images` is chosen. Name their folder as images=DIR."
        )
    lists = root / "ImageSets" / "Segmentation"
    files = sorted(lists.glob("*.txt")) if lists.is_dir() else []
    read = {split_of(path.stem): partial(_labelled, root, folder, path) for path in files}
    splits, unusable = read_each(read or {"train": partial(_labelled, root, folder)})
    told = read_colors(root / COLORS)
    labels = LabelMap.plain(told.names, palette=told.palette)
    return DataSplits(splits, replace(labels, colors=told.colors), unusable=unusable)


def _labelled(root: Path, folder: Path, names: Path | None = None) -> list[Sample]:
    images = pictures(folder)
    samples = with_labels(listed(names, images, folder) if names else images, root / MASKS)
    expect_labels(WHERE, samples)
    return samples


def _of_xml(file: Path, options: CvatOptions) -> DataSplits:
    from segacc.labels.annotations.cvat import read_cvat

    subsets = read_cvat(file)
    folder = options.images or file.parent / "images"
    if options.images is None and not folder.is_dir():
        folder = file.parent
    folders = {name: folder / name if (folder / name).is_dir() else folder for name in subsets}
    parts = {split_of(name): _part(file, some, folders[name]) for name, some in subsets.items()}
    if len(parts) < len(subsets):
        raise DataError(f"{file}: two of the subsets {', '.join(subsets)} mean the same split.")
    data = build_parts(WHERE, parts, options)
    return replace(data, notes=(*data.notes, *unlisted(parts)))


def split_of(subset: str) -> str:
    """Return the split that a subset or a list of CVAT means; images of no subset are `train`."""
    name = subset.lower()
    known = (split for split, names in SPLITS.items() if name in names)
    return next(known, "train" if name in ("", "default") else name)


def _part(file: Path, annotations: "Annotations", folder: Path) -> Part:
    names = [one.name for one in annotations.images]
    images = located(WHERE, file, names, folder)
    return Part(annotations, images, [file] * len(images))


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register cvat."""
    return [
        Dataset(
            name="cvat",
            summary="CVAT's exports `CVAT for images 1.1` and `Segmentation mask 1.1`",
            options=CvatOptions,
            build=build_cvat,
        )
    ]
