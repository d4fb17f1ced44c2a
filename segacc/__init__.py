"""segacc trains, evaluates and runs semantic-segmentation networks on Accelerate.

What plugin authors import is here; so are TrainConfig, train and Segmenter, loaded when first used.
"""

from segacc import main_path  # noqa: F401 - first, while nothing else is imported

# isort: split

import importlib
from typing import TYPE_CHECKING, Any

from segacc import auto
from segacc.hookspecs import (
    Architecture,
    Augmentation,
    BatchChange,
    Dataset,
    DataSplits,
    Facts,
    Loss,
    LossTerm,
    Metric,
    MetricFiles,
    MetricState,
    Sample,
    Stream,
    hookimpl,
)

if TYPE_CHECKING:
    from segacc.api import train
    from segacc.config import TrainConfig
    from segacc.inference import Segmenter

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Augmentation",
    "BatchChange",
    "DataSplits",
    "Dataset",
    "Facts",
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

_LAZY = {"TrainConfig": "segacc.config", "train": "segacc.api", "Segmenter": "segacc.inference"}

auto.install()  # transformers' Auto classes read segacc's own networks, too


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'segacc' has no attribute {name!r}")
