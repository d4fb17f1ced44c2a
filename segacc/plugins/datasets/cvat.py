"""`cvat`: CVAT's exports `CVAT for images 1.1` (XML) and `Segmentation mask 1.1`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from segacc.data.splits import read_each
from segacc.errors import DataError, cut
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap, read_colors
from segacc.labels.label_map import naming
from segacc.plugins.datasets.annotated import DrawOptions, Part, build_parts, unlisted
from segacc.plugins.datasets.class_lists import head_of
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
from segacc.plugins.datasets.places import Tree, split_in, tree_of

WHERE = "--dataset cvat"
IMAGES = ("JPEGImages", "images")
MASKS, COLORS = "SegmentationClass", "labelmap.txt"
"""Folders and colour table of `Segmentation mask 1.1`."""
SIGNS = ("<annotations>", "<image ")
"""What the beginning of an XML file of CVAT for images has."""


@dataclass(frozen=True, kw_only=True)
class CvatOptions(DrawOptions):
    """Options of cvat."""

    root: Path
    """The unpacked export: annotations.xml beside images/, or labelmap.txt beside
    SegmentationClass/ and JPEGImages/; or an XML file; or a folder with an XML file for each split,
    in train/, val/ and test/."""
    images: Path | None = None
    """The folder of the images, if it is not images/ beside the XML file, or its own folder."""


def build_cvat(options: CvatOptions) -> DataSplits:
    """Read an export of CVAT.

    Raises:
        DataError: it is none, or faulty.
    """
    if options.root.is_file():
        return _of_xml({options.root: "train"}, options)
    root = open_root(options.root, WHERE)
    if (root / MASKS).is_dir() and (root / COLORS).is_file():
        return _of_masks(root, options)
    others = sorted(root.glob("*.xml"))[:1]  # to say what is wrong with it
    files = cvat_files(root, tree_of(root)) or others
    if not files:
        raise DataError(
            f"{WHERE}: {root} must contain annotations.xml (`CVAT for images 1.1`), or {COLORS} "
            f"and {MASKS}/ (`Segmentation mask 1.1`); it contains {listing(root)}."
        )
    return _of_xml(split_files(root, files, WHERE), options)


def cvat_files(root: Path, tree: Tree) -> list[Path]:
    """Return the XML files of CVAT in a folder."""
    names = [root / folder / name for folder, some in tree.items() for name in some]
    files = [path for path in names if path.suffix.lower() == ".xml"]
    return [path for path in files if all(sign in head_of(path) for sign in SIGNS)]


def split_files(root: Path, files: Sequence[Path], where: str) -> dict[Path, str]:
    """Return the split of each file's images of no subset: that of its folder, or train.

    Raises:
        DataError: two files are of the same split.
    """
    found = dict[str, Path]()
    for path in files:
        folders = path.parent.relative_to(root).parts[::-1] if len(files) > 1 else ()
        split = next((split for one in folders if (split := split_in(one)[1])), "train")
        if split in found:
            raise DataError(
                f"{where}: {found[split]} and {path} are both files of CVAT for the split {split}. "
                f"Name one, as in cvat:root={path}; or join them, as in "
                f'mix:sets=["cvat:root={found[split]}","cvat:root={path}"].'
            )
        found[split] = path
    return {path: split for split, path in found.items()}


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
    with naming(told.source):
        labels = LabelMap.plain(told.names, palette=told.palette)
    return DataSplits(splits, replace(labels, colors=told.colors), unusable=unusable)


def _labelled(root: Path, folder: Path, names: Path | None = None) -> list[Sample]:
    images = pictures(folder)
    samples = with_labels(listed(names, images, folder) if names else images, root / MASKS)
    expect_labels(WHERE, samples)
    return samples


def _of_xml(files: Mapping[Path, str], options: CvatOptions) -> DataSplits:
    parts = dict[str, Part]()
    for file, own in files.items():
        for subset, part in _subsets(file, options).items():
            split = split_of(subset, own)
            if split in parts:
                raise DataError(
                    f"{file}: its images of the subset {subset or 'Default'} are of the split "
                    f"{split}, as those of another subset or file. Choose another subset in CVAT."
                )
            parts[split] = part
    data = build_parts(WHERE, parts, options)
    return replace(data, notes=(*data.notes, *unlisted(parts)))


def _subsets(file: Path, options: CvatOptions) -> dict[str, Part]:
    """Return the images of a file by subset, empty for those of none.

    Raises:
        DataError: a subset, which may be a folder of the images, is no name of one.
    """
    from segacc.labels.annotations.cvat import read_cvat

    folder = options.images or file.parent / "images"
    if options.images is None and not folder.is_dir():
        folder = file.parent
    parts = dict[str, Part]()
    for subset, annotations in read_cvat(file).items():
        if subset in (".", "..") or {"/", "\\"}.intersection(subset):
            raise DataError(
                f"{file}: {cut(subset)!r} is a path, not the name of a subset. Rename the subset "
                "in CVAT, e.g. as Train or Validation."
            )
        place = folder / subset if (folder / subset).is_dir() else folder
        images = located(WHERE, file, [one.name for one in annotations.images], place)
        parts[subset] = Part(annotations, images, [file] * len(images))
    return parts


def split_of(subset: str, own: str = "train") -> str:
    """Return the split that a subset or a list of CVAT means; images of no subset are `own`."""
    name = subset.lower()
    known = (split for split, names in SPLITS.items() if name in names)
    return next(known, own if name in ("", "default") else name)


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
