"""A linear head on a frozen backbone: DINOv2's linear evaluation (Oquab et al., TMLR 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

from segacc.contracts import Facts
from segacc.errors import OptionError
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbones import (
    TEST,
    TIMM,
    BackboneOptions,
    backbone_config,
    encoder_id,
    encoder_license,
    wrap,
)

if TYPE_CHECKING:
    from segacc.model import SegmentationModel


@dataclass(frozen=True, kw_only=True)
class LinearOptions(BackboneOptions):
    """Options of a linear head on a backbone."""

    backbone: str = "dinov2"
    """Backbone: dinov2, dinov2_with_registers, dinov3_vit, or any other backbone of `upernet`,
    including timm/NAME for a network of timm."""
    layers: Annotated[int, Ge(1)] = 1
    """Number of feature maps to concatenate as input of the head: the last layers of a ViT or the
    last stages of a hierarchical backbone; for a ViT of timm, evenly spaced layers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout probability of whole feature channels before the head; 0.1 in DINOv3's."""
    unfreeze: bool = False
    """Train the backbone too. By default only the head is trained, which is fast and requires
    pretrained backbone weights; the backbone then stays in evaluation mode, without dropout."""


def build(options: LinearOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at patch resolution.

    Raises:
        OptionError: the backbone has fewer layers than requested.
        WeightsError: `config` is not a folder with a supported network.
    """
    from segacc.model.networks.configs import LinearSegConfig
    from segacc.model.networks.linear import LinearForSemanticSegmentation
    from segacc.model.transformers_model import make_config

    config = make_config(
        LinearSegConfig,
        options,
        facts,
        backbone_config=_backbone(options, facts),
        dropout=options.dropout,
        freeze_backbone=not options.unfreeze,
    )
    return wrap(LinearForSemanticSegmentation(config), classifiers=["head.classifier"])


def _backbone(options: LinearOptions, facts: Facts) -> Any:
    """Build the backbone's config, which outputs its last layers."""
    size, channels = facts.crop_size, facts.num_channels
    name, layers = options.backbone, options.layers
    if name.startswith(TIMM):  # it checks the number of layers itself
        return backbone_config(name, num_channels=channels, maps=layers)
    config = backbone_config(name, options.size, num_channels=channels, image_size=size, maps=1)
    stages = [stage for stage in config.stage_names if stage != "stem"]
    if layers > len(stages):
        raise OptionError(f"--arch linear: layers={layers}: {name} has only {len(stages)} layers.")
    config.out_features = stages[-layers:]
    return config


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register the linear head."""
    return [
        Architecture(
            name="linear",
            summary="linear probing: batch norm and a 1x1 convolution on a frozen backbone",
            options=LinearOptions,
            build=build,
            default_weights=encoder_id,
            # All of it is trained, as it starts random.
            tiny=lambda: LinearOptions(size=TEST, unfreeze=True),
            model_types=("segacc_linear",),
            weights_license=encoder_license,
        )
    ]
