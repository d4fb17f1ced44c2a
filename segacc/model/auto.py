"""Registers segacc's own networks with transformers' Auto classes.

transformers is not imported for this: a finder in `sys.meta_path` registers them as soon as
transformers' mapping modules are imported; modules that are already imported are extended at once.
"""

import sys
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


def register_networks() -> None:
    """Register the networks with AutoModelForSemanticSegmentation and for the pipeline.

    PMT is registered with AutoModelForUniversalSegmentation and, as the pipeline only tries that
    one, with AutoModelForImageSegmentation; the pyramid with AutoBackbone.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_BACKBONE_MAPPING,
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
        AutoModelForImageSegmentation,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    )

    from segacc.model.networks.ddrnet import DDRNetForSemanticSegmentation
    from segacc.model.networks.deeplabv3plus import DeepLabV3PlusForSemanticSegmentation
    from segacc.model.networks.dpt import DptForSemanticSegmentation
    from segacc.model.networks.linear import LinearForSemanticSegmentation
    from segacc.model.networks.pidnet import PIDNetForSemanticSegmentation
    from segacc.model.networks.pmt import PmtForUniversalSegmentation
    from segacc.model.networks.pyramid import PyramidBackbone
    from segacc.model.networks.segformer import NormedSegformerForSemanticSegmentation
    from segacc.model.networks.torchvision_networks import NETWORKS

    networks: tuple[Any, ...] = (
        LinearForSemanticSegmentation,
        NormedSegformerForSemanticSegmentation,
        DptForSemanticSegmentation,
        DeepLabV3PlusForSemanticSegmentation,
        *NETWORKS,
        DDRNetForSemanticSegmentation,
        PIDNetForSemanticSegmentation,
    )
    MODEL_FOR_BACKBONE_MAPPING.register(PyramidBackbone.config_class, PyramidBackbone, True)
    pmt = PmtForUniversalSegmentation
    for auto in (AutoModelForUniversalSegmentation, AutoModelForImageSegmentation):
        auto.register(pmt.config_class, pmt, exist_ok=True)
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES[pmt.config_class.model_type] = pmt.__name__
    for network in networks:
        config = network.config_class
        AutoModelForSemanticSegmentation.register(config, network, exist_ok=True)
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[config.model_type] = network.__name__


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
