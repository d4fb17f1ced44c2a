"""SegFormer (Xie et al., NeurIPS 2021): hierarchical transformer encoder, all-MLP decoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

# Depths, hidden sizes, decoder width: tables 1 and 6 of the paper; `tiny` is not published.
SIZES = {
    "tiny": ((1, 1, 1, 1), (8, 8, 16, 16), 16),
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}


@dataclass(frozen=True, kw_only=True)
class SegformerOptions(TransformersOptions):
    """Options of SegFormer."""

    variant: Literal["b0", "b1", "b2", "b3", "b4", "b5", "tiny"] = "b0"
    """Size: b0 has 3.7 million parameters, b5 84.6 million; tiny has 24 thousand, for tests."""
    decoder: Literal["authors", "mmseg"] = "authors"
    """Decoder: that of the authors and of transformers, a linear layer for each feature map; or
    that of mmsegmentation, a 1x1 convolution with batch norm and ReLU, to load its weights."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Stochastic depth rate in training, increasing linearly with depth."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoder."""


def build(options: SegformerOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1/4 of the image size."""
    from transformers import SegformerConfig, SegformerImageProcessor

    from segacc.model import SizeRule
    from segacc.model.networks.configs import NormedSegformerConfig
    from segacc.model.networks.segformer import (
        NormedSegformerForSemanticSegmentation,
        make_segformer,
    )
    from segacc.model.transformers_model import TransformersModel, make_config, stored_type
    from segacc.model.weight_files import mmseg

    normed = options.decoder == "mmseg" or stored_type(options) == NormedSegformerConfig.model_type
    make_network = NormedSegformerForSemanticSegmentation if normed else make_segformer
    depths, hidden_sizes, decoder = SIZES[options.variant]
    heads = (1, 1, 2, 2) if options.variant == "tiny" else (1, 2, 5, 8)
    config = make_config(
        NormedSegformerConfig if normed else SegformerConfig,
        options,
        facts,
        depths=list(depths),
        hidden_sizes=list(hidden_sizes),
        num_attention_heads=list(heads),
        decoder_hidden_size=decoder,
        drop_path_rate=options.drop_path,
        classifier_dropout_prob=options.dropout,
    )
    return TransformersModel(
        make_network(config),
        SegformerImageProcessor(do_resize=False, do_reduce_labels=False),
        encoder="segformer",
        classifiers=["decode_head.classifier"],
        # Smaller images are below the first attention's stride of 8 x 4.
        size_rule=SizeRule(minimum=29),
        renamer=mmseg.segformer,
        units=["SegformerLayer"],
        tokens=not normed,
    )


def default_weights(options: SegformerOptions) -> str | None:
    """Return the ImageNet encoder of the variant, published by the paper's authors."""
    return None if options.variant == "tiny" else f"nvidia/mit-{options.variant}"


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register SegFormer."""
    return [
        Architecture(
            name="segformer",
            summary="hierarchical transformer encoder, all-MLP decoder (Xie et al. 2021), b0-b5",
            options=SegformerOptions,
            build=build,
            default_weights=default_weights,
            tiny=lambda: SegformerOptions(variant="tiny", drop_path=0.0, dropout=0.0),
            model_types=("segformer", "segacc_segformer"),
            variants=tuple(f"variant=b{size}" for size in range(6)),
            weights_license=lambda options: (
                "NVIDIA Source Code License for SegFormer (non-commercial)"
            ),
        )
    ]
