"""MobileViTV2 (Mehta and Rastegari, TMLR 2023) with a DeepLabV3 head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel


@dataclass(frozen=True, kw_only=True)
class MobileViTV2Options(TransformersOptions):
    """Options of MobileViTV2."""

    width_multiplier: Annotated[float, Gt(0)] = 1.0
    """Factor on the width of all encoder layers; 1.0 gives 13.4 million parameters, 2.0 34
    million."""
    decoder_channels: Annotated[int, Ge(1)] = 512
    """Number of channels of the decoder."""
    output_stride: Literal[8, 16, 32] = 16
    """Image pixels per logit in height and width; 8 resolves thin structures better but is
    slower."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoder."""
    encoder_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout probability in the transformer blocks."""


def build(options: MobileViTV2Options, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1 / output_stride of the image size."""
    from transformers import (
        MobileViTImageProcessor,
        MobileViTV2Config,
        MobileViTV2ForSemanticSegmentation,
    )

    from segacc.model import SizeRule
    from segacc.model.transformers_model import TransformersModel, make_config, reset_batchnorm

    config = make_config(
        MobileViTV2Config,
        options,
        facts,
        width_multiplier=options.width_multiplier,
        aspp_out_channels=options.decoder_channels,
        output_stride=options.output_stride,
        attn_dropout=options.encoder_dropout,
        ffn_dropout=options.encoder_dropout,
        aspp_dropout_prob=options.dropout,
        classifier_dropout_prob=options.dropout,
    )
    network: Any = MobileViTV2ForSemanticSegmentation(config)
    reset_batchnorm(network)
    model = TransformersModel(
        network,
        MobileViTImageProcessor(do_resize=False, do_center_crop=False),
        encoder="mobilevitv2",
        classifiers=["segmentation_head.classifier.convolution"],
        # Attention uses patches of 2 x 2 features; with an odd number of rows the last becomes 0.
        size_rule=SizeRule(multiple=config.patch_size * config.output_stride),
    )
    model.min_batch_size = 2  # the decoder pools to one value per channel before a batch norm
    return model


def default_weights(options: MobileViTV2Options) -> str | None:
    """Return the ImageNet encoder for the width, if Apple published one."""
    width = options.width_multiplier
    return f"apple/mobilevitv2-{width:.1f}-imagenet1k-256" if width in (1.0, 2.0) else None


def tiny() -> MobileViTV2Options:
    """Return options of a network of 44 thousand parameters."""
    return MobileViTV2Options(width_multiplier=0.0625, decoder_channels=16, dropout=0.0)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register MobileViTV2."""
    return [
        Architecture(
            name="mobilevitv2",
            summary="MobileViTV2 encoder (Mehta and Rastegari 2023), DeepLabV3 head",
            options=MobileViTV2Options,
            build=build,
            default_weights=default_weights,
            tiny=tiny,
            model_types=("mobilevitv2",),
            weights_license=lambda options: "Apple's own (the model card says `other`)",
        )
    ]
