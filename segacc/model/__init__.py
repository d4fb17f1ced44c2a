"""The interface of a network, and loading of its initial weights.

The names that an architecture plugin imports are loaded lazily, because parts of this package must
not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segacc.model.contract import Logits, SegmentationModel, SizeRule
    from segacc.model.transformers_model import TransformersModel

__all__ = ["Logits", "SegmentationModel", "SizeRule", "TransformersModel"]


def __getattr__(name: str) -> Any:
    """Import names that need torch when they are first used."""
    if name in __all__:
        module = "transformers_model" if name == "TransformersModel" else "contract"
        return getattr(importlib.import_module(f"segacc.model.{module}"), name)
    raise AttributeError(f"module 'segacc.model' has no attribute {name!r}")
