"""Imports and runs the files of benchmarks/, which is no package."""

import importlib.util
import sys
from types import ModuleType

from cli_tools import ROOT, Done, warm_segacc

FOLDER = ROOT / "benchmarks"
SCRIPT = """
import runpy, sys
sys.path.insert(0, "benchmarks")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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


def run_benchmark(name: str, *arguments: object) -> Done:
    """Run a benchmark by the stem of its file, in a fork of a process that has imported torch."""
    return warm_segacc().code(SCRIPT, FOLDER / f"{name}.py", *arguments, cwd=ROOT)
