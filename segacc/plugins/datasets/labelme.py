"""`labelme`: one JSON file for each image, as labelme writes them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from segacc.data.samples import IMAGE_SUFFIXES, in_root, is_image, is_inside
from segacc.data.splits import read_each
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, hookimpl
from segacc.plugins.datasets.annotated import DrawOptions, Part, build_parts, unlisted
from segacc.plugins.datasets.class_lists import LABELME, kind_of_json
from segacc.plugins.datasets.files import SPLITS, listing, open_root
from segacc.plugins.datasets.located import is_prediction, located
from segacc.plugins.datasets.places import Tree, split_in, tree_of

WHERE = "--dataset labelme"
LABELS = "labels.txt"
"""The list of classes that labelme is started with, as `labelme --labels labels.txt`."""


@dataclass(frozen=True, kw_only=True)
class LabelmeOptions(DrawOptions):
    """Options of labelme."""

    root: Path
    """The folder with labelme's files, which may be in train/, val/ and test/; each names its
    image, usually NAME.jpg beside NAME.json."""
    names: Path | None = None
    """Class names in order, one per line; default: labels.txt in `root`, or else the labels in
    alphabetical order."""
    images: Path | None = None
    """The folder of the images, if they are outside `root`, as those of `segacc predict` are."""


def build_labelme(options: LabelmeOptions) -> DataSplits:
    """Read the files of each split.

    Raises:
        DataError: there is none, or one is faulty.
    """
    root = open_root(options.root, WHERE)
    found = labelme_files(root, tree_of(root))
    if not found:
        raise DataError(f"{WHERE}: {root} has no file of labelme; it contains {listing(root)}.")
    beside = root / LABELS if (root / LABELS).is_file() else None
    names = in_root(root, options.names) if options.names else beside
    reads = {split: partial(_part, options, files) for split, files in found.items()}
    parts, unusable = read_each(reads)
    data = build_parts(WHERE, parts, options, names)
    return replace(data, unusable=unusable, notes=(*data.notes, *unlisted(parts)))


def labelme_files(root: Path, tree: Tree) -> dict[str, list[Path]]:
    """Return labelme's files by split, those of no split folder as `train`."""
    found = dict[str, list[Path]]()
    for folder, names in tree.items():
        files = [root / folder / name for name in names if name.lower().endswith(".json")]
        files = [path for path in files if kind_of_json(path) == LABELME]
        if files:
            split = next((one for part in folder.split("/") if (one := split_in(part)[1])), "train")
            found.setdefault(split, []).extend(files)
    return {split: found[split] for split in SPLITS if split in found}


def _part(options: LabelmeOptions, files: Sequence[Path]) -> Part:
    from segacc.labels.annotations.labelme import read_labelme

    annotations, folder = read_labelme(files), options.images
    told = [Path(one.name.replace("\\", "/")) for one in annotations.images]
    if folder is not None:
        names = [_name_in(folder, *pair) for pair in zip(files, told, strict=True)]
        return Part(annotations, located(WHERE, options.root, names, folder), files)
    images, notes = _images(options.root, list(zip(files, told, strict=True)))
    return Part(replace(annotations, notes=(*annotations.notes, *notes)), images, files)


def _name_in(folder: Path, file: Path, told: Path) -> str:
    """Return the path of a file's image in the folder of the images, if it leads there."""
    path = file.parent / told
    return os.path.relpath(path, folder) if is_inside(folder, path) else told.as_posix()


def _images(root: Path, pairs: Sequence[tuple[Path, Path]]) -> tuple[list[Path], tuple[str, ...]]:
    """Return the images of pairs of a file and the image that it names, and what is to be known.

    Raises:
        DataError: none is there, or one is outside `root`.
    """
    beside = dict[Path, list[Path]]()
    for folder in dict.fromkeys(file.parent for file, _ in pairs):
        for path in sorted(filter(is_image, folder.iterdir()), key=_order):
            beside.setdefault(path.with_suffix(""), []).append(path)
    images = [_image(root, *pair, beside.get(pair[0].with_suffix(""), [])) for pair in pairs]
    gone = [pair for pair, path in zip(pairs, images, strict=True) if not path.is_file()]
    embedded = next(filter(None, (_embedded(*pair) for pair in gone)), "")
    if len(gone) == len(pairs):
        file, told = gone[0]
        lost = f"{file}: its image {told} is neither there nor beside the file."
        raise DataError(embedded or lost)
    return images, (embedded,) if embedded else ()


def _order(path: Path) -> tuple[int, str]:
    return IMAGE_SUFFIXES.index(path.suffix.lower()), path.name


def _image(root: Path, file: Path, told: Path, beside: Sequence[Path]) -> Path:
    """Return the image of a file: where it says, or beside it; the path may be missing.

    Raises:
        DataError: it is outside `root`.
    """
    places = [file.parent / told, file.parent / (told.name or file.stem)]
    found = [one for one in (*places, *beside) if one.is_file() and not is_prediction(one)]
    if path := next((one for one in found if is_inside(root, one)), None):
        return path
    if found:
        raise DataError(
            f"{file}: its image {told} is outside {root}, the folder that is read. Name the folder "
            f"of the images, as in labelme:root={root},images={os.path.normpath(found[0].parent)}."
        )
    return next(one for one in places if is_inside(root, one))


def _embedded(file: Path, told: Path) -> str:
    """Return how to write the image that a file contains; empty if it contains none."""
    from segacc.labels.annotations.reading import read_json

    if not read_json(file, "the labelme file").get("imageData"):
        return ""
    return (
        f"{file}: its image {told} is not there, but embedded in the file (imageData). Write it "
        f"beside the file, as `labelme_export_json {file}` does for one, as {told.name}."
    )


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register labelme."""
    return [
        Dataset(
            name="labelme",
            summary="polygons, rectangles, circles and masks in labelme's JSON files",
            options=LabelmeOptions,
            build=build_labelme,
        )
    ]
