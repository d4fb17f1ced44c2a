"""MobileNetV2 (Sandler et al., CVPR 2018) with a DeepLabV3+ head, as in transformers."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Options(TransformersOptions):
    """Options of MobileNetV2."""

    depth_multiplier: Annotated[float, Gt(0)] = 1.0
    """Factor on the width of all layers; 1.0 gives 2.5 million parameters."""
    output_stride: Literal[8, 16, 32] = 16
    """Image pixels per logit in height and width; 8 resolves thin structures better but is
    slower."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoder."""
    batchnorm_momentum: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Momentum of batch norm's running statistics: weight of the newest batch."""


def build(options: MobileNetV2Options, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1 / output_stride of the image size."""
    from torch import nn
    from transformers import (
        MobileNetV2Config,
        MobileNetV2ForSemanticSegmentation,
        MobileNetV2ImageProcessor,
    )

    from segacc.model.transformers_model import TransformersModel, make_config

    config = make_config(
        MobileNetV2Config,
        options,
        facts,
        depth_multiplier=options.depth_multiplier,
        output_stride=options.output_stride,
        classifier_dropout_prob=options.dropout,
    )
    network: Any = MobileNetV2ForSemanticSegmentation(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # transformers sets 0.997, TensorFlow's convention, which in PyTorch keeps little more
            # than the last batch.
            module.momentum = options.batchnorm_momentum
    fold_padding(network)
    model = TransformersModel(
        network,
        MobileNetV2ImageProcessor(do_resize=False, do_center_crop=False),
        encoder="mobilenet_v2",
        classifiers=["segmentation_head.classifier.convolution"],
    )
    model._no_split_modules = ("MobileNetV2InvertedResidual",)
    return model


def fold_padding(network: Any) -> None:
    """Let convolutions of stride 1 pad themselves: the same result without a copy of the map.

    transformers pads like TensorFlow, in a separate step; for stride 1 this padding is symmetric.
    """
    plain = copy.copy(network.config)
    plain.tf_padding = False
    for layer in network.modules():
        convolution = getattr(layer, "convolution", None)
        if convolution is not None and convolution.stride == (1, 1):
            pairs = zip(convolution.kernel_size, convolution.dilation, strict=True)
            convolution.padding = tuple((kernel - 1) * dilation // 2 for kernel, dilation in pairs)
            layer.config = plain


def default_weights(options: MobileNetV2Options) -> str | None:
    """Return the ImageNet encoder for the width, if Google published one."""
    sizes = {1.0: 224, 1.4: 224, 0.75: 160, 0.35: 96}
    size = sizes.get(options.depth_multiplier)
    return None if size is None else f"google/mobilenet_v2_{options.depth_multiplier}_{size}"


def tiny() -> MobileNetV2Options:
    """Return options of a network of 0.4 million parameters."""
    return MobileNetV2Options(depth_multiplier=0.25, output_stride=8, dropout=0.0)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register MobileNetV2."""
    return [
        Architecture(
            name="mobilenet_v2",
            summary="MobileNetV2 encoder (Sandler et al. 2018), DeepLabV3+ head",
            options=MobileNetV2Options,
            build=build,
            default_weights=default_weights,
            tiny=tiny,
            model_types=("mobilenet_v2",),
        )
    ]
