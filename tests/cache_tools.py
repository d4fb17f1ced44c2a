"""Makes caches of samples, and compares what is read from them."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator

from segacc.cache import SHARED, CachedSource, cached
from segacc.data import Source
from segacc.eval_data import EvalData
from segacc.labels import LabelMap

LABELS = LabelMap.plain(("sky", "road", "tree"))


def kept(source: Source, given: object, accelerator: Accelerator | None = None) -> CachedSource:
    """Return a split as it is read from a cache that is built or found."""
    scored = EvalData(Source(source.samples[:1], source.labels, source.num_channels))
    accelerator = accelerator or Accelerator(cpu=True)
    train, _ = cached(source, scored, str(given), accelerator, "--cache")
    assert isinstance(train, CachedSource)
    return train


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
