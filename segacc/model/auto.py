"""Makes transformers' Auto classes know segacc's own networks, without importing transformers.

A finder in front of `sys.meta_path` waits for transformers' tables of configs and of networks, and
adds to each as soon as it has been imported; tables that are there already are added to at once.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto"


def register_configs() -> None:
    """Add to AutoConfig."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from segacc.model.networks.configs import CONFIGS

    for config in CONFIGS:
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_networks() -> None:
    """Add to AutoModelForSemanticSegmentation, and to the names that the pipeline knows."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        AutoModelForSemanticSegmentation,
    )

    from segacc.model.networks.linear import LinearForSemanticSegmentation
    from segacc.model.networks.torchvision_networks import NETWORKS

    networks: tuple[Any, ...] = (LinearForSemanticSegmentation, *NETWORKS)
    for network in networks:
        config = network.config_class
        AutoModelForSemanticSegmentation.register(config, network, exist_ok=True)
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[config.model_type] = network.__name__


TABLES = {
    f"{_AUTO}.configuration_auto": register_configs,
    f"{_AUTO}.modeling_auto": register_networks,
}


class Finder:
    """Finds transformers' tables as Python would, and adds to them after they are imported."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Answer `import`; None for everything but the tables."""
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
    """Register what can be registered now, and wait for the rest. Twice is as good as once."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
    for name, register in TABLES.items():
        if name in sys.modules:
            register()
