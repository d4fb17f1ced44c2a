"""`folder`: images and labels in folders on disk, or listed in files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segacc.data.samples import JPEG_SUFFIXES, in_root, is_image, is_inside
from segacc.data.splits import SplitsRead, read_each
from segacc.errors import DataError, EmptySplitError, expand, first_of
from segacc.hookspecs import Dataset, DataSplits, Recognized, Sample, hookimpl
from segacc.plugins.datasets.class_lists import class_files, find_classes
from segacc.plugins.datasets.files import (
    LOSSY,
    SPLITS,
    Row,
    expect_labels,
    first_folder,
    listed,
    listing,
    open_root,
    read_lines,
    refuse_listed_twice,
    rows,
    subfolders,
)
from segacc.plugins.datasets.folder_labels import label_map
from segacc.plugins.datasets.folder_layout import (
    SPLIT,
    WHERE,
    Layout,
    labelled,
    template,
)
from segacc.plugins.datasets.layouts import NoLayoutError, find_layout, reads_jpeg
from segacc.plugins.datasets.places import tree_of
from segacc.plugins.datasets.tools import recognize_tool

LABEL_FOLDERS = ("annotations", "labels", "masks")


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Options of folder."""

    root: Path
    """Contains `images/<split>/` and `annotations/<split>/` (or `labels/`, `masks/`), or `<split>/`
    with these inside. Split folders are named train, val, test or another usual name; without split
    folders, the images in `images/` are the split train."""
    images: str | None = None
    """Image folder in `root` if it has another name, e.g. `images=rgb` for `rgb/<split>/`; SPLIT
    stands for the split if it comes first, e.g. `images=SPLIT/rgb`."""
    labels: str | None = None
    """Label folder in `root` if it has another name, likewise, e.g. `labels=SPLITannot`."""
    image_suffix: str = ""
    """Suffix of image names, e.g. `image_suffix=_sat` for NAME_sat.jpg."""
    label_suffix: str = ""
    """Suffix of label names, e.g. `label_suffix=_mask` for NAME_mask.png."""
    annotator: str | None = None
    """Which annotator's labels to use if there are several: those in `annotations/<split>/NAME/`,
    in `annotations/NAME/<split>/`, or in files that end with `_NAME`."""
    train: Path | None = None
    """List of the training samples: each line has the paths of image and label in `root`, or the
    name of an image."""
    validation: Path | None = None
    """List of the validation samples."""
    test: Path | None = None
    """List of the test samples."""
    names: Path | None = None
    """Class names: a text file with one per line, or JSON; default: `classes.json`, `id2label.json`
    or `classes.txt` in `root`."""
    colors: Path | None = None
    """Colour table for labels with colours, which also gives the class names: lines of `name,r,g,b`
    or `r g b name`, or JSON, including `classes.json` with a palette. Raw ids are the indices of
    the names."""
    binary: bool = False
    """True: labels contain 0 for the background and one other value or colour. They may be JPEG
    files, whose values from 128 on are the foreground."""
    ignore: tuple[int, ...] = ()
    """Raw label ids to ignore, e.g. `ignore=11` or `ignore=0/11`; 255 is always ignored."""
    reduce_labels: bool | None = None
    """True: raw id 0 is ignored, raw id i is class i - 1 (ADE20K); default: as in classes.json."""

    def __post_init__(self) -> None:
        """Reject options that exclude each other."""
        if self.binary and (self.colors is not None or self.reduce_labels):
            raise ValueError(
                "binary=true detects the values itself; leave out colors and reduce_labels"
            )
        if self.colors is not None and (self.names is not None or self.reduce_labels is not None):
            raise ValueError("colors also gives the class names; leave out names and reduce_labels")


def build_folder(options: FolderOptions) -> DataSplits:
    """Pair the images of each split with their labels, and read the label map.

    Raises:
        SegaccError: a folder, the class names, the splits or all labels are missing, or a list,
            colour table or edit is invalid.
    """
    splits, unusable = read_splits(options)
    labels = label_map(options, open_root(options.root, WHERE), splits)
    return DataSplits(splits, labels, unusable=unusable)


def read_splits(options: FolderOptions) -> SplitsRead:
    """Pair the images of each split with their labels.

    Raises:
        SegaccError: see `build_folder`.
    """
    root = open_root(options.root, WHERE)
    typed = {split: getattr(options, split) for split in SPLITS}
    lists = {split: path and in_root(root, path) for split, path in typed.items()}
    layout = _layout(options, root, needed=not any(lists.values()))
    readers: dict[str, Callable[[], list[Sample]]] = {}
    for split, path in lists.items():
        if path:
            read_lines(path)  # an error of a list that the user gave, whatever the run uses
            readers[split] = partial(_from_list, layout, split, path)
        elif images := layout.find(layout.images, split):
            readers[split] = partial(labelled, layout, split, images)
    try:
        return read_each(readers) if readers else (_without_splits(layout), {})
    except EmptySplitError:
        if _is_flat(layout):  # beside empty folders of splits
            return _without_splits(layout), {}
        raise


def _layout(options: FolderOptions, root: Path, *, needed: bool) -> Layout:
    """Find the folders of images and labels; `needed` is False if lists may name all files."""
    images, labels = options.images or "images", options.labels
    if options.images is None and labels is None and not (root / images).is_dir():
        for names in SPLITS.values():
            folder = first_folder(root, names)
            kind = next((k for k in LABEL_FOLDERS if folder and (folder / k).is_dir()), None)
            if folder and kind and (folder / images).is_dir():
                images, labels = f"{SPLIT}/{images}", f"{SPLIT}/{kind}"
                break
    if labels is None:
        labels = next((k for k in LABEL_FOLDERS if (root / k).is_dir()), LABEL_FOLDERS[0])
    layout = Layout(
        root=root,
        images=template(images),
        labels=template(labels),
        image_suffix=options.image_suffix,
        label_suffix=options.label_suffix,
        annotator=options.annotator,
        jpeg=options.binary,
    )
    if needed:
        _check(layout, options)
    return layout


def _check(layout: Layout, options: FolderOptions) -> None:
    for key in ("images", "labels"):
        folder = layout.fixed(getattr(layout, key))
        if folder.is_dir():
            continue
        if (given := getattr(options, key)) is not None:
            raise DataError(
                f"{WHERE}: {key}={given}: {folder} is not a folder; {layout.root} contains "
                f"{listing(layout.root)}."
            )
        raise DataError(
            f"{WHERE}: {layout.root} must contain images/<split>/ and annotations/<split>/ (or "
            "labels/, masks/), or <split>/ with these inside; it contains "
            f"{listing(layout.root)}. Use images= and labels= for other folder names, or "
            f"`--dataset {layout.root}`, which finds them."
        )


def _from_list(layout: Layout, split: str, path: Path) -> list[Sample]:
    """Read the samples of a list, by the paths of both files or by the image's name."""
    images = layout.find(layout.images, split) or layout.fixed(layout.images)
    found = rows(path, layout.root, images)
    if len(found[0]) == 2:
        return samples_of_rows(path, found, layout.root, jpeg=layout.jpeg)
    if all((layout.root / name).is_file() for (name,) in found):
        chosen = images_of_rows(path, found, layout.root, ending=layout.image_suffix)
    elif images.is_dir():
        chosen = listed(path, layout.pictures(images), images, [name for (name,) in found])
    else:
        raise DataError(
            f"{path}: its images must be in {images}, which is not a folder, or be "
            f"paths in {layout.root}."
        )
    parents = {image.parent for image in chosen.values()}
    for other in SPLITS:  # a list may divide the folder of another split
        if parents == {layout.find(layout.images, other)}:
            return labelled(layout, other, parents.pop(), chosen)
    return labelled(layout, split, images, chosen)


def _is_flat(layout: Layout) -> bool:
    """Return whether the image folder itself contains images, or one with each label."""
    images = layout.fixed(layout.images)
    if not layout.images.endswith(f"/{SPLIT}"):
        return False
    inner = subfolders(images) if layout.images == layout.labels else []
    return any(is_image(path) for folder in (images, *inner) for path in folder.iterdir())


def _without_splits(layout: Layout) -> dict[str, list[Sample]]:
    """Use the images directly in the image folder as the training split."""
    images = layout.fixed(layout.images)
    if _is_flat(layout):
        return {"train": labelled(layout, "train", images)}
    called = "train, validation or test (or training, val, valid, dev, eval, testing)"
    if layout.images.endswith(f"/{SPLIT}"):
        raise DataError(
            f"{WHERE}: {images} has no folder named {called}; it contains {listing(images)}."
        )
    raise DataError(
        f"{WHERE}: {layout.root} has no folder {layout.images} where SPLIT is {called}; "
        f"{images} contains {listing(images)}."
    )


KNOWN = {
    "voc": ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
    "cityscapes": ("leftImg8bit", "gtFine"),
    "camvid": ("701_StillsRaw_full", "LabeledApproved_full"),
    "ade20k": ("objectInfo150.txt", "images/training", "annotations/training"),
}
"""Files and folders by which other data sets, whose classes are known, are recognized."""


def recognize(given: str, typed: Mapping[str, Any], where: str) -> Recognized:
    """Find the layout and the classes of a folder that was given by its path.

    A folder that looks like a data set of known classes, and has no class list, is read as that.

    Raises:
        DataError: it is not a folder, no layout fits, several do, or there are no class names.
    """
    root = expand(given, where)
    if not root.is_dir():
        raise DataError(f"{where}: {given} is not a folder (looked in {root.resolve()}).")
    if "root" in typed:
        raise DataError(f"{where}: the folder is given twice: {given} and root={typed['root']}.")
    tree = tree_of(root)
    known = next((name for name, some in KNOWN.items() if _contains(root, some)), None)
    if known and not (typed or class_files(tree)):
        return Recognized(known, {"root": given})
    try:
        layout = find_layout(root, tree, typed, given, where)
    except NoLayoutError:
        if tool := recognize_tool(root, tree, given):
            return tool
        raise
    lists: dict[str, Any] = {key: Path(layout[key]) for key in SPLITS if key in layout}
    jpeg = reads_jpeg(typed)
    splits, unusable = read_splits(FolderOptions(root=root, binary=jpeg, **{**layout, **lists}))
    for key in lists.keys() - typed.keys():
        _refuse_outside(root, key, layout[key], splits.get(key, ()))
    classes = find_classes(root, tree, splits, typed, given, where)
    counts = {split: len(samples) for split, samples in splits.items()}
    # A validation split with faulty labels is not replaced by a part of the training split.
    counts |= {split: 0 for split, e in unusable.items() if not isinstance(e, EmptySplitError)}
    return Recognized("folder", {"root": given, **layout, **classes}, counts)


def _refuse_outside(root: Path, split: str, found: str, samples: Sequence[Sample]) -> None:
    """Refuse a list that was found, not given, and names files outside the folder.

    Raises:
        DataError: the list may be part of what was downloaded, and name any file.
    """
    paths = (path for one in samples for path in (one.image, one.label) if isinstance(path, Path))
    if far := next((path for path in paths if not is_inside(root, path)), None):
        raise DataError(
            f"{root / found}: this list, which was found in the folder, names {far}, a file "
            f"outside it. If you wrote the list, give it: `{split}={found}`, an option of "
            "--dataset folder."
        )


def _contains(root: Path, names: Sequence[str]) -> bool:
    return all((root / name).exists() for name in names)


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register folder."""
    return [
        Dataset(
            name="folder",
            summary="images/<split>/ and annotations/<split>/ on disk, paired by file stem",
            options=FolderOptions,
            build=build_folder,
            recognize=recognize,
        ),
    ]


def samples_of_rows(
    path: Path, found: Sequence[Row], root: Path, *, jpeg: bool = False
) -> list[Sample]:
    """Create samples from the paths of images and labels.

    The ids are the images' stems, or their paths if stems are not unique.

    Raises:
        DataError: an image is missing or duplicate, a label is a JPEG, or there are no labels.
    """
    gone = [image for image, _ in found if not (root / image).is_file()]
    if gone:
        raise DataError(
            f"{path}: {len(gone)} of its {len(found)} images are missing: {first_of(gone, 4)}. "
            f"Paths are relative to {root}."
        )
    jpegs = [label for _, label in found if label.lower().endswith(JPEG_SUFFIXES)]
    if jpegs and not jpeg:
        raise DataError(f"{path}: {jpegs[0]}: {LOSSY}")
    images = [image for image, _ in found]
    refuse_listed_twice(path, images)
    stems = [Path(image).stem for image in images]
    ids = stems if len(set(stems)) == len(stems) else [str(Path(i).with_suffix("")) for i in images]
    samples = [
        Sample(root / image, root / label, name)
        for (image, label), name in zip(found, ids, strict=True)
    ]
    expect_labels(WHERE, samples)
    return samples


def images_of_rows(path: Path, found: Sequence[Row], root: Path, *, ending: str) -> dict[str, Path]:
    """Return the images of a list of paths by stem, without `ending`.

    Raises:
        DataError: two have the same stem.
    """
    stems = [Path(image).stem.removesuffix(ending) for (image,) in found]
    refuse_listed_twice(path, stems)
    return {stem: root / image for stem, (image,) in zip(stems, found, strict=True)}
