"""Makes caches of samples, and compares what is read from them."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from data_tools import random_sample
from segacc.data.batches import EvalData, Source
from segacc.data.cache import SHARED, CachedSource, cached
from segacc.errors import OptionError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

LABELS = LabelMap.plain(("sky", "road", "tree"))


class Refusing(list[Sample]):
    """Samples of which the second one is an error."""

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, or some for a slice."""
        if index == 1:
            raise OptionError("the sample is not given")
        return super().__getitem__(index)


def kept(source: Source, given: object, accelerator: Accelerator | None = None) -> CachedSource:
    """Return a split as it is read from a cache that is built or found."""
    scored = EvalData(Source(source.samples[:1], source.labels, source.num_channels))
    accelerator = accelerator or Accelerator(cpu=True)
    train, _ = cached(source, scored, str(given), accelerator, "--cache")
    assert isinstance(train, CachedSource)
    return train


def opened(content: Any) -> Image.Image:
    return Image.open(io.BytesIO(content))


def on_disk(folder: Path, count: int = 5) -> list[Sample]:
    """Write samples of several sizes, as JPEG and PNG; the labels of some are palette PNGs."""
    samples = []
    for number in range(count):
        drawn = random_sample(number, size=(20 + number, 31))
        image = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        label = folder / f"{number}_label.png"
        opened(drawn.image).save(image)
        ids = opened(drawn.label)
        if number % 2:
            ids.putpalette([40, 80, 120] * 256)
        ids.save(label)
        samples.append(Sample(image, label, f"s{number}"))
    return samples


def assert_same(one: Source, other: Source) -> None:
    """Assert that two splits read the same, bit by bit."""
    assert len(one) == len(other)
    for index in range(len(one)):
        for mine, yours in zip(one.read(index), other.read(index), strict=True):
            assert mine.dtype == yours.dtype == torch.uint8
            assert torch.equal(mine, yours) and mine.is_contiguous() == yours.is_contiguous()


def whole(cache: Path) -> list[Path]:
    """List the folders in a cache that count."""
    return [path for path in cache.iterdir() if not path.name.startswith(".")]


def rooms() -> set[Path]:
    """List the caches in memory of this user."""
    return {path for path in SHARED.glob(f"segacc-{os.getuid()}-*") if path.is_dir()}
