"""Lays out small data sets for `folder`, and builds them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from check_tools import chosen
from data_tools import encode
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.errors import SegaccError
from segacc.hookspecs import DataSplits


def build(root: Path | str, **values: Any) -> DataSplits:
    """Build `folder` from what a user types."""
    return build_splits(chosen({"name": "folder", "root": str(root), **values}))


def refusal(root: Path | str, **values: Any) -> str:
    """Return what is said when `folder` cannot be built."""
    with pytest.raises(SegaccError) as error:
        build(root, **values)
    return str(error.value)


def fill(
    root: Path,
    *,
    split: str = "train",
    stems: tuple[str, ...] = ("a", "b"),
    labels: str = "annotations",
    names: str = "sky\nroad\n",
) -> Path:
    """Write a small data set of 4x6 pictures."""
    for folder in (root / "images" / split, root / labels / split):
        folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        image, label = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint8)
        (root / "images" / split / f"{stem}.jpg").write_bytes(encode(image, "JPEG"))
        (root / labels / split / f"{stem}.png").write_bytes(encode(label))
    if names:
        (root / "classes.txt").write_text(names)
    return root


def save(path: Path, pixels: Any) -> None:
    """Write one picture of uint8 pixels, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def read_labels(splits: DataSplits, split: str = "train") -> list[np.ndarray[Any, Any]]:
    """Decode the labels of a split."""
    return [read_sample(one, splits.labels)[1].numpy() for one in splits.splits[split]]
