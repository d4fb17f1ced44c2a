"""OneFormer (Jain et al., CVPR 2023) for the semantic task, with a Swin encoder.

It is trained without the paper's query-text contrastive loss. That loss compares each image with
the texts of all images in a batch, so it is not a sum over images and would depend on how a batch
is split. It also needs the vocabulary of CLIP's tokenizer, which a weights folder may not contain.
The text encoder, which only that loss uses, is not built.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt
from pydantic import PositiveInt

from segacc.contracts import Facts
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.mask2former import (
    QueryOptions,
    Variant,
    decoder_config,
    wrap,
)

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

# "the task is semantic" in CLIP's tokens, as returned by OneFormerProcessor; padded with zeros.
SEMANTIC_TASK = (49406, 518, 10549, 533, 29119, 1550, 49407)


@dataclass(frozen=True, kw_only=True)
class OneFormerOptions(QueryOptions):
    """Options of OneFormer."""

    variant: Variant = "swin_tiny"
    """Encoder: swin_tiny gives 51 million parameters, swin_large 219; tiny gives 0.3, for tests.
    Pretrained weights exist for swin_tiny and swin_large."""
    num_queries: PositiveInt = 150
    """Number of predicted masks per image; should exceed the number of classes in an image."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoders."""


def build(options: OneFormerOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; masks at 1/4 of the image size."""
    from transformers import (
        MaskFormerImageProcessor,
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
    )

    from segacc.model.mask_classification import OneFormerModel
    from segacc.model.transformers_model import make_config

    small = options.variant == "tiny"
    sizes = decoder_config(options, small=small)
    width = sizes["hidden_dim"]
    more = {"conv_dim": width, "mask_dim": width, "query_dec_layers": 1 if small else 2}
    config = make_config(OneFormerConfig, options, facts, **sizes, **more)
    config.is_training = False  # published folders have True, which requires text inputs
    return wrap(
        OneFormerModel,
        OneFormerForUniversalSegmentation(config).float(),  # one tensor is float64
        # OneFormer's own processor requests class names from the Hub when it is loaded; pixels and
        # semantic map are the same.
        MaskFormerImageProcessor,
        facts,
        task=SEMANTIC_TASK,
        classifiers=["model.transformer_module.decoder.class_embed"],
        units=(
            "SwinLayer",
            "OneFormerPixelDecoderEncoderLayer",
            "OneFormerTransformerDecoderLayer",
        ),
    )


def default_weights(options: OneFormerOptions) -> str | None:
    """Return the weights of the variant that were trained on ADE20K, if there are any."""
    size = options.variant.removeprefix("swin_")
    published = options.variant in ("swin_tiny", "swin_large")
    return f"shi-labs/oneformer_ade20k_swin_{size}" if published else None


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
            tiny=lambda: OneFormerOptions(
                variant="tiny", num_queries=6, train_num_points=64, drop_path=0.0, dropout=0.0
            ),
            model_types=("oneformer",),
            weights_license=lambda options: "MIT",
        )
    ]
