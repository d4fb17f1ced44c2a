"""Fixtures of the tests of `hub`; a test module asks for them by `pytest_plugins`."""

from pathlib import Path

import datasets
import pytest


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what `datasets` writes out of the home folder."""
    place = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place)
    return place


@pytest.fixture
def hub_names(tmp_path: Path) -> str:
    """Write a file of three class names."""
    path = tmp_path / "names.txt"
    path.write_text("sky\nroad\ntree\n")
    return str(path)
