"""Encoders for phones with DeepLabV3's head, as in transformers.

MobileNetV2 (Sandler et al., CVPR 2018), MobileViT (Mehta and Rastegari, ICLR 2022) and MobileViTV2
(Mehta and Rastegari, TMLR 2023).
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel, TransformersModel

# Of MobileViT: transformer widths, convolution widths, expansion, heads, decoder width: table 4 of
# the paper; `tiny` is not published.
SIZES = {
    "tiny": ((8, 8, 16), (4, 4, 8, 8, 8, 16, 32), 4.0, 2, 16),
    "xx_small": ((64, 80, 96), (16, 16, 24, 48, 64, 80, 320), 2.0, 4, 256),
    "x_small": ((96, 120, 144), (16, 32, 48, 64, 80, 96, 384), 4.0, 4, 256),
    "small": ((144, 192, 240), (16, 32, 64, 96, 128, 160, 640), 4.0, 4, 256),
}
MOBILEVIT_LICENSE = "Apple's own (the model card says `other`)"


@dataclass(frozen=True, kw_only=True)
class MobileOptions(TransformersOptions):
    """Common options of the three networks."""

    output_stride: Literal[8, 16, 32] = 16
    """Image pixels per logit in height and width; 8 resolves thin structures better but is
    slower."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoder."""


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Options(MobileOptions):
    """Options of MobileNetV2."""

    depth_multiplier: Annotated[float, Gt(0)] = 1.0
    """Factor on the width of all layers; 1.0 gives 2.5 million parameters."""
    batchnorm_momentum: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Momentum of batch norm's running statistics: weight of the newest batch."""


@dataclass(frozen=True, kw_only=True)
class MobileViTOptions(MobileOptions):
    """Options of MobileViT."""

    variant: Literal["xx_small", "x_small", "small", "tiny"] = "small"
    """Size: xx_small has 1.9 million parameters, x_small 3.0, small 6.4; tiny has 37 thousand, for
    tests."""
    encoder_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the transformer blocks; the authors used 0.05 for xx_small."""


@dataclass(frozen=True, kw_only=True)
class MobileViTV2Options(MobileOptions):
    """Options of MobileViTV2."""

    width_multiplier: Annotated[float, Gt(0)] = 1.0
    """Factor on the width of all encoder layers; 1.0 gives 13.4 million parameters, 2.0 34
    million."""
    decoder_channels: Annotated[int, Ge(1)] = 512
    """Number of channels of the decoder."""
    encoder_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout probability in the transformer blocks."""


def build_mobilenet_v2(options: MobileNetV2Options, facts: Facts) -> "SegmentationModel":
    """Build MobileNetV2 with random weights; logits at 1 / output_stride of the image size."""
    from torch import nn
    from transformers import (
        MobileNetV2Config,
        MobileNetV2ForSemanticSegmentation,
        MobileNetV2ImageProcessor,
    )

    from segacc.model.transformers_model import make_config

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
    model = _wrap(
        network, MobileNetV2ImageProcessor, "mobilenet_v2", units=["MobileNetV2InvertedResidual"]
    )
    model.one_size = "transformers computes its paddings in Python"
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


def build_mobilevit(options: MobileViTOptions, facts: Facts) -> "SegmentationModel":
    """Build MobileViT with random weights; logits at 1 / output_stride of the image size."""
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    hidden_sizes, neck_hidden_sizes, expand_ratio, heads, decoder = SIZES[options.variant]
    return _mobilevit(
        MobileViTConfig,
        MobileViTForSemanticSegmentation,
        options,
        facts,
        hidden_sizes=list(hidden_sizes),
        neck_hidden_sizes=list(neck_hidden_sizes),
        expand_ratio=expand_ratio,
        num_attention_heads=heads,
        aspp_out_channels=decoder,
        hidden_dropout_prob=options.encoder_dropout,
    )


def build_mobilevitv2(options: MobileViTV2Options, facts: Facts) -> "SegmentationModel":
    """Build MobileViTV2 with random weights; logits at 1 / output_stride of the image size."""
    from transformers import MobileViTV2Config, MobileViTV2ForSemanticSegmentation

    from segacc.model import SizeRule

    model = _mobilevit(
        MobileViTV2Config,
        MobileViTV2ForSemanticSegmentation,
        options,
        facts,
        width_multiplier=options.width_multiplier,
        aspp_out_channels=options.decoder_channels,
        attn_dropout=options.encoder_dropout,
        ffn_dropout=options.encoder_dropout,
    )
    # Attention uses patches of 2 x 2 features; with an odd number of rows the last becomes 0.
    config = model.network.config
    model.size_rule = SizeRule(multiple=config.patch_size * config.output_stride)
    model.one_size = ""
    return model


def _mobilevit(
    config_class: Any, network_class: Any, options: MobileOptions, facts: Facts, **sizes: Any
) -> "TransformersModel":
    from transformers import MobileViTImageProcessor

    from segacc.model.transformers_model import make_config, reset_batchnorm

    config = make_config(
        config_class,
        options,
        facts,
        output_stride=options.output_stride,
        aspp_dropout_prob=options.dropout,
        classifier_dropout_prob=options.dropout,
        **sizes,
    )
    network: Any = network_class(config)
    reset_batchnorm(network)
    # The decoder pools to one value per channel before a batch norm.
    model = _wrap(network, MobileViTImageProcessor, config.model_type, min_batch_size=2)
    model.one_size = "transformers computes the grid of its patches in Python"
    return model


def _wrap(network: Any, processor: Any, encoder: str, **more: Any) -> "TransformersModel":
    from segacc.model import TransformersModel

    return TransformersModel(
        network,
        processor(do_resize=False, do_center_crop=False),
        encoder=encoder,
        classifiers=["segmentation_head.classifier.convolution"],
        **more,
    )


def mobilenet_v2_weights(options: MobileNetV2Options) -> str | None:
    """Return the ImageNet encoder for the width, if Google published one."""
    sizes = {1.0: 224, 1.4: 224, 0.75: 160, 0.35: 96}
    size = sizes.get(options.depth_multiplier)
    return None if size is None else f"google/mobilenet_v2_{options.depth_multiplier}_{size}"


def mobilevit_weights(options: MobileViTOptions) -> str | None:
    """Return the ImageNet encoder of the variant, published by the paper's authors."""
    name = options.variant.replace("_", "-")
    return None if options.variant == "tiny" else f"apple/mobilevit-{name}"


def mobilevitv2_weights(options: MobileViTV2Options) -> str | None:
    """Return the ImageNet encoder for the width, if Apple published one."""
    width = options.width_multiplier
    return f"apple/mobilevitv2-{width:.1f}-imagenet1k-256" if width in (1.0, 2.0) else None


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register the three networks."""
    return [
        Architecture(
            name="mobilenet_v2",
            summary="MobileNetV2 encoder (Sandler et al. 2018), DeepLabV3+ head",
            options=MobileNetV2Options,
            build=build_mobilenet_v2,
            default_weights=mobilenet_v2_weights,
            tiny=lambda: MobileNetV2Options(depth_multiplier=0.25, output_stride=8, dropout=0.0),
            model_types=("mobilenet_v2",),
            weights_license=lambda options: "not named: the model card says `other`",
        ),
        Architecture(
            name="mobilevit",
            summary="MobileViT encoder (Mehta and Rastegari 2022), DeepLabV3 head",
            options=MobileViTOptions,
            build=build_mobilevit,
            default_weights=mobilevit_weights,
            tiny=lambda: MobileViTOptions(variant="tiny", dropout=0.0, encoder_dropout=0.0),
            model_types=("mobilevit",),
            weights_license=lambda options: MOBILEVIT_LICENSE,
        ),
        Architecture(
            name="mobilevitv2",
            summary="MobileViTV2 encoder (Mehta and Rastegari 2023), DeepLabV3 head",
            options=MobileViTV2Options,
            build=build_mobilevitv2,
            default_weights=mobilevitv2_weights,
            tiny=lambda: MobileViTV2Options(
                width_multiplier=0.0625, decoder_channels=16, dropout=0.0
            ),
            model_types=("mobilevitv2",),
            weights_license=lambda options: MOBILEVIT_LICENSE,
        ),
    ]
