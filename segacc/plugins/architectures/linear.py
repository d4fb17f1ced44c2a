"""A linear head on a frozen backbone: the protocol of DINOv2 (Oquab et al., TMLR 2024)."""

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
    """Feature extractor: dinov2, dinov2_with_registers, dinov3_vit, or any other that `upernet`
    takes, timm/NAME for a network of timm among them."""
    size: Annotated[str, BeforeValidator(str)] = ""
    """Published size of the backbone, as small, base, 50, b2; empty is its usual one. A network of
    timm has its size in its name; `test` is a very small one, for tests."""
    layers: Annotated[int, Ge(1)] = 1
    """Feature maps that the head reads: that many last layers of a ViT, or last stages of a
    hierarchy, one beside the other; of a ViT of timm, layers spread evenly."""
    unfreeze: bool = False
    """Train the backbone too. As it is, only the head is trained, which is fast and needs the
    backbone's published weights; the backbone stays in evaluation, without dropout."""

    def __post_init__(self) -> None:
        """Refuse a backbone or size that is not there."""
        super().__post_init__()
        check_backbone(self.backbone, self.size)


def build(options: LinearOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at the resolution of the patches.

    Raises:
        ModuleNotFoundError: a backbone of timm, and the package `timm` is not there.
        OptionError: the backbone has fewer layers than the head is to read.
        WeightsError: `config` is no folder of a network on a backbone that is known here.
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
    """Build the backbone's config, which gives its last layers."""
    size, channels = facts.crop_size, facts.num_channels
    name, layers = options.backbone, options.layers
    if name.startswith(TIMM):  # it refuses too many layers itself
        return backbone_config(name, num_channels=channels, maps=layers)
    config = backbone_config(name, options.size, num_channels=channels, image_size=size, maps=1)
    stages = [stage for stage in config.stage_names if stage != "stem"]
    if layers > len(stages):
        raise OptionError(
            f"--arch linear: layers={layers}: {name} has only {len(stages)} to read from."
        )
    config.out_features = stages[-layers:]
    return config


def default_weights(options: LinearOptions) -> str | None:
    """Name the published encoder of the backbone."""
    if options.config is not None or options.size == TEST:
        return None
    return encoder_id(options.backbone, options.size)


def tiny() -> LinearOptions:
    """Return options of a network of 23 thousand parameters, all trained: they start at random."""
    return LinearOptions(size=TEST, unfreeze=True)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register the linear head."""
    return [
        Architecture(
            name="linear",
            summary="batch norm and a 1x1 convolution on a frozen backbone, as DINOv2 is judged",
            options=LinearOptions,
            build=build,
            default_weights=default_weights,
            tiny=tiny,
            model_types=("segacc_linear",),
            weights_license=lambda options: encoder_license(options.backbone),
        )
    ]
