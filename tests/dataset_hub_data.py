"""What the tests of `hub` build, and the data sets that they write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from check_tools import chosen
from data_tools import encode
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.errors import DataError, SegaccError
from segacc.hookspecs import DataSplits, Sample

NAMES = ("sky", "road", "tree")


def build(**values: Any) -> DataSplits:
    return build_splits(chosen({"name": "hub", **values}))


def refusal(kind: type[SegaccError] = DataError, **values: Any) -> str:
    """Return what is said of a data set, or of the first of its splits that cannot be read."""
    with pytest.raises(SegaccError) as error:
        for one in build(**values).unusable.values():
            raise one
    assert type(error.value) is kind, error.value
    return str(error.value)


def picture(number: int, *, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng((1, number)).integers(0, 256, (*size, 3), dtype=np.uint8)


def ids_of(number: int, *, size: tuple[int, int] = (6, 8), most: int = 3) -> np.ndarray:
    return np.random.default_rng((2, number)).integers(0, most, size).astype(np.uint16)


def embedded(content: bytes, path: str | None = None) -> dict[str, Any]:
    return {"bytes": content, "path": path}


def label_png(number: int) -> bytes:
    return encode(ids_of(number).astype(np.uint8))


def pairs(count: int, first: int = 0, **columns: str) -> dict[str, list[Any]]:
    """Make encoded images and labels under the names of columns."""
    names = {"image": "image", "label": "label", **columns}
    numbers = range(first, first + count)
    return {
        names["image"]: [embedded(encode(picture(number))) for number in numbers],
        names["label"]: [embedded(label_png(number)) for number in numbers],
    }


def table(values: Mapping[str, Sequence[Any]], **features: Any) -> datasets.Dataset:
    """Make a data set; what is not said otherwise is an Image."""
    return datasets.Dataset.from_dict(
        dict(values),
        features=datasets.Features({name: features.get(name, datasets.Image()) for name in values}),
    )


def parquet(path: Path, values: Mapping[str, Sequence[Any]], **features: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table(values, **features).to_parquet(path)
    return path


def check(samples: Sequence[Sample], labels: Any, numbers: Sequence[int]) -> None:
    """Compare samples with what was drawn for these numbers."""
    assert len(samples) == len(numbers)
    for sample, number in zip(samples, numbers, strict=True):
        image, label = read_sample(sample, labels)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), picture(number))
        np.testing.assert_array_equal(label.numpy(), ids_of(number))
