"""`voc`: Pascal VOC, 20 kinds of objects and their background (Everingham et al., IJCV 2010)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segacc.data.samples import IMAGE_SUFFIXES
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap, edit
from segacc.plugins.datasets.files import (
    LABEL_SUFFIXES,
    bit_color,
    by_stem,
    expect_folders,
    expect_labels,
    listed,
    listing,
    open_root,
    with_labels,
)

WHERE = "--dataset voc"
NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
"""In the order of the ids, as the development kit of VOC2012 spells them."""
LISTS = {"train": "train.txt", "validation": "val.txt", "trainval": "trainval.txt"}
AUGMENTED_LISTS = ("trainaug.txt", "train_aug.txt")


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """Options of voc."""

    root: Path
    """The folder VOC2012, or one that holds VOC2012/ or VOCdevkit/VOC2012/. It has JPEGImages/,
    SegmentationClass/ and ImageSets/Segmentation/."""
    augmented: bool = False
    """True: the split train is that of trainaug.txt, whose further labels are in
    SegmentationClassAug/ (10582 images with those of SBD)."""
    map: Path | dict[str, Any] | None = None
    """Edits of the label map: a YAML file or mapping, see docs/data.md."""


def build_voc(options: VocOptions) -> DataSplits:
    """Read the images that the lists name; 255, the border of an object, is ignored.

    Raises:
        DataError: no such folders, no list, or an image that a list names is not there.
    """
    given = open_root(options.root, WHERE)
    places = [given, given / "VOC2012", given / "VOCdevkit" / "VOC2012"]
    root = next((place for place in places if (place / "JPEGImages").is_dir()), given)
    expect_folders(WHERE, root, ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))
    images = by_stem(root / "JPEGImages", IMAGE_SUFFIXES)
    splits = {}
    for split, path in _lists(root / "ImageSets" / "Segmentation", options.augmented).items():
        chosen = listed(path, images, root / "JPEGImages")
        if options.augmented and split == "train":
            splits[split] = _augmented(root, chosen)
        else:
            splits[split] = with_labels(chosen, root / "SegmentationClass")
        expect_labels(WHERE, splits[split])
    palette = tuple(map(bit_color, range(len(NAMES))))
    labels = edit(LabelMap.plain(NAMES, palette=palette), options.map, f"{WHERE}: map")
    return DataSplits(splits, labels, crop_size=(512, 512))


def _lists(folder: Path, augmented: bool) -> dict[str, Path]:
    lists = {split: folder / name for split, name in LISTS.items() if (folder / name).is_file()}
    if augmented:
        larger = [folder / name for name in AUGMENTED_LISTS if (folder / name).is_file()]
        if not larger:
            raise DataError(
                f"{WHERE}: augmented=true needs {folder / AUGMENTED_LISTS[0]}, the names of the "
                f"larger training split; the folder holds {listing(folder)}."
            )
        lists["train"] = larger[0]
    if not lists:
        raise DataError(
            f"{WHERE}: {folder} must hold {', '.join(LISTS.values())}; it holds {listing(folder)}."
        )
    return lists


def _augmented(root: Path, images: dict[str, Path]) -> list[Sample]:
    """Give each image VOC's own label, which has borders, and that of SBD where VOC has none."""
    expect_folders(WHERE, root, ("SegmentationClass", "SegmentationClassAug"))
    own = by_stem(root / "SegmentationClass", LABEL_SUFFIXES)
    samples = with_labels(images, root / "SegmentationClassAug")
    return [replace(one, label=own[one.id]) if one.id in own else one for one in samples]


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register voc."""
    return [
        Dataset(
            name="voc",
            summary="Pascal VOC's 21 classes, from the folder VOC2012; augmented=true adds SBD's",
            options=VocOptions,
            build=build_voc,
        )
    ]
