"""Lays out small copies of the data sets everybody knows, and reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from check_tools import chosen
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.errors import DataError
from segacc.hookspecs import DataSplits
from segacc.plugins.datasets import ade20k, camvid, cityscapes, coco_stuff, voc
from segacc.settings.options import decode

MODULES = (ade20k, camvid, cityscapes, coco_stuff, voc)
RECORDS = {record.name: record for module in MODULES for record in module.segacc_datasets()}
SIZE = (24, 32)


def options(name: str, **values: Any) -> Any:
    return decode(RECORDS[name].options, values, f"--dataset {name}")


def build(name: str, **values: Any) -> DataSplits:
    return build_splits(chosen({"name": name, **values}))


def refusal(name: str, **values: Any) -> str:
    """Return what is said of a data set, or of the first of its splits that cannot be read."""
    with pytest.raises(DataError) as error:
        for one in build(name, **values).unusable.values():
            raise one
    return str(error.value)


def sizes(data: DataSplits) -> dict[str, int]:
    return {split: len(samples) for split, samples in data.splits.items()}


def ids(data: DataSplits, split: str) -> list[str]:
    return [sample.id for sample in data.splits[split]]


def save(path: Path, pixels: Any, palette: Sequence[int] = ()) -> None:
    """Write an array, with the folders above it; its indices into a palette where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def photo(number: int) -> Any:
    """Draw (24, 32, 3): a slope of light with grain, another for each number."""
    random = np.random.default_rng(number)
    light = np.linspace(40, 200, SIZE[1])[None, :, None] * random.uniform(0.5, 1.2, 3)
    return np.clip(light + random.normal(0, 8, (*SIZE, 3)), 0, 255).astype(np.uint8)


def scatter(values: Sequence[int], number: int = 0) -> Any:
    """Draw a label (24, 32) uint8 that has each of the values at several pixels."""
    cells = np.resize(np.asarray(values, np.uint8), SIZE[0] * SIZE[1])
    return np.random.default_rng(number).permutation(cells).reshape(SIZE)


def mapped(raw: Any, classes: Mapping[int, int]) -> Any:
    """Map raw ids to classes, one id after the other; those that are not named become 255."""
    label = np.full(raw.shape, 255, np.uint8)
    for value, k in classes.items():
        label[raw == value] = k
    return label


def read(data: DataSplits, split: str, name: str) -> tuple[Any, Any]:
    """Decode the sample of that id: image (H, W, 3) and label (H, W), uint8."""
    sample = next(one for one in data.splits[split] if one.id == name)
    image, label = read_sample(sample, data.labels)
    return image.permute(1, 2, 0).numpy(), label.numpy()
