"""Train, evaluate and run semantic-segmentation networks with Accelerate.

The names that plugins import are defined here. Those of the Python API (fit, train, recipe,
evaluate, compare, predict, export, benchmark, report, push, check_data, convert, Segmenter and
TrainConfig) are loaded on first use.
"""

import os
import sys


def _is_main_program() -> bool:
    """Return whether Python was started with `-m segacc` and is importing it now."""
    here = -len(sys.argv)  # argv[0] is "-m" while Python is locating the module
    return sys.argv[0] == "-m" and sys.orig_argv[here].removeprefix("-m") == "segacc"


def _leave_out_working_folder() -> None:
    """Remove the working folder that `-m` added to sys.path, here and in child processes.

    PYTHONPATH stays. A clone of segacc that is not installed is moved to the end of sys.path, where
    it cannot shadow other packages.
    """
    if sys.flags.safe_path or sys.path[0] != os.getcwd():  # noqa: PTH109 - pathlib is not loaded
        return
    folder = sys.path.pop(0)
    if folder == os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH120
        sys.path.append(folder)
    os.environ["PYTHONSAFEPATH"] = "1"


if _is_main_program():
    _leave_out_working_folder()  # before anything else is imported

# isort: split

import importlib
from typing import TYPE_CHECKING, Any

from segacc.contracts import (
    VERSION,
    BatchChange,
    Drawn,
    Facts,
    LossTerm,
    MetricFiles,
    MetricState,
    MetricSums,
)
from segacc.errors import SegaccError
from segacc.hookspecs import (
    Architecture,
    Augmentation,
    Dataset,
    DataSplits,
    Loss,
    LossOptions,
    Metric,
    Recognized,
    Sample,
    Stream,
    hookimpl,
)
from segacc.labels import LabelMap
from segacc.model import auto

if TYPE_CHECKING:
    from segacc.commands.check_data.command import check_data
    from segacc.commands.convert.command import convert
    from segacc.commands.evaluate.command import compare, evaluate
    from segacc.commands.export.benchmark import benchmark
    from segacc.commands.export.command import export
    from segacc.commands.fit import fit, recipe, train
    from segacc.commands.predict.command import predict
    from segacc.commands.push import push
    from segacc.commands.report.command import report
    from segacc.evaluation.segmenter import Segmenter
    from segacc.settings.config import TrainConfig

__version__ = VERSION

__all__ = [
    "Architecture",
    "Augmentation",
    "BatchChange",
    "DataSplits",
    "Dataset",
    "Drawn",
    "Facts",
    "LabelMap",
    "Loss",
    "LossOptions",
    "LossTerm",
    "Metric",
    "MetricFiles",
    "MetricState",
    "MetricSums",
    "Recognized",
    "Sample",
    "SegaccError",
    "Segmenter",
    "Stream",
    "TrainConfig",
    "__version__",
    "benchmark",
    "check_data",
    "compare",
    "convert",
    "evaluate",
    "export",
    "fit",
    "hookimpl",
    "predict",
    "push",
    "recipe",
    "report",
    "train",
]

_LAZY = {
    "TrainConfig": "segacc.settings.config",
    "fit": "segacc.commands.fit",
    "recipe": "segacc.commands.fit",
    "train": "segacc.commands.fit",
    "evaluate": "segacc.commands.evaluate.command",
    "compare": "segacc.commands.evaluate.command",
    "benchmark": "segacc.commands.export.benchmark",
    "export": "segacc.commands.export.command",
    "predict": "segacc.commands.predict.command",
    "report": "segacc.commands.report.command",
    "push": "segacc.commands.push",
    "check_data": "segacc.commands.check_data.command",
    "convert": "segacc.commands.convert.command",
    "Segmenter": "segacc.evaluation.segmenter",
}

auto.install()  # registers segacc's own networks with transformers' Auto classes


def __getattr__(name: str) -> Any:
    """Import the names that need torch on first use."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'segacc' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names only."""
    return sorted(__all__)
