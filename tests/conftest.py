"""What several test files need: the data beside the repository, and the example plugin."""

import gc
import importlib
from pathlib import Path
from types import ModuleType

import pytest

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared" / "data"

gc.disable()  # until all modules are imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first: the processes that share the files end together."""
    long = {one.path for one in items if one.get_closest_marker("slow")}
    items.sort(key=lambda one: one.path not in long)


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but not among the tests and what they imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that lies beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: the data that lies beside the repository")
    return SHARED


@pytest.fixture
def example_plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of tests/example_plugin, imported from its source."""
    monkeypatch.syspath_prepend(TESTS / "example_plugin")
    return importlib.import_module("segacc_example")
