"""`voc`: Pascal VOC, 20 object classes and background (Everingham et al., IJCV 2010)."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from segacc.data.samples import IMAGE_SUFFIXES
from segacc.data.splits import read_each
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap
from segacc.labels.label_map import bit_color
from segacc.plugins.datasets.files import (
    LABEL_SUFFIXES,
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
"""In the order of ids, spelled as in the development kit of VOC2012."""
LISTS = {"train": "train.txt", "validation": "val.txt", "trainval": "trainval.txt"}
AUGMENTED_LISTS = ("trainaug.txt", "train_aug.txt")


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """Options of voc."""

    root: Path
    """The folder VOC2012, or the parent of VOC2012/ or VOCdevkit/VOC2012/. It contains JPEGImages/,
    SegmentationClass/ and ImageSets/Segmentation/."""
    augmented: bool = False
    """True: use trainaug.txt for the split train, with the additional labels in
    SegmentationClassAug/ (10582 images with those of SBD)."""


def build_voc(options: VocOptions) -> DataSplits:
    """Read the images in the lists; 255, the border of an object, is ignored.

    Raises:
        DataError: missing folders or lists, or no list whose images are there, with labels.
    """
    given = open_root(options.root, WHERE)
    candidates = [given, given / "VOC2012", given / "VOCdevkit" / "VOC2012"]
    root = next((one for one in candidates if (one / "JPEGImages").is_dir()), given)
    expect_folders(WHERE, root, ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))
    images = by_stem(root / "JPEGImages", IMAGE_SUFFIXES)
    lists = _lists(root / "ImageSets" / "Segmentation", options.augmented)

    def read(split: str) -> list[Sample]:
        chosen = listed(lists[split], images, root / "JPEGImages")
        if options.augmented and split == "train":
            samples = _augmented(root, chosen)
        else:
            samples = with_labels(chosen, root / "SegmentationClass")
        expect_labels(WHERE, samples)
        return samples

    splits, unusable = read_each({split: partial(read, split) for split in lists})
    palette = tuple(map(bit_color, range(len(NAMES))))
    labels = LabelMap.plain(NAMES, palette=palette)
    return DataSplits(splits, labels, crop_size=(512, 512), unusable=unusable)


def _lists(folder: Path, augmented: bool) -> dict[str, Path]:
    lists = {split: folder / name for split, name in LISTS.items() if (folder / name).is_file()}
    if augmented:
        larger = [folder / name for name in AUGMENTED_LISTS if (folder / name).is_file()]
        if not larger:
            raise DataError(
                f"{WHERE}: augmented=true needs {folder / AUGMENTED_LISTS[0]}, the list of the "
                f"larger training split; the folder contains {listing(folder)}."
            )
        lists["train"] = larger[0]
    if not lists:
        raise DataError(
            f"{WHERE}: {folder} must contain {', '.join(LISTS.values())}; it contains "
            f"{listing(folder)}."
        )
    return lists


def _augmented(root: Path, images: dict[str, Path]) -> list[Sample]:
    """Use VOC's own labels, which have borders, or SBD's labels for images without them."""
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
