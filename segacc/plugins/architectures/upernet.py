"""UPerNet (Xiao et al., ECCV 2018): pyramid pooling and a feature pyramid on any backbone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import BeforeValidator

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbones import (
    BACKBONES,
    TEST,
    TIMM,
    backbone_config,
    check_backbone,
    default_size,
    encoder_id,
    encoder_license,
    image_processor,
    set_channels,
    size_rule,
    unit_of,
)

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

WHOLE = {
    "convnext": ("tiny", "small", "base", "large", "xlarge"),
    "swin": ("tiny", "small", "base", "large"),
}
"""Backbones and sizes for which openmmlab published whole networks, trained on ADE20K."""


@dataclass(frozen=True, kw_only=True)
class UperNetOptions(TransformersOptions):
    """Options of UPerNet."""

    backbone: str = "convnext"
    """Backbone: convnext, convnextv2, swin, swinv2, resnet, dinov2, dinov2_with_registers,
    dinov3_vit, dinov3_convnext, beit, focalnet, hiera, pvt_v2, hgnet_v2, bit, or timm/NAME for a
    network of timm."""
    size: Annotated[str, BeforeValidator(str)] = ""
    """Published size of the backbone, e.g. tiny, base, 50, b2; empty for the default. The name of a
    timm network includes its size; `test` is a very small one, for tests."""
    hidden_size: Annotated[int, Gt(0)] = 512
    """Number of channels of the decoder."""
    auxiliary_weight: Annotated[float, Ge(0)] = 0.4
    """Loss weight of the auxiliary head on the third feature map; 0 removes the head."""
    auxiliary_channels: Annotated[int, Gt(0)] = 256
    """Number of channels of the auxiliary head."""
    drop_path: Annotated[float, Ge(0), Lt(1)] | None = None
    """Stochastic depth rate of the backbone, increasing linearly with depth; default: as in
    transformers. Not supported by resnet, hgnet_v2 and timm's networks."""

    def __post_init__(self) -> None:
        """Reject an unknown backbone or size."""
        super().__post_init__()
        check_backbone(self.backbone, self.size)
        if self.drop_path is not None and not _has_drop_path(self.backbone):
            raise ValueError(f"{self.backbone} does not support drop_path; leave it out")


def _has_drop_path(backbone: str) -> bool:
    return not backbone.startswith(TIMM) and bool(BACKBONES[backbone].drop_path)


def build(options: UperNetOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at the image size.

    Raises:
        ModuleNotFoundError: a timm backbone is used, but the package `timm` is not installed.
        OptionError: timm has no such network, or it has fewer than four feature maps.
        WeightsError: `config` is not a folder with a supported UPerNet.
    """
    from transformers import UperNetForSemanticSegmentation

    from segacc.model import TransformersModel

    config = _config(options, facts)
    inner = config.backbone_config
    network: Any = UperNetForSemanticSegmentation(config)
    second = config.use_auxiliary_head
    heads = ["decode_head", "auxiliary_head"] if second else ["decode_head"]
    model = TransformersModel(
        network,
        image_processor(inner),
        encoder="backbone",
        classifiers=[f"{head}.classifier" for head in heads],
        auxiliary=("auxiliary_head", config.auxiliary_loss_weight) if second else None,
        size_rule=size_rule(inner),
    )
    # BEiT's pyramid is never pretrained, although transformers places it in the backbone.
    model.head_prefixes = tuple(f"network.{name}" for name in (*heads, "backbone.fpn"))
    model._no_split_modules = unit_of(inner)
    return model


def _config(options: UperNetOptions, facts: Facts) -> Any:
    from transformers import UperNetConfig

    from segacc.model.transformers_model import make_config

    if options.config is not None:
        config = make_config(UperNetConfig, options, facts)
        set_channels(config.backbone_config, facts.num_channels)
        return config
    return make_config(
        UperNetConfig,
        options,
        facts,
        backbone_config=backbone_config(
            options.backbone,
            options.size,
            num_channels=facts.num_channels,
            image_size=facts.crop_size,
            drop_path=options.drop_path,
        ),
        hidden_size=options.hidden_size,
        use_auxiliary_head=options.auxiliary_weight > 0,
        auxiliary_loss_weight=options.auxiliary_weight,
        auxiliary_channels=options.auxiliary_channels,
    )


def default_weights(options: UperNetOptions) -> str | None:
    """Return openmmlab's whole network, trained on ADE20K, or else the published encoder."""
    if options.config is not None or options.size == TEST:
        return None
    size = options.size or default_size(options.backbone)
    if size in WHOLE.get(options.backbone, ()):
        return f"openmmlab/upernet-{options.backbone}-{size}"
    return encoder_id(options.backbone, size)


def weights_license(options: UperNetOptions) -> str:
    """Return the licence of the default weights: openmmlab's networks are under MIT."""
    whole = (default_weights(options) or "").startswith("openmmlab/")
    return "MIT" if whole else encoder_license(options.backbone)


def tiny() -> UperNetOptions:
    """Return options of a network of 52 thousand parameters."""
    return UperNetOptions(size=TEST, hidden_size=16, auxiliary_channels=8)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register UPerNet."""
    return [
        Architecture(
            name="upernet",
            summary="pyramid pooling and a feature pyramid (Xiao et al. 2018) on any backbone",
            options=UperNetOptions,
            build=build,
            default_weights=default_weights,
            tiny=tiny,
            model_types=("upernet",),
            variants=tuple(f"backbone={name}" for name in BACKBONES),
            weights_license=weights_license,
        )
    ]
