"""DPT (Ranftl et al., ICCV 2021): a ViT whose blocks are reassembled into a feature pyramid.

On its own ViT it is transformers' network, whose weights are published; on any other plain ViT,
such as DINOv3, it is the same decoder on the patch tokens of four layers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt
from pydantic import BeforeValidator

from segacc.contracts import Facts, TransformersOptions
from segacc.errors import OptionError
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbones import (
    TEST,
    backbone_config,
    check_backbone,
    check_drop_path,
    encoder_id,
    encoder_license,
    is_plain,
    plain_width,
    wrap,
)

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

    variant: Literal["large", "hybrid", "tiny"] | None = None
    """Size, by default large: ViT-Large with 344 million parameters; hybrid (ResNet-50 under
    ViT-Base) has 124 million; tiny has 78 thousand, for tests."""
    backbone: str = ""
    """Plain ViT in place of the variants': dinov2, dinov2_with_registers, dinov3_vit, beit, or
    timm/NAME; the decoder reads four evenly spaced layers, without class token."""
    size: Annotated[str, BeforeValidator(str)] = ""
    """Published size of `backbone`, e.g. base; empty for the default; `test` also makes the decoder
    very small, for tests."""
    drop_path: Annotated[float, Ge(0), Lt(1)] | None = None
    """Stochastic depth rate of `backbone`, increasing linearly with depth; default: as in
    transformers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the decoder."""
    auxiliary: bool = True
    """Train an auxiliary head on the decoder's last feature map."""
    auxiliary_weight: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss."""

    def __post_init__(self) -> None:
        """Reject an unknown backbone or size, and two encoders."""
        super().__post_init__()
        if not self.backbone:
            for name in ("size", "drop_path"):
                if getattr(self, name) not in ("", None):
                    raise ValueError(f"{name} is that of backbone, which is missing")
            return
        if self.variant:
            raise ValueError("variant and backbone are two encoders; leave one of them out")
        check_backbone(self.backbone, self.size)
        check_drop_path(self.backbone, self.drop_path)


def build(options: DptOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at the image size.

    Raises:
        OptionError: the crop is not square or not a multiple of 32, or the backbone is no plain
            ViT.
        WeightsError: `config` is not a folder with a supported DPT.
    """
    from segacc.model.transformers_weights import read_config

    found = read_config(options.config) if options.config else {}
    on_backbone = options.backbone or found.get("model_type") == "segacc_dpt"
    return (_build_on_backbone if on_backbone else _build_own)(options, facts)


def _build_on_backbone(options: DptOptions, facts: Facts) -> "SegmentationModel":
    """Build DPT's decoder on a plain ViT; logits 16 per patch in height and width."""
    from segacc.model.networks.configs import DptSegConfig
    from segacc.model.networks.dpt import DptForSemanticSegmentation
    from segacc.model.transformers_model import make_config

    sizes = _sizes_on_backbone(options, facts) if options.backbone else {}
    network: Any = DptForSemanticSegmentation(make_config(DptSegConfig, options, facts, **sizes))
    model = wrap(
        network,
        multiple=2,
        classifiers=["head.head.4", "auxiliary_head.head.4"],
        auxiliary=("auxiliary_head", network.config.auxiliary_loss_weight),
    )
    model._no_split_modules = (*model._no_split_modules, "DPTFeatureFusionLayer")
    return model


def _sizes_on_backbone(options: DptOptions, facts: Facts) -> dict[str, Any]:
    """Return the arguments of DptSegConfig: reassembled maps of 1/4, 1/2, 1 and 1 of the width."""
    name, channels = options.backbone, facts.num_channels
    if not is_plain(name):
        raise OptionError(
            f"--arch dpt: backbone={name}: DPT needs a plain ViT, such as dinov3_vit; {name} has "
            "feature maps of several sizes, for which there is upernet."
        )
    more: dict[str, Any] = {"num_channels": channels, "drop_path": options.drop_path}
    config = backbone_config(name, options.size, image_size=facts.crop_size, pyramid=False, **more)
    width = plain_width(config)
    return {
        "backbone_config": config,
        "neck_hidden_sizes": [width // 4, width // 2, width, width],
        "fusion_hidden_size": 16 if options.size == TEST else 256,
        "dropout": options.dropout,
        "auxiliary_loss_weight": options.auxiliary_weight if options.auxiliary else 0.0,
    }


def _build_own(options: DptOptions, facts: Facts) -> "SegmentationModel":
    """Build transformers' DPT on its own ViT."""
    from transformers import DPTConfig, DPTForSemanticSegmentation, DPTImageProcessor

    from segacc.model import SizeRule
    from segacc.model.transformers_model import TransformersModel, make_config, square_side

    side = square_side(facts, STEP) if options.config is None else STEP
    sizes = SIZES[options.variant or "large"]
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
    """Return the authors' weights: trained on ADE20K, or for depth estimation (hybrid).

    For a backbone, they are those of its encoder.
    """
    if options.backbone:
        return encoder_id(options)
    published = {"large": "Intel/dpt-large-ade", "hybrid": "Intel/dpt-hybrid-midas"}
    return published.get(options.variant or "large")


def weights_license(options: DptOptions) -> str:
    """Return the licence of the default weights."""
    return encoder_license(options) if options.backbone else "Apache-2.0"


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register DPT."""
    return [
        Architecture(
            name="dpt",
            summary="DPT (Ranftl et al. 2021): ViT, convolutional decoder, large, hybrid, or any "
            "plain ViT",
            options=DptOptions,
            build=build,
            default_weights=default_weights,
            tiny=lambda: DptOptions(variant="tiny", dropout=0.0),
            model_types=("dpt", "segacc_dpt"),
            weights_license=weights_license,
        )
    ]
