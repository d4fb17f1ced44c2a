"""segacc trains, evaluates and runs semantic-segmentation networks on Accelerate.

What plugin authors import is here; so are TrainConfig, train and Segmenter, loaded when first used.
"""

import os
import sys


def _is_main_program() -> bool:
    """Tell whether Python was started with `-m segacc` and is looking for it just now."""
    here = -len(sys.argv)  # argv begins with "-m" for as long as Python looks for the module
    return sys.argv[0] == "-m" and sys.orig_argv[here].removeprefix("-m") == "segacc"


def _leave_out_working_folder() -> None:
    """Take back what `-m` put on sys.path, here and in child processes; PYTHONPATH stays.

    A clone that is not installed goes to the end instead, where it stands in for nothing.
    """
    if sys.flags.safe_path or sys.path[0] != os.getcwd():  # noqa: PTH109 - pathlib is not loaded
        return
    folder = sys.path.pop(0)
    if folder == os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH120
        sys.path.append(folder)
    os.environ["PYTHONSAFEPATH"] = "1"


if _is_main_program():
    _leave_out_working_folder()  # first, while nothing else is imported

# isort: split

import importlib
from typing import TYPE_CHECKING, Any

from segacc.contracts import VERSION, BatchChange, Facts, LossTerm, MetricFiles, MetricState
from segacc.hookspecs import (
    Architecture,
    Augmentation,
    Dataset,
    DataSplits,
    Loss,
    Metric,
    Sample,
    Stream,
    hookimpl,
)
from segacc.labels import LabelMap
from segacc.model import auto

if TYPE_CHECKING:
    from segacc.commands.train import train
    from segacc.evaluation.segmenter import Segmenter
    from segacc.settings.config import TrainConfig

__version__ = VERSION

__all__ = [
    "Architecture",
    "Augmentation",
    "BatchChange",
    "DataSplits",
    "Dataset",
    "Facts",
    "LabelMap",
    "Loss",
    "LossTerm",
    "Metric",
    "MetricFiles",
    "MetricState",
    "Sample",
    "Segmenter",
    "Stream",
    "TrainConfig",
    "__version__",
    "hookimpl",
    "train",
]

_LAZY = {
    "TrainConfig": "segacc.settings.config",
    "train": "segacc.commands.train",
    "Segmenter": "segacc.evaluation.segmenter",
}

auto.install()  # transformers' Auto classes read segacc's own networks, too


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'segacc' has no attribute {name!r}")
