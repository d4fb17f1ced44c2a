"""MobileViT (Mehta and Rastegari, ICLR 2022) with a DeepLabV3 head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

# Transformer widths, convolution widths, expansion, heads, decoder width: table 4 of the paper;
# `tiny` is not published.
SIZES = {
    "tiny": ((8, 8, 16), (4, 4, 8, 8, 8, 16, 32), 4.0, 2, 16),
    "xx_small": ((64, 80, 96), (16, 16, 24, 48, 64, 80, 320), 2.0, 4, 256),
    "x_small": ((96, 120, 144), (16, 32, 48, 64, 80, 96, 384), 4.0, 4, 256),
    "small": ((144, 192, 240), (16, 32, 64, 96, 128, 160, 640), 4.0, 4, 256),
}


@dataclass(frozen=True, kw_only=True)
class MobileViTOptions(TransformersOptions):
    """Options of MobileViT."""

    variant: Literal["xx_small", "x_small", "small", "tiny"] = "small"
    """Size: xx_small has 1.9 million parameters, x_small 3.0, small 6.4; tiny has 37 thousand, for
    tests."""
    output_stride: Literal[8, 16, 32] = 16
    """Image pixels per logit in height and width; 8 resolves thin structures better but is
    slower."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoder."""
    encoder_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the transformer blocks; the authors used 0.05 for xx_small."""


def build(options: MobileViTOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1 / output_stride of the image size."""
    from transformers import (
        MobileViTConfig,
        MobileViTForSemanticSegmentation,
        MobileViTImageProcessor,
    )

    from segacc.model.transformers_model import TransformersModel, make_config, reset_batchnorm

    hidden_sizes, neck_hidden_sizes, expand_ratio, heads, decoder = SIZES[options.variant]
    config = make_config(
        MobileViTConfig,
        options,
        facts,
        hidden_sizes=list(hidden_sizes),
        neck_hidden_sizes=list(neck_hidden_sizes),
        expand_ratio=expand_ratio,
        num_attention_heads=heads,
        aspp_out_channels=decoder,
        output_stride=options.output_stride,
        hidden_dropout_prob=options.encoder_dropout,
        aspp_dropout_prob=options.dropout,
        classifier_dropout_prob=options.dropout,
    )
    network: Any = MobileViTForSemanticSegmentation(config)
    reset_batchnorm(network)
    model = TransformersModel(
        network,
        MobileViTImageProcessor(do_resize=False, do_center_crop=False),
        encoder="mobilevit",
        classifiers=["segmentation_head.classifier.convolution"],
    )
    model.min_batch_size = 2  # the decoder pools to one value per channel before a batch norm
    return model


def default_weights(options: MobileViTOptions) -> str | None:
    """Return the ImageNet encoder of the variant, published by the paper's authors."""
    name = options.variant.replace("_", "-")
    return None if options.variant == "tiny" else f"apple/mobilevit-{name}"


def tiny() -> MobileViTOptions:
    """Return options of a network of 37 thousand parameters."""
    return MobileViTOptions(variant="tiny", dropout=0.0, encoder_dropout=0.0)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register MobileViT."""
    return [
        Architecture(
            name="mobilevit",
            summary="MobileViT encoder (Mehta and Rastegari 2022), DeepLabV3 head",
            options=MobileViTOptions,
            build=build,
            default_weights=default_weights,
            tiny=tiny,
            model_types=("mobilevit",),
            weights_license=lambda options: "Apple's own (the model card says `other`)",
        )
    ]
