"""Finds the layout of a folder of images and labels: the options with which `folder` reads it."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from segacc.data.samples import JPEG_SUFFIXES
from segacc.errors import DataError, count_of, first_of
from segacc.plugins.datasets.class_lists import other_labels
from segacc.plugins.datasets.files import (
    LABEL_SUFFIXES,
    LABEL_WORDS,
    SPLITS,
    rows,
    words,
)
from segacc.plugins.datasets.folder_layout import SECONDARY, SPLIT, enough, suffixes
from segacc.plugins.datasets.places import Place, Tree, parts_of, places_of, split_in

LIST_FOLDERS = ("", "splits", "split", "lists", "imagesets", "segmentation")
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
LAYOUT_KEYS = (
    *("images", "labels", "image_suffix", "label_suffix", "annotator"),
    *SPLITS,
)
"""Options of `folder` that describe the layout."""

Reading = dict[str, str]
"""Options of `folder`."""


class NoLayoutError(DataError):
    """A folder has no images with labels that are images."""


def find_layout(
    root: Path, tree: Tree, typed: Mapping[str, Any], given: str, where: str
) -> Reading:
    """Return the options of `folder` with which it reads the folder.

    Args:
        root: the folder.
        tree: its files.
        typed: options that the user has given; only layouts with these values are considered.
        given: the folder as the user wrote it.
        where: start of error messages.

    Raises:
        NoLayoutError: no layout fits. DataError: several do.
    """
    asked = {key: str(value) for key, value in typed.items() if key in LAYOUT_KEYS}
    if not asked and (wrong := _folder_for_each(tree)):
        if listed := _lists_of_pairs(root, tree):
            return listed
        raise DataError(f"{where}: {given} {wrong}")
    ends = (*LABEL_SUFFIXES, *JPEG_SUFFIXES) if reads_jpeg(typed) else LABEL_SUFFIXES
    found = [one for one in readings(root, tree, ends) if _agrees(one, asked)]
    if len(found) > 1:
        raise DataError(_several(found, typed, given, where))
    if found or asked:
        return found[0] if found else asked
    raise NoLayoutError(_nothing(root, tree, given, where))


def reads_jpeg(typed: Mapping[str, Any]) -> bool:
    """Return whether labels may be JPEG files, which are read with a threshold."""
    return str(typed.get("binary")).lower() == "true"


def _agrees(reading: Reading, asked: Mapping[str, str]) -> bool:
    return all(reading.get(key, "") == value for key, value in asked.items())


def readings(root: Path, tree: Tree, ends: Sequence[str] = LABEL_SUFFIXES) -> list[Reading]:
    """Return all layouts that fit, without those that another one is preferred to."""
    found = _matches(places_of(tree, ends))
    if len(found) != 1 and all(one.images is one.labels for one in found):
        apart = [one for place in places_of(tree, ends, apart=True) for one in _siblings(place)]
        found = apart or found
    for preferred in (
        lambda one: SPLIT in one.images.template,
        lambda one: not one.is_secondary,
        lambda one: one.images.kind == "image" or one.images is one.labels,
    ):
        found = list(filter(preferred, found)) or found
    rowed = _lists_of_pairs(root, tree)
    if rowed and not any(SPLIT in one.images.template for one in found):
        return [rowed]
    told = [one.options | _lists_of_names(root, tree, one.images) for one in found]
    return [one for k, one in enumerate(told) if one not in told[:k]]


# ------------------------------------------------------------------------------ images with labels
@dataclass(frozen=True)
class Match:
    """Images and labels whose names correspond."""

    images: Place
    labels: Place
    image_suffix: str = ""
    label_suffix: str = ""
    annotator: str = ""

    @property
    def is_secondary(self) -> bool:
        """Return whether the labels seem to be made for viewing, or to number objects."""
        told = words(self.label_suffix) | words(PurePosixPath(self.labels.template).name)
        return self.images is not self.labels and bool(told & SECONDARY)

    @property
    def options(self) -> Reading:
        """Return the options of `folder`."""
        ends = self.image_suffix.lstrip("/"), self.label_suffix.lstrip("/")
        own = dict(zip(("image_suffix", "label_suffix"), ends, strict=True))
        own |= {"annotator": self.annotator}
        told = {"images": self.images.option, "labels": self.labels.option}
        return told | {key: value for key, value in own.items() if value}


def _matches(places: Sequence[Place]) -> list[Match]:
    found: list[Match] = []
    for images in (place for place in places if place.kind != "label"):
        found += _siblings(images)
        for labels in (place for place in places if place.kind == "label"):
            if bool(labels.direct) or not images.direct:
                found += [Match(images, labels, *ends) for ends in _ends(images, labels)]
            else:
                found += _by_annotator(images, labels)
    return found


def _ends(images: Place, labels: Place) -> list[tuple[str, str]]:
    """Return the suffixes under which the images of the splits that both have are labelled."""
    common = sorted(images.stems.keys() & labels.stems.keys())
    ours = [stem for split in common for stem in images.stems[split]]
    theirs = [stem for split in common for stem in _labels(labels, labels.stems[split])]
    return suffixes(ours, theirs)


def _labels(place: Place, stems: Mapping[str, Sequence[str]]) -> list[str]:
    return [stem for stem, ends in stems.items() if not set(place.ends).isdisjoint(ends)]


def _by_annotator(images: Place, labels: Place) -> Iterator[Match]:
    """Read each subfolder of the labels as those of one annotator."""
    common = sorted(images.direct.keys() & labels.nested.keys())
    ours = [stem for split in common for stem in images.direct[split]]
    theirs = [stem for split in common for stem in _labels(labels, labels.nested[split])]
    for name in sorted({stem.partition("/")[0] for stem in theirs}):
        own = [stem.partition("/")[2] for stem in theirs if stem.startswith(f"{name}/")]
        yield from (Match(images, labels, *ends, name) for ends in suffixes(ours, own))


def _siblings(place: Place) -> list[Match]:
    """Read images and labels in one folder: NAME.jpg with NAME.png, or with NAME_mask.png."""
    stems = {stem: ends for some in place.stems.values() for stem, ends in some.items()}
    pairs = [stem for stem, ends in stems.items() if len(ends) > 1 and _labels(place, {stem: ends})]
    if enough(len(pairs), len(stems), len(stems)):
        return [Match(place, place)]
    labels = [stem for stem in _labels(place, stems) if _last(stem, LABEL_WORDS | {"l"})]
    if not labels:
        return []
    others = set(labels) | {stem for stem in stems if _last(stem, SECONDARY)}
    images = [stem for stem in stems if stem not in others]
    return [Match(place, place, *ends) for ends in suffixes(images, labels) if ends[1]]


def _last(stem: str, known: frozenset[str]) -> frozenset[str]:
    """Return which of the known words the last part of a file name has."""
    return words(re.split(r"[_\-. /]", stem)[-1]) & known


# ------------------------------------------------------------------------------------------- lists
def _list_files(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield the split of each list file, or "", and its path."""
    for folder, files in tree.items():
        if PurePosixPath(folder).name.lower() in LIST_FOLDERS:
            for file in files:
                stem, end = parts_of(file.lower())
                if end in LIST_SUFFIXES:
                    yield split_in(stem)[1], (PurePosixPath(folder) / file).as_posix()


def _lists_of_pairs(root: Path, tree: Tree) -> Reading:
    """Return the lists whose lines are paths of an image and its label."""
    found = [
        (split, path)
        for split, path in _list_files(tree)
        if len(row := _first_row(root, path, root)) == 2 and all((root / p).is_file() for p in row)
    ]
    told = {split: path for split, path in reversed(found) if split}
    if "train" in told:
        return {split: told[split] for split in SPLITS if split in told}
    return {"train": found[0][1]} if len(found) == 1 else {}


def _lists_of_names(root: Path, tree: Tree, images: Place) -> Reading:
    """Return the lists that divide images without split folders."""
    if SPLIT in images.template:
        return {}
    told: Reading = {}
    for split, path in _list_files(tree):
        row = _first_row(root, path, root / images.template)
        stem = PurePosixPath(row[0]).stem if len(row) == 1 else ""
        if split and split not in told and {stem, *row} & images.direct.get("", {}).keys():
            told[split] = path
    return {split: told[split] for split in SPLITS if split in told} if "train" in told else {}


def _first_row(root: Path, path: str, images: Path) -> tuple[str, ...]:
    try:
        return rows(root / path, root, images)[0]
    except DataError:
        return ()


# ---------------------------------------------------------------------------------------- refusals
def _several(found: Sequence[Reading], typed: Mapping[str, Any], given: str, where: str) -> str:
    """Return the error for several layouts, with the options that choose one."""
    keys = [key for key in LAYOUT_KEYS if len({one.get(key, "") for one in found}) > 1]
    old = [f"{key}={value}" for key, value in typed.items()]
    options = [",".join([*old, *(f"{k}={one.get(k, '')}" for k in keys)]) for one in found]
    told = " or ".join(f"`--dataset {shlex.quote(f'{given}:{one}')}`" for one in options[:4])
    return f"{where}: {given} can be read in {len(found)} ways. Choose with {told}."


def _nothing(root: Path, tree: Tree, given: str, where: str) -> str:
    """Return the error for a folder without a known layout."""
    counts = [
        f"{folder}/ with {count_of(len(names), 'file')} ({first_of(sorted(_kinds(names)), 4)})"
        for folder, names in sorted(tree.items())
        if names
    ]
    if any(one.endswith((".parquet", ".arrow")) for names in tree.values() for one in names):
        typed = shlex.quote(f"hub:path={given}")
        return f"{where}: {given} contains tables; read them with `--dataset {typed}`."
    convert = (
        "onvert them to one PNG per image, of the size of the image, whose pixel values are class "
        "ids, and put these into labels/ beside images/."
    )
    if other := other_labels(root, tree):
        return f"{where}: the labels in {given} are {other}, which are not read. C{convert}"
    if lossy := _lossy_labels(tree):
        binary = shlex.quote(f"{given}:binary=true")
        return (
            f"{where}: the labels in {given} are images of a format that may be lossy ({lossy}), "
            "which alters class ids. If they are JPEG masks of 0 and 255, write `--dataset "
            f"{binary}`, which reads values from 128 on as the foreground; else c{convert}"
        )
    return (
        f"{where}: no images with labels of corresponding names were found in {given}. It contains "
        f"{first_of(counts, 6) if counts else 'no files'}. Expected are for example "
        "images/train/NAME.jpg and labels/train/NAME.png, or NAME.jpg and NAME_mask.png in one "
        "folder, or train.csv with lines of `IMAGE,LABEL`; docs/data.md lists the layouts."
    )


def _folder_for_each(tree: Tree) -> str:
    """Describe folders of one image and its masks, as in NAME/images/ and NAME/masks/."""
    inside: dict[str, dict[str, str]] = {}
    for folder in tree:
        above, _, name = folder.rpartition("/")
        if above and (kind := Place(name).kind) and not split_in(PurePosixPath(above).name)[1]:
            inside.setdefault(above, {})[kind] = folder
    both = [one for one in inside.values() if len(one) == 2]
    if len(both) < 2 or any(len(tree[one["image"]]) != 1 for one in both):
        return ""
    folder, labels = both[0]["image"], both[0]["label"]
    image, count = f"{folder}/{tree[folder][0]}", count_of(len(tree[labels]), "file")
    told = f"has a folder for each image, such as {image} with {count} in {labels}/, which "
    if max(len(tree[one["label"]]) for one in both) > 1:
        return (
            f"{told}is not read. Merge the masks of each image into one PNG of its size, whose "
            "pixel values are class ids, e.g. with numpy.maximum.reduce, and write it as "
            "labels/NAME.png beside images/NAME.png."
        )
    return (
        f"{told}is read with lists only. Write train.csv with lines of `IMAGE,LABEL`, such as "
        f"`{image},{labels}/{tree[labels][0]}`."
    )


def _kinds(names: Sequence[str]) -> set[str]:
    return {parts_of(name)[1].lower() or "no extension" for name in names}


def _lossy_labels(tree: Tree) -> str:
    """Name the folder, or the ending of the names, of labels in lossy formats."""
    labels = {}
    for place in places_of(tree):
        stems = {stem: ends for some in place.stems.values() for stem, ends in some.items()}
        named = {stem: ends for stem, ends in stems.items() if _last(stem, LABEL_WORDS)}
        if place.kind == "label":
            labels[place.template] = _labels(place, stems)
        elif named:
            labels[next(f"{stem}{ends[0]}" for stem, ends in named.items())] = _labels(place, named)
    return next(iter(labels)) if labels and not any(labels.values()) else ""
