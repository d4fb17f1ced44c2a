"""All registered architectures, and all backbones, as small networks."""

from functools import cache

from segacc.hookspecs import Architecture
from segacc.model import SegmentationModel
from segacc.plugins.architectures.backbone_table import BACKBONES
from segacc.plugins.architectures.upernet import UperNetOptions
from segacc.testing.network import Subject, subject_of
from segacc.testing.tools import registry_of

TIMM = ("timm/resnet18", "timm/convnext_atto", "timm/efficientnet_b0", "timm/regnetx_002")
"""Networks of timm that number their blocks in different ways."""


@cache
def records() -> dict[str, Architecture]:
    """Return the registered architectures by name."""
    offers = [offer for offer in registry_of().offers if offer.kind == "architecture"]
    return {offer.record.name: offer.record for offer in offers}


NETWORKS = (*sorted(records()), *(f"upernet:{name}" for name in (*BACKBONES, *TIMM)))
"""Names for `small_network`: of architectures, and of UPerNets on each backbone."""


def small_network(name: str) -> tuple[Subject, SegmentationModel]:
    """Build an architecture with its tiny options, or UPerNet on a backbone."""
    architecture, _, backbone = name.partition(":")
    record = records()[architecture]
    options = record.tiny()
    if backbone:
        size = "" if backbone in TIMM else "test"
        more = {"hidden_size": 16, "auxiliary_channels": 8}
        options = UperNetOptions(backbone=backbone, size=size, **more)
    subject = subject_of(record, options)
    return subject, subject.build()
