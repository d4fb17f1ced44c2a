"""torchvision's segmentation networks: DeepLabV3, FCN, Lite R-ASPP."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, Literal

from annotated_types import Ge

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

TINY: Final = "tiny"


@dataclass(frozen=True, kw_only=True)
class DeepLabV3Options(TransformersOptions):
    """Options of DeepLabV3."""

    backbone: Literal["resnet50", "resnet101", "mobilenet_v3_large", "tiny"] = "resnet50"
    """Encoder; with the auxiliary head 42, 61 and 11 million parameters; tiny has 2, for tests."""
    auxiliary: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss in training; 0 removes the head."""


@dataclass(frozen=True, kw_only=True)
class FCNOptions(TransformersOptions):
    """Options of FCN."""

    backbone: Literal["resnet50", "resnet101", "tiny"] = "resnet50"
    """Encoder; with the auxiliary head 35 and 54 million parameters; tiny has 0.1, for tests."""
    auxiliary: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss in training; 0 removes the head."""


@dataclass(frozen=True, kw_only=True)
class LRASPPOptions(TransformersOptions):
    """Options of Lite R-ASPP."""

    backbone: Literal["mobilenet_v3_large", "tiny"] = "mobilenet_v3_large"
    """Encoder; 3.2 million parameters with the head; tiny has 0.1, for tests."""


Options = DeepLabV3Options | FCNOptions | LRASPPOptions


def build(kind: str, options: Options, facts: Facts) -> "SegmentationModel":
    """Build a network with random weights; logits at 1/8 of the image size, or 1/16.

    Args:
        kind: `deeplabv3`, `fcn` or `lraspp`; DeepLabV3 on MobileNetV3 has the coarser logits.
        options: its options.
        facts: the facts of the run.
    """
    from transformers import SegformerImageProcessor

    from segacc.model.networks import torchvision_networks
    from segacc.model.networks.configs import TORCHVISION_CONFIGS
    from segacc.model.transformers_model import TransformersModel, make_config
    from segacc.model.weight_files import mmseg

    config_class, network_class = TORCHVISION_CONFIGS[kind]
    sizes, classifiers = {}, ["classifier.low_classifier", "classifier.high_classifier"]
    if not isinstance(options, LRASPPOptions):
        sizes = {"auxiliary_loss_weight": options.auxiliary}
        classifiers = ["classifier.4", "aux_classifier.4"]
    config = make_config(config_class, options, facts, backbone=options.backbone, **sizes)
    weight = getattr(config, "auxiliary_loss_weight", 0.0)
    resnet = config.backbone.startswith("resnet")
    model = TransformersModel(
        getattr(torchvision_networks, network_class)(config),
        SegformerImageProcessor(do_resize=False, do_reduce_labels=False),
        encoder="backbone",
        classifiers=classifiers,
        auxiliary=("aux_classifier", weight) if weight else None,
        renamer=mmseg.resnet if resnet else None,
        units=["Bottleneck" if resnet else "InvertedResidual"],
        # DeepLabV3's pyramid applies batch norm to globally pooled features.
        min_batch_size=2 if kind == "deeplabv3" else 1,
    )
    # MobileNetV3's blocks are named by numbers only; number 0 is the stem.
    model.block_pattern = r"\.backbone\.(?P<stage>layer\d|[1-9]\d*)(?P<block>(?<=layer\d)\.\d+)?\."
    return model


def published(kind: str, options: Options) -> str | None:
    """Return torchvision's weights, trained on COCO images with the classes of Pascal VOC."""
    unknown = options.backbone == TINY or options.config is not None
    return None if unknown else f"torchvision:{kind}_{options.backbone}"


def _record(kind: str, summary: str, options: type[Options]) -> Architecture:
    return Architecture(
        name=kind,
        summary=summary,
        options=options,
        build=partial(build, kind),
        default_weights=partial(published, kind),
        tiny=partial(options, backbone=TINY),
        model_types=(f"segacc_{kind}",),
    )


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register the three networks."""
    deeplabv3 = "torchvision's DeepLabV3 (Chen et al. 2017) on ResNet or MobileNetV3"
    fcn = "torchvision's FCN (Long et al. 2015) on a dilated ResNet"
    lraspp = "torchvision's Lite R-ASPP on MobileNetV3 (Howard et al. 2019), 3.2 M"
    return [
        _record("deeplabv3", deeplabv3, DeepLabV3Options),
        _record("fcn", fcn, FCNOptions),
        _record("lraspp", lraspp, LRASPPOptions),
    ]
