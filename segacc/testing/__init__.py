"""Conformance tests for plugins: checks that a component implements segacc's interfaces.

These are plain functions for a plugin's own tests, in pytest or a notebook. Each raises
AssertionError with one paragraph: the component, what was expected, what was found. Everything runs
on the CPU, and the random states and accelerate's state are restored.

    from segacc.testing import check_architecture, registry_of

    def test_plain() -> None:
        registry = registry_of(segacc_plain)
        check_architecture(registry.find("architecture", "plain", "test"))

`python -m segacc.testing PACKAGE` runs them on all components of an installed plugin.
"""

from segacc.testing.architecture import check_architecture
from segacc.testing.augmentation import check_augmentation
from segacc.testing.dataset import check_dataset
from segacc.testing.export import check_export
from segacc.testing.loss import check_loss
from segacc.testing.metric import check_metric
from segacc.testing.tools import check_import, registry_of

__all__ = [
    "check_architecture",
    "check_augmentation",
    "check_dataset",
    "check_export",
    "check_import",
    "check_loss",
    "check_metric",
    "registry_of",
]
