"""A linear head on a frozen backbone: DINOv2's linear evaluation (Oquab et al., TMLR 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge
from pydantic import BeforeValidator

from segacc.contracts import Facts, TransformersOptions
from segacc.errors import OptionError
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbones import (
    TEST,
    TIMM,
    backbone_config,
    check_backbone,
    encoder_id,
    encoder_license,
    image_processor,
    set_channels,
    size_rule,
    unit_of,
)

if TYPE_CHECKING:
    from segacc.model import SegmentationModel


@dataclass(frozen=True, kw_only=True)
class LinearOptions(TransformersOptions):
    """Options of a linear head on a backbone."""

    backbone: str = "dinov2"
    """Backbone: dinov2, dinov2_with_registers, dinov3_vit, or any other backbone of `upernet`,
    including timm/NAME for a network of timm."""
    size: Annotated[str, BeforeValidator(str)] = ""
    """Published size of the backbone, e.g. small, base, 50, b2; empty for the default. The name of
    a timm network includes its size; `test` is a very small one, for tests."""
    layers: Annotated[int, Ge(1)] = 1
    """Number of feature maps to concatenate as input of the head: the last layers of a ViT or the
    last stages of a hierarchical backbone; for a ViT of timm, evenly spaced layers."""
    unfreeze: bool = False
    """Train the backbone too. By default only the head is trained, which is fast and requires
    pretrained backbone weights; the backbone then stays in evaluation mode, without dropout."""

    def __post_init__(self) -> None:
        """Reject an unknown backbone or size."""
        super().__post_init__()
        check_backbone(self.backbone, self.size)


def build(options: LinearOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at patch resolution.

    Raises:
        ModuleNotFoundError: a timm backbone is used, but the package `timm` is not installed.
        OptionError: the backbone has fewer layers than requested.
        WeightsError: `config` is not a folder with a supported network.
    """
    from segacc.model import TransformersModel
    from segacc.model.networks.linear import LinearForSemanticSegmentation

    config = _config(options, facts)
    inner = config.backbone_config
    model = TransformersModel(
        LinearForSemanticSegmentation(config),
        image_processor(inner),
        encoder="backbone",
        classifiers=["head.classifier"],
        size_rule=size_rule(inner),
    )
    model._no_split_modules = unit_of(inner)
    return model


def _config(options: LinearOptions, facts: Facts) -> Any:
    from segacc.model.networks.configs import LinearSegConfig
    from segacc.model.transformers_model import make_config

    if options.config is not None:
        config = make_config(LinearSegConfig, options, facts)
        set_channels(config.backbone_config, facts.num_channels)
        return config
    return make_config(
        LinearSegConfig,
        options,
        facts,
        backbone_config=_backbone(options, facts),
        freeze_backbone=not options.unfreeze,
    )


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


def default_weights(options: LinearOptions) -> str | None:
    """Return the published encoder weights of the backbone."""
    if options.config is not None or options.size == TEST:
        return None
    return encoder_id(options.backbone, options.size)


def tiny() -> LinearOptions:
    """Return options of a network of 23 thousand parameters, all trained, as they start random."""
    return LinearOptions(size=TEST, unfreeze=True)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register the linear head."""
    return [
        Architecture(
            name="linear",
            summary="linear probing: batch norm and a 1x1 convolution on a frozen backbone",
            options=LinearOptions,
            build=build,
            default_weights=default_weights,
            tiny=tiny,
            model_types=("segacc_linear",),
            weights_license=lambda options: encoder_license(options.backbone),
        )
    ]
