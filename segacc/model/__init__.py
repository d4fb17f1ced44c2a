"""The contract with a network, and the weights it starts from.

What an architecture's plugin imports is here, loaded when it is first used: a part of this package
does without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segacc.model.contract import Logits, SegmentationModel, SizeRule
    from segacc.model.transformers_model import TransformersModel

__all__ = ["Logits", "SegmentationModel", "SizeRule", "TransformersModel"]


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for."""
    if name in __all__:
        module = "transformers_model" if name == "TransformersModel" else "contract"
        return getattr(importlib.import_module(f"segacc.model.{module}"), name)
    raise AttributeError(f"module 'segacc.model' has no attribute {name!r}")
