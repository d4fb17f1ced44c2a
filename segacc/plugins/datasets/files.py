"""Functions shared by the data sets on disk: folders, pairs of files, class and colour tables."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segacc.data.samples import IMAGE_SUFFIXES, JPEG_SUFFIXES, is_hidden, is_image, other_endings
from segacc.data.splits import SplitsRead, read_each
from segacc.errors import DataError, EmptySplitError, first_of, read_text, twice_in
from segacc.hookspecs import Sample
from segacc.labels import LabelMap, NamesFile
from segacc.labels.label_map import naming

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}
"""Name of each split in segacc, and its usual folder names."""

NAMES_FILES = ("classes.json", "id2label.json", "classes.txt")
"""Names of a file of class names beside the data."""

IMAGE_WORDS = frozenset(
    (
        *("image", "images", "img", "imgs", "rgb", "jpeg", "photo", "photos", "picture"),
        *("pictures", "input", "inputs", "stills", "frames"),
    )
)
"""Words in the names of folders of images, and of columns."""
LABEL_WORDS = frozenset(
    (
        *("annotation", "annotations", "annot", "ann", "anns", "label", "labels", "labeled"),
        *("labelled", "mask", "masks", "gt", "groundtruth", "truth", "seg", "segmentation"),
        *("segmentations", "semantic", "target", "targets", "lbl", "lbls", "stuffthingmaps"),
        "manual",
    )
)
"""Words in the names of folders of labels, and of columns."""
_HEADER = IMAGE_WORDS | LABEL_WORDS | {"path", "paths", "file", "files", "filename", "name", "id"}

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".npy")
LOSSY = (
    "labels must be PNG or another lossless format: JPEG alters the ids. Export the labels again, "
    "or, for masks of 0 and 255, use --dataset folder with binary=true."
)


def open_root(root: Path, where: str) -> Path:
    """Return the folder given as `root`.

    Raises:
        DataError: it is not a folder; the message starts with `where`, e.g. `--dataset folder`.
    """
    if not root.is_dir():
        raise DataError(f"{where}: root={root} is not a folder (looked in {root.resolve()}).")
    return root


def first_folder(parent: Path, called: tuple[str, ...]) -> Path | None:
    """Return the folder in `parent` for the first of the lower-case names `called` that exists."""
    here = {path.name.lower(): path for path in parent.iterdir() if path.is_dir()}
    return next((here[name] for name in called if name in here), None)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, which may be missing; sorted, without hidden ones."""
    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(one for one in inside if one.is_dir() and not is_hidden(one.name))


def listing(folder: Path) -> str:
    """List the first eight names in a folder, for an error."""
    names = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
    return first_of(names, 8) or "nothing"


def expect_folders(where: str, root: Path, needed: tuple[str, ...]) -> None:
    """Check that a folder contains the required folders of its data set.

    Raises:
        DataError: one of the folders `needed`, relative to `root`, is missing.
    """
    if not all((root / name).is_dir() for name in needed):
        wanted = ", ".join(f"{name}/" for name in needed[:-1]) + f" and {needed[-1]}/"
        raise DataError(f"{where}: {root} must contain {wanted}; it contains {listing(root)}.")


def by_stem(folder: Path, suffixes: tuple[str, ...], *, ending: str = "") -> dict[str, Path]:
    """Return the files of a folder by stem, in order of the file names.

    Args:
        folder: only its own files are listed, not those in subfolders.
        suffixes: in lower case; files with other suffixes are skipped.
        ending: ending of the stem, e.g. `_L` in NAME_L.png: it is removed, and files without it are
            skipped.

    Raises:
        DataError: two files have the same stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if is_image(path, suffixes) and path.stem.endswith(ending):
            stem = path.stem.removesuffix(ending)
            if stem in found:
                first, second = found[stem].name, path.name
                raise DataError(
                    f"{folder}: {first} and {second} have the same stem. If one is the label of "
                    "the other, use --dataset folder with the same folder for images= and labels=; "
                    "otherwise rename one of them."
                )
            found[stem] = path
    return found


def pairs(
    where: str,
    image_folder: Path,
    label_folder: Path,
    *,
    image_ending: str = "",
    label_endings: tuple[str, ...] = ("",),
) -> list[Sample]:
    """Pair the images of a folder with the labels of the same stem, in order of the file names.

    A missing label raises when the sample is read, where `skip_unreadable` may skip it.

    Args:
        where: start of error messages.
        image_folder: the stems of its images, without `image_ending`, are the ids.
        label_folder: folder of the labels, whose stems are the ids plus an ending.
        image_ending: ending of an image's stem, e.g. `_leftImg8bit`.
        label_endings: endings of a label's stem, e.g. `_L`; the first one that occurs is used.

    Raises:
        DataError: no image, no label, two files with the same stem, or JPEG labels.
    """
    images = pictures(image_folder, ending=image_ending)
    found = with_labels(images, label_folder, endings=label_endings)
    expect_labels(where, found)
    return found


def pictures(folder: Path, *, ending: str = "") -> dict[str, Path]:
    """Return the images of a folder by stem, without `ending`; see `by_stem`.

    Raises:
        DataError: there are none, or two have the same stem.
    """
    found = by_stem(folder, IMAGE_SUFFIXES, ending=ending)
    if not found:
        ends = ", ".join(f"{ending}{suffix}" for suffix in IMAGE_SUFFIXES)
        more = "".join(f" {line}" for line in other_endings([folder]))
        raise EmptySplitError(f"{folder}: the split is empty: no file name ends with {ends}.{more}")
    return found


def with_labels(
    images: Mapping[str, Path],
    label_folder: Path,
    *,
    endings: tuple[str, ...] = ("",),
    jpeg: bool = False,
) -> list[Sample]:
    """Assign each image the label of the same stem; see `pairs`; `jpeg` permits JPEG labels.

    Raises:
        DataError: two labels have the same stem, or labels are JPEG.
    """
    ends = (*LABEL_SUFFIXES, *JPEG_SUFFIXES) if jpeg else LABEL_SUFFIXES
    found = {ending: by_stem(label_folder, ends, ending=ending) for ending in endings}
    ending = next((end for end in endings if not found[end].keys().isdisjoint(images)), endings[0])
    jpegs = {} if jpeg else by_stem(label_folder, JPEG_SUFFIXES, ending=ending)
    if lossy := next((path for stem, path in jpegs.items() if stem in images), None):
        raise DataError(f"{lossy}: {LOSSY}")
    return [
        Sample(path, found[ending].get(stem, label_folder / f"{stem}{ending}.png"), stem)
        for stem, path in images.items()
    ]


def split_pairs(
    where: str,
    images: Path,
    labels: Path,
    called: Mapping[str, tuple[str, ...]],
    *,
    label_endings: tuple[str, ...] = ("",),
) -> SplitsRead:
    """Pair the folders of the splits in `images` with those in `labels`.

    Args:
        where: start of error messages.
        images: contains an image folder for each split.
        labels: contains a label folder for each split.
        called: split -> lower-case names of its folder.
        label_endings: see `pairs`.

    Raises:
        DataError: no split, or all are without a label folder or any labels; see `pairs`.
    """

    def read(folder: Path, names: tuple[str, ...]) -> list[Sample]:
        own = first_folder(labels, names)
        if own is None:
            raise DataError(f"{where}: {folder} has no label folder in {labels}.")
        return pairs(where, folder, own, label_endings=label_endings)

    folders = {split: first_folder(images, names) for split, names in called.items()}
    found = {split: partial(read, one, called[split]) for split, one in folders.items() if one}
    if not found:
        wanted = " or ".join(names[0] for names in called.values())
        raise DataError(
            f"{where}: {images} has no folder named {wanted}; it contains {listing(images)}."
        )
    return read_each(found)


def expect_labels(where: str, samples: Iterable[Sample]) -> None:
    """Check that at least one sample has its label.

    Raises:
        DataError: no sample has a label file.
    """
    found = [(one.image, one.label) for one in samples if isinstance(one.label, Path)]
    if not found or any(label.is_file() for _, label in found):
        return
    image, label = found[0]
    beside = [one for one in label.parent.iterdir() if one.stem == label.stem and one != image]
    if beside:
        raise DataError(
            f"{where}: {beside[0]} is not read: labels end in {', '.join(LABEL_SUFFIXES)}, and "
            "their pixel values are class ids. Convert the labels."
        )
    raise DataError(
        f"{where}: none of the split's images ({len(found)}) has a label, e.g. {label}; that "
        f"folder contains {listing(label.parent)}."
    )


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a text file, stripped; Windows' backslashes become slashes.

    Raises:
        DataError: the file is unreadable or empty.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read the list: {error.strerror}.") from None
    lines = [line.strip().replace("\\", "/") for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path}: the list is empty; expected one name per line.")
    return lines


def listed(
    path: Path, images: Mapping[str, Path], image_folder: Path, names: Sequence[str] = ()
) -> dict[str, Path]:
    """Select the images named in a list, in its order.

    A name is a stem, a file name or a path.

    Args:
        path: path of the list.
        images: images by stem.
        image_folder: folder of the images, for errors.
        names: the names in the list; default: those at the start of its lines.

    Raises:
        DataError: the list is unreadable or empty, or has a duplicate or unknown name.
    """
    told = [[one] for one in names] or [[line.split()[0], line] for line in read_lines(path)]
    stems = [_stem(texts, images) for texts in told]
    if gone := [stem for stem in stems if stem not in images]:
        raise DataError(
            f"{path}: {len(gone)} of its {len(stems)} names have no image in {image_folder}: "
            f"{first_of(gone, 4)}. Is part of the data missing?"
        )
    refuse_listed_twice(path, stems)
    return {stem: images[stem] for stem in stems}


def refuse_listed_twice(path: Path, names: Iterable[str]) -> None:
    """Reject a list that has a name twice."""
    if twice := twice_in(names):
        raise DataError(f"{path}: {twice[0]} is listed twice; keep one of the lines.")


Row = tuple[str, ...]


def words(text: str) -> frozenset[str]:
    """Return the words of a name in lower case: `gtFine_labelIds` has gt, fine, label and ids."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text.replace("SPLIT", " "))
    return frozenset(word.lower() for word in found)


def rows(path: Path, root: Path, images: Path) -> list[Row]:
    """Read a list: for each line the paths of image and label in `root`, or the image's name.

    Columns are separated by tabs, commas, semicolons or spaces; a path in double quotes, or of a
    file in `root` or `images`, may contain them. A first line of column names, such as
    `image,mask`, is skipped; it may also say that the labels come first.

    Raises:
        DataError: the list is unreadable or empty, or a line has other columns than the first.
    """
    lines = read_lines(path)
    found = [_columns(line, (root, images)) for line in lines]
    for line, row in zip(lines, found, strict=True):
        if len(row) > 2 or len(row) != len(found[0]):
            raise DataError(
                f"{path}: the line {line!r} has {len(row)} columns; expected the same number in "
                f"every line: `IMAGE LABEL`, two paths in {root}, or the name of an image. Put "
                "commas between paths that contain spaces."
            )
    first = found[0]
    if len(found) == 1 or not all(words(cell) and words(cell) <= _HEADER for cell in first):
        return found
    folders, ends = (root, images), ("", *IMAGE_SUFFIXES)
    names = [f"{cell}{end}" for cell in first for end in ends]
    if any((folder / name).is_file() for folder in folders for name in names):
        return found
    swapped = len(first) == 2 and words(first[0]) & LABEL_WORDS and words(first[1]) & IMAGE_WORDS
    return [row[::-1] if swapped else row for row in found[1:]]


def _columns(line: str, folders: tuple[Path, ...]) -> Row:
    if not re.search(r'[\s,;"]', line) or any((one / line).is_file() for one in folders):
        return (line,)
    outside = re.sub('"[^"]*"', "", line)
    comma = next((one for one in "\t,;" if one in outside), " ")
    cells = next(csv.reader([line], delimiter=comma, skipinitialspace=True))
    return tuple(cell.strip() for cell in cells)


def _stem(texts: Sequence[str], images: Mapping[str, Path]) -> str:
    """Return the stem of the image that is meant by the first of some texts."""
    stems = [(Path(text).name, Path(text).stem) for text in texts]
    known = [name for both in stems for name in both if name in images]
    return known[0] if known else stems[0][1]


def siblings(folder: Path) -> list[Sample]:
    """Pair the images of a folder with the labels of the same stem in the same folder.

    Of two files, the label is the one whose ending comes first in LABEL_SUFFIXES; a file of a
    lossless format without another one is a label without an image.

    Raises:
        DataError: three files have the same stem, or two that cannot be image and label.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if is_image(path, (*IMAGE_SUFFIXES, *LABEL_SUFFIXES)):
            found.setdefault(path.stem, []).append(path)
    samples = []
    for stem, paths in found.items():
        labels = [path for end in LABEL_SUFFIXES for path in paths if path.suffix.lower() == end]
        images = [path for path in paths if path not in labels[:1]]
        if len(images) > 1 or (len(paths) == 2 and not labels):
            raise DataError(
                f"{folder}: {first_of((path.name for path in paths), 4)} have the same stem; "
                "expected an image and a label, e.g. NAME.jpg and NAME.png."
            )
        samples += [Sample(one, (labels or [folder / f"{stem}.png"])[0], stem) for one in images]
    return samples


def names_beside(folder: Path) -> Path | None:
    """Find a file of class names in a folder."""
    return next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None)


def plain_map(told: NamesFile, options: Any) -> LabelMap:
    """Build a label map from class names, with the options `ignore` and `reduce_labels`."""
    reduce_labels = told.reduce_labels if options.reduce_labels is None else options.reduce_labels
    ignore = (*told.ignored, *options.ignore)
    with naming(told.source):
        return LabelMap.plain(
            told.names, ignore=ignore, reduce_labels=reduce_labels, palette=told.palette
        )


def table(name: str) -> dict[str, Any]:
    """Read data/NAME.json; its `source` gives the origin of the facts."""
    path = Path(__file__).parent / "data" / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
