"""Fixtures of the caches' tests; a test module asks for them by `pytest_plugins`."""

from pathlib import Path

import pytest

from cache_tools import LABELS, on_disk
from data_tools import random_sample
from segacc.data.batches import Source


@pytest.fixture
def split(tmp_path: Path) -> Source:
    """Samples on disk, and two that are embedded."""
    folder = tmp_path / "data"
    folder.mkdir()
    return Source([*on_disk(folder), random_sample(7), random_sample(8, size=(9, 50))], LABELS)
