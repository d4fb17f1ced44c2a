"""The conformance kit: does a component keep what segacc's hooks promise?

Plain functions for a plugin's own tests, in pytest or a notebook. Each raises AssertionError with
one paragraph: which component, what was expected, what was found. Everything runs on the CPU, and
the state of random numbers and of accelerate is left as it was.

    from segacc.testing import check_architecture, registry_of

    def test_plain() -> None:
        registry = registry_of(segacc_plain)
        check_architecture(registry.find("architecture", "plain", "test"))
"""

from segacc.testing.architecture import check_architecture
from segacc.testing.augmentation import check_augmentation
from segacc.testing.dataset import check_dataset
from segacc.testing.loss import check_loss
from segacc.testing.metric import check_metric
from segacc.testing.tools import registry_of

__all__ = [
    "check_architecture",
    "check_augmentation",
    "check_dataset",
    "check_loss",
    "check_metric",
    "registry_of",
]
