"""Registers segacc's own networks with transformers' Auto classes.

transformers is not imported for this: a finder in `sys.meta_path` registers them as soon as
transformers' mapping modules are imported; modules that are already imported are extended at once.
"""

import importlib
import sys
from collections import UserDict
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto"


def register_configs() -> None:
    """Register the configs with AutoConfig."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from segacc.model.networks.configs import CONFIGS

    for config in CONFIGS:
        AutoConfig.register(config.model_type, config, exist_ok=True)


SEMANTIC = "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING"
UNIVERSAL = "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING"
IMAGE = "MODEL_FOR_IMAGE_SEGMENTATION_MAPPING"
BACKBONE = "MODEL_FOR_BACKBONE_MAPPING"
NETWORKS = {
    "LinearSegConfig": ("linear.LinearForSemanticSegmentation", SEMANTIC),
    "NormedSegformerConfig": ("segformer.NormedSegformerForSemanticSegmentation", SEMANTIC),
    "DptSegConfig": ("dpt.DptForSemanticSegmentation", SEMANTIC),
    "DeepLabV3PlusSegConfig": ("deeplabv3plus.DeepLabV3PlusForSemanticSegmentation", SEMANTIC),
    "DeepLabV3SegConfig": ("torchvision_networks.DeepLabV3ForSemanticSegmentation", SEMANTIC),
    "FCNSegConfig": ("torchvision_networks.FCNForSemanticSegmentation", SEMANTIC),
    "LRASPPSegConfig": ("torchvision_networks.LRASPPForSemanticSegmentation", SEMANTIC),
    "DDRNetSegConfig": ("ddrnet.DDRNetForSemanticSegmentation", SEMANTIC),
    "PIDNetSegConfig": ("pidnet.PIDNetForSemanticSegmentation", SEMANTIC),
    "PyramidConfig": ("pyramid.PyramidBackbone", BACKBONE),
    # The pipeline asks for an image segmentation network, where it needs a universal one.
    "PmtSegConfig": ("pmt.PmtForUniversalSegmentation", UNIVERSAL, IMAGE),
}
"""For each config, the module in model/networks and the class, and transformers' mappings."""


class ImportedLater(UserDict[Any, Any]):
    """Classes by config; some are `module.name` at first, and imported when they are looked up.

    transformers imports its mappings in the middle of its networks, which ours import.
    """

    def __getitem__(self, key: Any) -> Any:
        """Return a class."""
        found = super().__getitem__(key)
        if isinstance(found, str):
            module, name = found.split(".")
            found = getattr(importlib.import_module(f"segacc.model.networks.{module}"), name)
            self.data[key] = found
        return found


def register_networks() -> None:
    """Register the networks with transformers' Auto classes, and their names for the pipeline."""
    from transformers.models.auto import modeling_auto

    from segacc.model.networks.configs import CONFIGS

    for config in CONFIGS:
        network, *mappings = NETWORKS[config.__name__]
        for name in mappings:
            mapping = getattr(modeling_auto, name)
            if not isinstance(mapping._extra_content, ImportedLater):
                mapping._extra_content = ImportedLater(mapping._extra_content)
            mapping._extra_content[config] = network
            names = getattr(modeling_auto, f"{name}_NAMES")
            names[config.model_type] = network.split(".")[1]


TABLES = {
    f"{_AUTO}.configuration_auto": register_configs,
    f"{_AUTO}.modeling_auto": register_networks,
}


class Finder:
    """Import finder that registers our networks after transformers' mappings are imported."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a mapping module; None for any other module."""
        register = TABLES.get(name)
        spec = PathFinder.find_spec(name, path, target) if register else None
        if spec is None or spec.loader is None or register is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Register our networks now, or when transformers is imported. Idempotent."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
    for name, register in TABLES.items():
        if name in sys.modules:
            register()
