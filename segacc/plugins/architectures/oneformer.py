"""OneFormer (Jain et al., CVPR 2023) for the semantic task, with a Swin encoder.

It is trained without the paper's query-text contrastive loss. That loss compares each image with
the texts of all images in a batch, so it is not a sum over images and would depend on how a batch
is split. It also needs the vocabulary of CLIP's tokenizer, which a weights folder may not contain.
The text encoder, which only that loss uses, is not built.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt
from pydantic import PositiveInt

from segacc.contracts import Facts
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.mask2former import PointOptions, Variant, swin_config

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

# "the task is semantic" in CLIP's tokens, as returned by OneFormerProcessor; padded with zeros.
SEMANTIC_TASK = (49406, 518, 10549, 533, 29119, 1550, 49407)


@dataclass(frozen=True, kw_only=True)
class OneFormerOptions(PointOptions):
    """Options of OneFormer."""

    variant: Variant = "swin_tiny"
    """Encoder: swin_tiny gives 51 million parameters, swin_large 219; tiny gives 0.3, for tests.
    Pretrained weights exist for swin_tiny and swin_large."""
    num_queries: PositiveInt = 150
    """Number of predicted masks per image; should exceed the number of classes in an image."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Stochastic depth rate of the encoder, increasing linearly with depth."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoders."""


def build(options: OneFormerOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; masks at 1/4 of the image size."""
    import scipy.optimize  # noqa: F401  (transformers needs it to build the loss)
    from transformers import (
        MaskFormerImageProcessor,
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
    )

    from segacc.model.mask_classification import OneFormerModel
    from segacc.model.transformers_model import make_config

    small = options.variant == "tiny"
    width, inner, heads = (64, 64, 2) if small else (256, 2048, 8)
    config = make_config(
        OneFormerConfig,
        options,
        facts,
        backbone_config=swin_config(options.variant, options.drop_path),
        conv_dim=width,
        mask_dim=width,
        hidden_dim=width,
        encoder_feedforward_dim=inner if small else 1024,
        dim_feedforward=inner,
        num_attention_heads=heads,
        encoder_layers=1 if small else 6,
        decoder_layers=3 if small else 10,
        query_dec_layers=1 if small else 2,
        dropout=options.dropout,
        **options.loss_settings(),
    )
    config.is_training = False  # published folders have True, which requires text inputs
    network: Any = OneFormerForUniversalSegmentation(config).float()  # one tensor is float64
    model = OneFormerModel(
        network,
        # OneFormer's own processor requests class names from the Hub when it is loaded; pixels and
        # semantic map are the same.
        MaskFormerImageProcessor(
            do_resize=False, do_reduce_labels=False, ignore_index=facts.ignore_index
        ),
        task=SEMANTIC_TASK,
        encoder="model.pixel_level_module.encoder",
        classifiers=["model.transformer_module.decoder.class_embed"],
        num_queries=config.num_queries,
        as_stored=["num_queries"],
    )
    model._no_split_modules = (
        "SwinLayer",
        "OneFormerPixelDecoderEncoderLayer",
        "OneFormerTransformerDecoderLayer",
    )
    return model


def default_weights(options: OneFormerOptions) -> str | None:
    """Return the weights of the variant that were trained on ADE20K, if there are any."""
    size = options.variant.removeprefix("swin_")
    published = options.variant in ("swin_tiny", "swin_large")
    return f"shi-labs/oneformer_ade20k_swin_{size}" if published else None


def tiny() -> OneFormerOptions:
    """Return options of a network of 0.3 million parameters."""
    return OneFormerOptions(
        variant="tiny", num_queries=6, train_num_points=64, drop_path=0.0, dropout=0.0
    )


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register OneFormer."""
    return [
        Architecture(
            name="oneformer",
            summary="mask classification, task token (Jain et al. 2023), Swin, trained without the "
            "contrastive loss; needs scipy",
            options=OneFormerOptions,
            build=build,
            default_weights=default_weights,
            tiny=tiny,
            model_types=("oneformer",),
        )
    ]
