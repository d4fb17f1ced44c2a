"""DPT (Ranftl et al., ICCV 2021): a ViT whose blocks are reassembled into a feature pyramid."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

PATCH = 16
STEP = 2 * PATCH
"""Image sides must be multiples of this: with an odd number of patches, the size of the coarsest
map (half the patches) is rounded up, and the logits would extend beyond the image."""

# The paper's section 3: ViT-Large, and a ResNet-50 under ViT-Base; `tiny` is not published.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
    },
    "large": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "backbone_out_indices": [5, 11, 17, 23],
        "neck_hidden_sizes": [256, 512, 1024, 1024],
    },
    "hybrid": {
        "is_hybrid": True,
        "neck_hidden_sizes": [256, 512, 768, 768],
        "reassemble_factors": [1, 1, 1, 0.5],
    },
}


@dataclass(frozen=True, kw_only=True)
class DptOptions(TransformersOptions):
    """Options of DPT."""

    variant: Literal["large", "hybrid", "tiny"] = "large"
    """Size: large (ViT-Large) has 344 million parameters, hybrid (ResNet-50 under ViT-Base) 124
    million; tiny has 78 thousand, for tests."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoder."""
    auxiliary: bool = True
    """Train an auxiliary head on the decoder's last feature map."""
    auxiliary_weight: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss."""


def build(options: DptOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at the image size.

    Raises:
        OptionError: the crop is not square or not a multiple of 32.
    """
    from transformers import DPTConfig, DPTForSemanticSegmentation, DPTImageProcessor

    from segacc.model import SizeRule
    from segacc.model.transformers_model import TransformersModel, make_config, square_side

    side = square_side(facts, STEP) if options.config is None else STEP
    sizes = SIZES[options.variant]
    if options.variant == "hybrid":
        sizes = {**sizes, "backbone_featmap_shape": [1, 1024, side // PATCH, side // PATCH]}
    config = make_config(
        DPTConfig,
        options,
        facts,
        **sizes,
        image_size=side,
        patch_size=PATCH,
        use_batch_norm_in_fusion_residual=True,
        semantic_classifier_dropout=options.dropout,
        use_auxiliary_head=options.auxiliary,
        auxiliary_loss_weight=options.auxiliary_weight,
    )
    network: Any = DPTForSemanticSegmentation(config)
    side = config.image_size
    if config.use_auxiliary_head:
        network.auxiliary_head.head[3].p = config.semantic_classifier_dropout  # fixed at 0.1
    units = ["DPTViTLayer", "DPTFeatureFusionLayer"]
    rule = SizeRule(multiple=2 * config.patch_size, square=True)
    if config.is_hybrid:
        units, rule = [*units, "BitBottleneckLayer"], SizeRule(fixed=(side, side))
    return TransformersModel(
        network,
        DPTImageProcessor(
            do_reduce_labels=False,
            size={"height": side, "width": side},
            resample=2,  # bilinear, like segacc
        ),
        encoder="dpt",
        classifiers=["head.head.4", "auxiliary_head.head.4"],
        auxiliary=("auxiliary_head", config.auxiliary_loss_weight),
        size_rule=rule,
        units=units,
    )


def default_weights(options: DptOptions) -> str | None:
    """Return the authors' weights: trained on ADE20K, or for depth estimation (hybrid)."""
    published = {"large": "Intel/dpt-large-ade", "hybrid": "Intel/dpt-hybrid-midas"}
    return published.get(options.variant)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register DPT."""
    return [
        Architecture(
            name="dpt",
            summary="DPT (Ranftl et al. 2021): ViT, convolutional decoder, large and hybrid",
            options=DptOptions,
            build=build,
            default_weights=default_weights,
            tiny=lambda: DptOptions(variant="tiny", dropout=0.0),
            model_types=("dpt",),
            weights_license=lambda options: "Apache-2.0",
        )
    ]
