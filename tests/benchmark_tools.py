"""Imports a file of benchmarks/, which is no package."""

import importlib.util
import sys
from types import ModuleType

from cli_tools import ROOT

FOLDER = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    """Import a benchmark by the stem of its file; the folder does not stay on the path."""
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(FOLDER))
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module
