"""`cityscapes`: street scenes of 50 cities, 19 classes (Cordts et al., CVPR 2016)."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from segacc.contracts import IGNORE
from segacc.data.splits import read_each
from segacc.errors import DataError
from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap
from segacc.plugins.datasets.files import (
    expect_folders,
    listing,
    open_root,
    pairs,
    subfolders,
    table,
)

WHERE = "--dataset cityscapes"
FINE = {"train": ("train", "gtFine"), "validation": ("val", "gtFine")}
"""By split: the folder of its images, and of its labels. The labels of gtFine/test are dummies, all
ignored: the true ones are only on the benchmark's server."""
COARSE = {
    "train": ("train", "gtCoarse"),
    "train_extra": ("train_extra", "gtCoarse"),
    "validation": ("val", "gtFine"),
}


@dataclass(frozen=True, kw_only=True)
class CityscapesOptions:
    """Options of cityscapes."""

    root: Path
    """Contains leftImg8bit/ and gtFine/, each with train/CITY/ and val/CITY/; the test split is
    excluded, because its labels are not public."""
    labels: Literal["labelIds", "labelTrainIds"] = "labelIds"
    """Label files to read: the downloaded ones, or those made by csCreateTrainIdLabelImgs; both
    give the same classes."""
    coarse: bool = False
    """True: train on gtCoarse, with its 19998 additional images as split train_extra; validation
    still uses gtFine."""


def build_cityscapes(options: CityscapesOptions) -> DataSplits:
    """Pair CITY/X_leftImg8bit.png with CITY/X_gtFine_labelIds.png; the ids are X.

    Raises:
        DataError: missing folders, or no split has labels for all its cities.
    """
    root = open_root(options.root, WHERE)
    layout = COARSE if options.coarse else FINE
    needed = sorted({kind for _, kind in layout.values()})
    expect_folders(WHERE, root, ("leftImg8bit", *needed))
    readers = {}
    for split, (folder, kind) in layout.items():
        images = root / "leftImg8bit" / folder
        if images.is_dir():
            both = images, root / kind / folder
            readers[split] = partial(_cities, *both, f"_{kind}_{options.labels}")
    if not readers:
        folders = " or ".join(f"{folder}/" for folder, _ in layout.values())
        images = root / "leftImg8bit"
        raise DataError(f"{WHERE}: {images} must contain {folders}; it contains {listing(images)}.")
    splits, unusable = read_each(readers)
    labels = _labels(options.labels)
    return DataSplits(splits, labels, crop_size=(512, 1024), unusable=unusable)


def _cities(images: Path, labels: Path, ending: str) -> list[Sample]:
    samples: list[Sample] = []
    for city in subfolders(images):
        if not (labels / city.name).is_dir():
            raise DataError(f"{WHERE}: {city} has no label folder in {labels}.")
        both = city, labels / city.name
        samples += pairs(WHERE, *both, image_ending="_leftImg8bit", label_endings=(ending,))
    if not samples:
        raise DataError(
            f"{WHERE}: {images} must contain a folder for each city; it contains {listing(images)}."
        )
    return samples


def _labels(kind: str) -> LabelMap:
    """Map the 34 ids of labelIds, or the 19 of labelTrainIds, to the 19 classes."""
    rows = table("cityscapes")["labels"]
    kept = [row for row in rows if row[2] != IGNORE]  # in the order of their trainIds
    names, palette = [row[1] for row in kept], [row[3] for row in kept]
    train_ids = LabelMap.plain(names, palette=palette)
    if kind == "labelTrainIds":
        return train_ids
    return replace(train_ids, classes={**{raw: k for raw, _, k, _ in rows}, IGNORE: IGNORE})


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register cityscapes."""
    return [
        Dataset(
            name="cityscapes",
            summary="Cityscapes' 19 classes, from leftImg8bit/ with gtFine/ or gtCoarse/",
            options=CityscapesOptions,
            build=build_cityscapes,
        )
    ]
