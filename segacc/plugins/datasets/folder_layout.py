"""Finds the images and labels of `folder`, and builds the label map."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from segacc.data.samples import is_image
from segacc.errors import DataError, did_you_mean
from segacc.hookspecs import Sample
from segacc.plugins.datasets.files import (
    LABEL_SUFFIXES,
    SPLITS,
    expect_labels,
    first_folder,
    listing,
    pictures,
    siblings,
    subfolders,
    with_labels,
    words,
)

WHERE = "--dataset folder"
SPLIT = "SPLIT"
"""Placeholder for the name of a split in a template."""

SECONDARY = frozenset(
    (
        *("color", "colors", "colour", "colours", "rgb", "vis", "viz", "overlay", "overlays"),
        *("object", "instance", "instances", "panoptic", "polygons", "depth", "preview"),
        "previews",
    )
)
"""Words in the names of files made beside the class labels; others are preferred to these."""
CHECKED = 20
"""Number of images whose labels are searched for by the beginning of their names."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The folders in `root`, and the naming of files."""

    root: Path
    images: str
    """A template: the folder of a split's images relative to `root`, containing SPLIT."""
    labels: str
    image_suffix: str = ""
    label_suffix: str = ""
    annotator: str | None = None
    jpeg: bool = False
    """Whether labels may be JPEG files."""

    @property
    def is_shared(self) -> bool:
        """Return whether image and label are files of the same folder and stem."""
        suffixes = self.image_suffix, self.label_suffix, self.annotator or ""
        return self.images == self.labels and not any(suffixes)

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Return the images in a folder by stem, see `pictures`."""
        if self.is_shared:
            return {one.id: Path(str(one.image)) for one in siblings(folder)}
        return pictures(folder, ending=self.image_suffix)

    def fixed(self, template: str) -> Path:
        """Return the part of a template that is the same for all splits."""
        parts = PurePath(template).parts
        first = next(k for k, part in enumerate(parts) if SPLIT in part)
        return self.root.joinpath(*parts[:first])

    def find(self, template: str, split: str) -> Path | None:
        """Return the folder of a split, case-insensitively."""
        folder: Path | None = self.root
        for part in PurePath(template).parts:
            if folder is None or not folder.is_dir():
                return None
            names = tuple(part.replace(SPLIT, name).lower() for name in SPLITS[split])
            folder = first_folder(folder, names) if SPLIT in part else folder / part
        return folder if folder is not None and folder.is_dir() else None


def template(folder: str) -> str:
    """Append SPLIT to a folder name that does not contain it."""
    return folder if SPLIT in folder else f"{folder.rstrip('/')}/{SPLIT}"


def is_flat(layout: Layout, images: Path) -> bool:
    """True if all splits' images are in one folder, and this is it."""
    return layout.images.endswith(f"/{SPLIT}") and images == layout.fixed(layout.images)


def label_place(layout: Layout, split: str, images: Path) -> tuple[Path, str]:
    """Find the labels of a split.

    Args:
        layout: the folders and naming of files.
        split: name of the split in segacc.
        images: folder of its images; if the images are not in split folders, the labels need not be
            either.

    Returns:
        The folder, and the suffix of label names relative to image names.

    Raises:
        DataError: no folder, labels of several annotators, or none of the chosen annotator.
    """
    above = layout.fixed(layout.labels)
    folder = layout.find(layout.labels, split)
    if folder is None and is_flat(layout, images) and above.is_dir():
        folder = above
    if layout.annotator is not None:
        return _of_annotator(layout, split, folder)
    if folder is not None and _stems(folder):
        return folder, layout.label_suffix
    if people := _people(layout, split, folder):
        told = " or ".join(f"annotator={one}" for one in people)
        raise DataError(
            f"{WHERE}: {folder or above} has labels of several annotators; choose one with {told}."
        )
    if folder is None and layout.labels.endswith(f"/{SPLIT}"):
        raise DataError(f"{WHERE}: {images} has no label folder in {above}.")
    if folder is None:
        raise DataError(
            f"{WHERE}: {images} has no label folder {layout.labels} in {layout.root}, where "
            f"SPLIT is {' or '.join(SPLITS[split])}; {above} contains {listing(above)}."
        )
    return folder, layout.label_suffix


def _of_annotator(layout: Layout, split: str, folder: Path | None) -> tuple[Path, str]:
    wanted = layout.annotator or ""
    name, above = (wanted.lower(),), layout.fixed(layout.labels)
    own = first_folder(above, name) if above.is_dir() else None
    found = (folder and first_folder(folder, name)) or (own and first_folder(own, SPLITS[split]))
    if found:
        return found, layout.label_suffix
    ending = f"_{wanted}{layout.label_suffix}"
    stems = _stems(folder) if folder else []
    if folder and any(stem.endswith(ending) for stem in stems):
        return folder, ending
    cut = [stem.removesuffix(layout.label_suffix) for stem in stems]
    ends = {stem.rpartition("_")[2] for stem in cut if "_" in stem}
    known = _people(layout, split, folder) or (sorted(ends) if len(ends) <= 12 else [])
    seen = f"Found: {', '.join(known)}." if known else "It has no labels of several annotators."
    raise DataError(
        f"{WHERE}: annotator={wanted}: no labels of this annotator in {folder or above}. "
        f"{did_you_mean(wanted, known)}{seen}"
    )


def _people(layout: Layout, split: str, folder: Path | None) -> list[str]:
    """Return the names of annotators' folders, which are inside a split's or contain splits."""
    inside = subfolders(folder) if folder else []
    above = subfolders(layout.fixed(layout.labels)) if layout.labels.endswith(f"/{SPLIT}") else []
    apart = [one for one in above if first_folder(one, SPLITS[split])]
    return sorted({one.name for one in inside if _stems(one)} | {one.name for one in apart})


def _stems(folder: Path) -> list[str]:
    """Return the stems of the label files in a folder."""
    return [path.stem for path in sorted(folder.iterdir()) if is_image(path, LABEL_SUFFIXES)]


def labelled(
    layout: Layout, split: str, folder: Path, chosen: Mapping[str, Path] | None = None
) -> list[Sample]:
    """Assign each image its label.

    Args:
        layout: the folders and naming of files.
        split: name of the split in segacc.
        folder: folder of the images.
        chosen: images by name, without the image suffix; default: all in the folder.

    Raises:
        DataError: see `label_place`; or no images, two labels for one image, JPEG labels, or no
            labels.
    """
    if chosen is None and (inner := _subfolders(layout, split, folder)):
        one_each = layout.images == layout.labels
        found = [_paired(layout, *pair, layout.label_suffix, one_each=one_each) for pair in inner]
        samples = _with_unique_ids(found)
        expect_labels(WHERE, samples)
        return samples
    if chosen is None and not _has_images(layout, folder):
        pictures(folder, ending=layout.image_suffix)  # raises
    return _paired(layout, folder, *label_place(layout, split, folder), chosen)


def _subfolders(layout: Layout, split: str, folder: Path) -> list[tuple[Path, Path]]:
    """Return the subfolders of images, such as those of cities, with those of their labels.

    Only if the split has no image outside them, and its labels have subfolders of the same names,
    which may be the same folders, as in a folder for each image.

    Raises:
        DataError: one of them has no label folder.
    """
    labels = layout.find(layout.labels, split)
    if labels is None and layout.images == layout.labels and is_flat(layout, folder):
        labels = folder
    if layout.annotator is not None or labels is None or _has_images(layout, folder):
        return []
    found = [one for one in subfolders(folder) if _has_images(layout, one)]
    pairs = [(one, labels / one.name) for one in found]
    gone = [images for images, own in pairs if not own.is_dir()]
    if len(gone) == len(pairs):
        return []
    if gone:
        raise DataError(f"{WHERE}: {gone[0]} has no label folder in {labels}.")
    return pairs


def _has_images(layout: Layout, folder: Path) -> bool:
    files = filter(is_image, folder.iterdir())
    return any(one.stem.endswith(layout.image_suffix) for one in files)


def _with_unique_ids(found: Sequence[list[Sample]]) -> list[Sample]:
    """Join the samples of subfolders; ids are stems, or contain the subfolder if these repeat."""
    samples = [one for some in found for one in some]
    if len({one.id for one in samples} | {""}) > len(samples):
        return samples
    pairs = [(one, Path(str(one.image)).parent.name) for one in samples]
    return [replace(one, id=f"{above}/{one.id}".rstrip("/")) for one, above in pairs]


def _paired(
    layout: Layout,
    folder: Path,
    labels: Path,
    ending: str,
    chosen: Mapping[str, Path] | None = None,
    *,
    one_each: bool = False,
) -> list[Sample]:
    """Assign the images of a folder labels, some or (`one_each`) all of which may be missing."""
    if layout.is_shared:
        found = {one.id: one for one in siblings(folder)}
        samples = [found[stem] for stem in chosen or found]
        expect_labels(WHERE, () if one_each else samples)
        return samples
    images = pictures(folder, ending=layout.image_suffix) if chosen is None else chosen
    if labels == folder and ending:
        images = {stem: path for stem, path in images.items() if not stem.endswith(ending)}
    samples = with_labels(images, labels, endings=(ending,), jpeg=layout.jpeg)
    if not (one_each or any(Path(str(one.label)).is_file() for one in samples)):
        if ending == "" and (endings := _endings(images, labels)):
            told = " or ".join(f"label_suffix={one}" for one in endings)
            raise DataError(
                f"{WHERE}: label file names in {labels} do not match image file names in {folder}: "
                f"they have an extra suffix. Add {told}."
            )
        expect_labels(WHERE, samples)
    return samples


def _endings(images: Mapping[str, Path], labels: Path) -> list[str]:
    """Return suffixes of label names relative to image names, from the first images."""
    stems, known = _stems(labels), list(images)[:20]
    found = {stem.removeprefix(name) for name in known for stem in stems if stem.startswith(name)}
    return sorted(end for end in found if end and not end[0].isalnum())[:8]


# ------------------------------------------------------------------ names that correspond
def suffixes(images: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the suffixes of image and label names under which most of them correspond.

    The names may contain folders, and a suffix is the name in a folder if it starts with `/`.
    """
    known = sorted(labels)
    if not images or not labels:
        return []
    if enough(len(set(known).intersection(images)), len(images), len(known)):
        return [("", "")]
    for image_end in ("", *_shared_ends(images)):
        names = [stem.removesuffix(image_end) for stem in images]
        ends = sorted({end for name in names[:CHECKED] for end in _beginning(name, known)})
        counts = {end: len(set(known).intersection(f"{one}{end}" for one in names)) for end in ends}
        found = [end for end in ends if enough(counts[end], len(names), len(known) // len(ends))]
        found = [end for end in found if end.startswith("/") == image_end.startswith("/")]
        if found:
            plain = [end for end in found if not words(end) & SECONDARY]
            return [(image_end, end) for end in plain or found]
    return []


def enough(pairs: int, images: int, labels: int) -> bool:
    """Return whether so many pairs are most of the images or labels."""
    return pairs > 0 and 2 * pairs >= min(images, labels)


def _shared_ends(images: Sequence[str]) -> list[str]:
    """Return the endings, from a separator on, that all names have, such as `_leftImg8bit`."""
    first = images[0]
    starts = [found.start() for found in re.finditer(r"[_\-./]", first)][:-4:-1]
    return [end for k in starts if all(one.endswith(end := first[k:]) for one in images)]


def _beginning(name: str, known: Sequence[str]) -> Iterator[str]:
    """Yield what follows `name` in the known names that begin with it."""
    for k in range(bisect_left(known, name), len(known)):
        if not known[k].startswith(name):
            return
        if (end := known[k].removeprefix(name))[:1].isalnum() is False:
            yield end
