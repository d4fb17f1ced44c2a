"""`coco`: polygons and masks in COCO's JSON, which most annotation tools export."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from segacc.data.splits import read_each
from segacc.errors import DataError, count_of, first_of
from segacc.hookspecs import Dataset, DataSplits, hookimpl
from segacc.plugins.datasets.annotated import DrawOptions, Part, build_parts, unlisted
from segacc.plugins.datasets.class_lists import COCO, kind_of_json
from segacc.plugins.datasets.files import SPLITS, listing, open_root
from segacc.plugins.datasets.folder_layout import SPLIT
from segacc.plugins.datasets.located import is_prediction, located, shortened
from segacc.plugins.datasets.places import Tree, split_in, tree_of

WHERE = "--dataset coco"
OTHERS = ("captions_", "person_keypoints_", "panoptic_", "image_info_", "stuff_")
"""Beginnings of the names of COCO's own files that are not instances."""


@dataclass(frozen=True, kw_only=True)
class CocoOptions(DrawOptions):
    """Options of coco."""

    annotations: str | None = None
    """The JSON file, which is the split train; with SPLIT in its name, such as
    `annotations/instances_SPLIT2017.json`, a file for each split. Default: found in `root`."""
    images: str | None = None
    """The folder of its images, which may contain SPLIT as well; default: found in `root`."""
    root: Path | None = None
    """The folder that the other two are relative to, and are found in; default: the working folder,
    or the folder of `annotations`."""

    def __post_init__(self) -> None:
        """Reject options that name no file."""
        if self.root is None and self.annotations is None:
            raise ValueError("give annotations=FILE and images=DIR, or root=DIR")


def build_coco(options: CocoOptions) -> DataSplits:
    """Read the annotation file of each split.

    Raises:
        DataError: a file or folder is missing, or an annotation is faulty.
    """
    files = _given(options) if options.annotations else _found(options)
    reads = {split: partial(_part, options, split, file) for split, file in files.items()}
    parts, unusable = read_each(reads)
    data = build_parts(WHERE, parts, options)
    return replace(data, unusable=unusable, notes=(*data.notes, *unlisted(parts)))


def _given(options: CocoOptions) -> dict[str, Path]:
    """Return the annotation file of each split by `annotations`.

    Raises:
        DataError: there is none.
    """
    base, told = options.root or Path(), options.annotations or ""
    if SPLIT not in told:
        found = {"train": base / told}
    else:
        names = {
            split: [told.replace(SPLIT, one) for one in some] for split, some in SPLITS.items()
        }
        found = {
            split: base / path
            for split, some in names.items()
            for path in reversed(some)
            if (base / path).is_file()
        }
    gone = [path for path in found.values() if not path.is_file()]
    if gone or not found:
        above = (base / told).parent
        seen = f"{above} contains {listing(above)}" if above.is_dir() else f"there is no {above}"
        raise DataError(f"{WHERE}: annotations={told}: no such file; {seen}.")
    return found


def _found(options: CocoOptions) -> dict[str, Path]:
    """Return the annotation file of each split in `root`.

    Raises:
        DataError: there is none, or several for a split.
    """
    root = open_root(options.root or Path(), WHERE)
    found = coco_files(root, tree_of(root))
    if not found:
        raise DataError(f"{WHERE}: {root} has no COCO file; it contains {listing(root)}.")
    if several := next((some for some in found.values() if len(some) > 1), None):
        raise DataError(
            f"{WHERE}: {root} has {len(several)} annotation files for one split: "
            f"{first_of(several, 4)}. Choose with annotations=FILE."
        )
    return {split: root / some[0] for split, some in found.items()}


def coco_files(root: Path, tree: Tree) -> dict[str, list[str]]:
    """Return the paths of the COCO files in a folder by split; those of no split are `train`."""
    found = dict[str, list[str]]()
    for folder, names in tree.items():
        for name in names:
            path = (PurePosixPath(folder) / name).as_posix()
            ours = name.lower().endswith(".json") and not name.startswith(OTHERS)
            if ours and kind_of_json(root / path) == COCO:
                found.setdefault(_split_of(path), []).append(path)
    if "" in found:
        found = {"train": [*found.pop("train", []), *found.pop("")], **found}
    return {split: found[split] for split in SPLITS if split in found}


def _split_of(path: str) -> str:
    """Return the split that the last part of a path names; empty if none does."""
    return next((split for part in reversed(path.split("/")) if (split := split_in(part)[1])), "")


def _part(options: CocoOptions, split: str, file: Path) -> Part:
    from segacc.labels.annotations.coco import read_coco

    annotations = read_coco(file)
    if not annotations.images:
        raise DataError(f"{file}: it lists no image.")
    names = [one.name for one in annotations.images]
    images = located(WHERE, file, names, _image_folder(options, split, file, names))
    return Part(annotations, images, [file] * len(images))


def _image_folder(options: CocoOptions, split: str, file: Path, names: Sequence[str]) -> Path:
    """Return the folder of the images of a file: the given one, or the one that has most of them.

    Raises:
        DataError: there is no folder with one of them.
    """
    base = options.root or Path()
    if options.images is not None:
        paths = [base / options.images.replace(SPLIT, name) for name in SPLITS[split]]
        return next((path for path in paths if path.is_dir()), paths[0])
    root = options.root or (
        file.parent.parent if file.parent.name == "annotations" else file.parent
    )
    tree = tree_of(root)
    found = next(filter(None, (_holders(tree, set(some)) for some in shortened(names))), {})
    photos = {one: some for one, some in found.items() if not is_prediction(root / some[0])}
    found = photos or found
    best = max(map(len, found.values()), default=0)
    if not best:
        raise DataError(
            f"{WHERE}: none of the {count_of(len(names), 'image')} of {file} is in {root}, such as "
            f"{names[0]}. Name their folder as images=DIR."
        )
    return _nearest([root / one for one, some in found.items() if len(some) == best], file, split)


def _holders(tree: Tree, names: Collection[str]) -> dict[str, list[str]]:
    """Return the folders below which files of these names are, with the paths of these files."""
    found, last = dict[str, list[str]](), {name.rpartition("/")[2] for name in names}
    for folder, files in tree.items():
        above = PurePosixPath(folder).parts
        for file in last.intersection(files):
            for depth in range(len(above) + 1):
                if "/".join((*above[depth:], file)) in names:
                    found.setdefault("/".join(above[:depth]), []).append(f"{folder}/{file}")
    return found


def _nearest(folders: Sequence[Path], file: Path, split: str) -> Path:
    """Return the folder whose name has the split, or else the nearest to the file."""
    own = [one for one in folders if _split_of(one.as_posix()) == split]
    return min(own or folders, key=lambda one: len(_apart(one, file.parent)))


def _apart(one: Path, other: Path) -> set[str]:
    return set(one.parts) ^ set(other.parts)


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register coco."""
    return [
        Dataset(
            name="coco",
            summary="polygons and RLE masks in COCO JSON, also of Roboflow, CVAT and Supervisely",
            options=CocoOptions,
            build=build_coco,
        )
    ]
