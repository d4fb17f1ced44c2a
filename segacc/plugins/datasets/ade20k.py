"""`ade20k`: SceneParse150, the 150 classes of ADE20K (Zhou et al., CVPR 2017)."""

from dataclasses import dataclass
from pathlib import Path

from segacc.hookspecs import Dataset, DataSplits, hookimpl
from segacc.labels import LabelMap
from segacc.plugins.datasets.files import (
    expect_folders,
    first_folder,
    open_root,
    split_pairs,
    table,
)

WHERE = "--dataset ade20k"
SPLITS = {"train": ("training",), "validation": ("validation",)}


@dataclass(frozen=True, kw_only=True)
class Ade20kOptions:
    """Options of ade20k."""

    root: Path
    """The folder ADEChallengeData2016 or its parent: it contains images/ and annotations/, each
    with training/ and validation/."""
    full_names: bool = False
    """True: use all names of a class, e.g. `building, edifice`; by default only the first."""


def build_ade20k(options: Ade20kOptions) -> DataSplits:
    """Pair images/ with annotations/: raw id 0 is ignored, raw id i is class i - 1.

    Raises:
        DataError: the folder is not the challenge's, or two labels have the same stem.
    """
    given = open_root(options.root, WHERE)
    root = first_folder(given, ("adechallengedata2016",)) or given
    expect_folders(WHERE, root, ("images", "annotations"))
    splits, unusable = split_pairs(WHERE, root / "images", root / "annotations", SPLITS)
    facts = table("ade20k")
    names = facts["names"] if options.full_names else [n.split(",")[0] for n in facts["names"]]
    labels = LabelMap.plain(names, reduce_labels=True, palette=facts["palette"])
    return DataSplits(splits, labels, crop_size=(512, 512), unusable=unusable)


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register ade20k."""
    return [
        Dataset(
            name="ade20k",
            summary="SceneParse150, ADE20K's 150 classes, from the folder ADEChallengeData2016",
            options=Ade20kOptions,
            build=build_ade20k,
        )
    ]
