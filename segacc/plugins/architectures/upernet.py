"""UPerNet (Xiao et al., ECCV 2018): pyramid pooling and a feature pyramid on any backbone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt

from segacc.contracts import Facts
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbone_table import BACKBONES
from segacc.plugins.architectures.backbones import (
    TEST,
    BackboneOptions,
    backbone_config,
    check_drop_path,
    default_size,
    encoder_id,
    encoder_license,
    wrap,
)

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

WHOLE = {
    "convnext": ("tiny", "small", "base", "large", "xlarge"),
    "swin": ("tiny", "small", "base", "large"),
}
"""Backbones and sizes for which openmmlab published whole networks, trained on ADE20K."""


MMSEG = ("convnext", "swin")
"""Backbones whose networks of mmsegmentation can be loaded."""


@dataclass(frozen=True, kw_only=True)
class UperNetOptions(BackboneOptions):
    """Options of UPerNet."""

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
        """Reject a drop_path that the backbone does not have."""
        super().__post_init__()
        check_drop_path(self.backbone, self.drop_path)


def build(options: UperNetOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at the image size.

    Raises:
        OptionError: timm has no such network, or it has fewer than four feature maps.
        WeightsError: `config` is not a folder with a supported UPerNet.
    """
    from transformers import UperNetConfig, UperNetForSemanticSegmentation

    from segacc.model.transformers_model import make_config
    from segacc.model.weight_files import mmseg

    config = make_config(
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
    model = wrap(
        UperNetForSemanticSegmentation(config),
        classifiers=["decode_head.classifier", "auxiliary_head.classifier"],
        auxiliary=("auxiliary_head", config.auxiliary_loss_weight),
        renamer=mmseg.upernet if config.backbone_config.model_type in MMSEG else None,
    )
    # BEiT's pyramid is never pretrained, although transformers places it in the backbone.
    heads = ("decode_head", "auxiliary_head", "backbone.fpn")
    model.head_prefixes = tuple(f"network.{name}" for name in heads)
    model.one_size = "torch.onnx converts its pyramid of pooled features for one size"
    return model


def default_weights(options: UperNetOptions) -> str | None:
    """Return openmmlab's whole network, trained on ADE20K, or else the published encoder."""
    size = options.size or default_size(options.backbone)
    if options.config is None and size in WHOLE.get(options.backbone, ()):
        return f"openmmlab/upernet-{options.backbone}-{size}"
    return encoder_id(options)


def weights_license(options: UperNetOptions) -> str:
    """Return the licence of the default weights: openmmlab's networks are under MIT."""
    whole = (default_weights(options) or "").startswith("openmmlab/")
    return "MIT" if whole else encoder_license(options)


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
            tiny=lambda: UperNetOptions(size=TEST, hidden_size=16, auxiliary_channels=8),
            model_types=("upernet",),
            variants=tuple(f"backbone={name}" for name in BACKBONES),
            weights_license=weights_license,
        )
    ]
