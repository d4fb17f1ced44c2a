"""`coco_stuff`: COCO 2017 with 80 thing and 91 stuff classes (Caesar et al., CVPR 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segacc.contracts import IGNORE
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap
from segacc.labels.label_map import bit_color
from segacc.plugins.datasets.files import (
    first_folder,
    listing,
    open_root,
    split_pairs,
    table,
)

WHERE = "--dataset coco_stuff"
SPLITS = {"train": ("train2017",), "validation": ("val2017",)}
IMAGE_PLACES = ("images", ".")
LABEL_PLACES = ("annotations", "stuffthingmaps", "annotations/stuffthingmaps")
CONVERTED = "_labelTrainIds"


@dataclass(frozen=True, kw_only=True)
class CocoStuffOptions:
    """Options of coco_stuff."""

    root: Path
    """Contains images/ and annotations/ (or stuffthingmaps/), each with train2017/ and val2017/.
    The labels are those of stuffthingmaps_trainval2017.zip, or X_labelTrainIds.png if only these
    exist."""


def build_coco_stuff(options: CocoStuffOptions) -> DataSplits:
    """Pair the images with the stuffthingmaps: a pixel is COCO's id - 1, 255 is unlabelled.

    Raises:
        DataError: missing folders, a split without labels, or splits with different kinds of
            labels.
    """
    root = open_root(options.root, WHERE)
    images, labels = _holder(root, IMAGE_PLACES), _holder(root, LABEL_PLACES)
    if images is None or labels is None:
        raise DataError(
            f"{WHERE}: {root} must contain images/train2017/ or images/val2017/, and "
            "annotations/train2017/ or annotations/val2017/ (or stuffthingmaps/ in place of "
            f"annotations/); it contains {listing(root)}."
        )
    ends = "", CONVERTED
    splits, unusable = split_pairs(WHERE, images, labels, SPLITS, label_endings=ends)
    labels_map = _labels(converted=_converted(splits))
    return DataSplits(splits, labels_map, crop_size=(512, 512), unusable=unusable)


def _holder(root: Path, candidates: tuple[str, ...]) -> Path | None:
    called = tuple(name for names in SPLITS.values() for name in names)
    folders = [root / one for one in candidates if (root / one).is_dir()]
    return next((folder for folder in folders if first_folder(folder, called)), None)


def _converted(splits: Mapping[str, list[Sample]]) -> bool:
    """True if the labels contain 0..170, by their file names, instead of COCO's ids - 1."""
    kinds = {split: CONVERTED in Path(str(found[0].label)).stem for split, found in splits.items()}
    if len(set(kinds.values())) > 1:
        told = " and ".join(str(splits[split][0].label) for split in kinds)
        raise DataError(
            f"{WHERE}: the splits have two kinds of labels: {told}. Use the stuffthingmaps for "
            "both, or convert both."
        )
    return next(iter(kinds.values()))


def _labels(*, converted: bool) -> LabelMap:
    """Number the 171 used ids from 0, in order.

    The data set has no palette; Pascal VOC's colours of COCO's ids are used, because the common
    list (mmsegmentation's) has the same colour for several classes.
    """
    facts = table("coco_stuff")
    kept = {i: name for i, name in enumerate(facts["names"], 1) if i not in facts["removed"]}
    palette = tuple(map(bit_color, kept))
    if converted:
        return LabelMap.plain(tuple(kept.values()), palette=palette)
    classes = {i - 1: k for k, i in enumerate(kept)}
    return LabelMap(tuple(kept.values()), {**classes, IGNORE: IGNORE}, palette)


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register coco_stuff."""
    return [
        Dataset(
            name="coco_stuff",
            summary="COCO-Stuff's 171 classes on COCO 2017, from images/ and stuffthingmaps/",
            options=CocoStuffOptions,
            build=build_coco_stuff,
        )
    ]
