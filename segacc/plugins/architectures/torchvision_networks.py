"""torchvision's segmentation networks: DeepLabV3, FCN, Lite R-ASPP."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

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


def build_deeplabv3(options: DeepLabV3Options, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1/8, or 1/16 for MobileNetV3.

    The pyramid applies batch norm to globally pooled features, so training needs two images.
    """
    from segacc.model.networks.configs import DeepLabV3SegConfig
    from segacc.model.networks.torchvision_networks import DeepLabV3ForSemanticSegmentation

    sizes = {"auxiliary_loss_weight": options.auxiliary}
    classes = ["classifier.4", "aux_classifier.4"]
    given = (DeepLabV3SegConfig, DeepLabV3ForSemanticSegmentation)
    model = _build(*given, options, facts, classes, **sizes)
    model.min_batch_size = 2
    return model


def build_fcn(options: FCNOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1/8 of the image size."""
    from segacc.model.networks.configs import FCNSegConfig
    from segacc.model.networks.torchvision_networks import FCNForSemanticSegmentation

    sizes = {"auxiliary_loss_weight": options.auxiliary}
    classes = ["classifier.4", "aux_classifier.4"]
    return _build(FCNSegConfig, FCNForSemanticSegmentation, options, facts, classes, **sizes)


def build_lraspp(options: LRASPPOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1/8 of the image size."""
    from segacc.model.networks.configs import LRASPPSegConfig
    from segacc.model.networks.torchvision_networks import LRASPPForSemanticSegmentation

    classes = ["classifier.low_classifier", "classifier.high_classifier"]
    return _build(LRASPPSegConfig, LRASPPForSemanticSegmentation, options, facts, classes)


def _build(
    config_class: Any,
    network_class: Any,
    options: Options,
    facts: Facts,
    classifiers: list[str],
    **sizes: Any,
) -> "SegmentationModel":
    from transformers import SegformerImageProcessor

    from segacc.model.transformers_model import TransformersModel, make_config

    config = make_config(config_class, options, facts, backbone=options.backbone, **sizes)
    weight = getattr(config, "auxiliary_loss_weight", 0.0)
    model = TransformersModel(
        network_class(config),
        SegformerImageProcessor(do_resize=False, do_reduce_labels=False),
        encoder="backbone",
        classifiers=classifiers,
        auxiliary=("aux_classifier", weight) if weight else None,
    )
    # MobileNetV3's blocks are named by numbers only; number 0 is the stem.
    model.block_pattern = r"\.backbone\.(?P<stage>layer\d|[1-9]\d*)(?P<block>(?<=layer\d)\.\d+)?\."
    resnet = config.backbone.startswith("resnet")
    model._no_split_modules = ("Bottleneck",) if resnet else ("InvertedResidual",)
    return model


def _published(kind: str, options: Options) -> str | None:
    """Return torchvision's weights, trained on COCO images with the classes of Pascal VOC."""
    unknown = options.backbone == TINY or options.config is not None
    return None if unknown else f"torchvision:{kind}_{options.backbone}"


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register the three networks."""
    return [
        Architecture(
            name="deeplabv3",
            summary="torchvision's DeepLabV3 (Chen et al. 2017) on ResNet or MobileNetV3",
            options=DeepLabV3Options,
            build=build_deeplabv3,
            default_weights=lambda options: _published("deeplabv3", options),
            tiny=lambda: DeepLabV3Options(backbone=TINY),
            model_types=("segacc_deeplabv3",),
        ),
        Architecture(
            name="fcn",
            summary="torchvision's FCN (Long et al. 2015) on a dilated ResNet",
            options=FCNOptions,
            build=build_fcn,
            default_weights=lambda options: _published("fcn", options),
            tiny=lambda: FCNOptions(backbone=TINY),
            model_types=("segacc_fcn",),
        ),
        Architecture(
            name="lraspp",
            summary="torchvision's Lite R-ASPP on MobileNetV3 (Howard et al. 2019), 3.2 M",
            options=LRASPPOptions,
            build=build_lraspp,
            default_weights=lambda options: _published("lraspp", options),
            tiny=lambda: LRASPPOptions(backbone=TINY),
            model_types=("segacc_lraspp",),
        ),
    ]
