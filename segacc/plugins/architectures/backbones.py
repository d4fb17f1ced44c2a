"""Backbones by name and size, for heads on feature maps: `upernet` and `linear`.

Importing this module is cheap: transformers and timm are imported inside the functions.
"""

import importlib
from typing import TYPE_CHECKING, Any

from segacc.errors import WeightsError, did_you_mean
from segacc.plugins.architectures import timm_backbones
from segacc.plugins.architectures.backbone_records import Backbone
from segacc.plugins.architectures.backbone_table import BACKBONES, UNUSABLE

if TYPE_CHECKING:
    from segacc.model import SizeRule

__all__ = [
    "BACKBONES",
    "TEST",
    "TIMM",
    "Backbone",
    "backbone_config",
    "check_backbone",
    "default_size",
    "encoder_id",
    "image_processor",
    "set_channels",
    "size_rule",
    "unit_of",
]

TIMM = "timm/"
"""Prefix of the names of timm's networks."""
TEST = "test"
"""Name of each backbone's test size: `Backbone.tiny`."""


def check_backbone(name: str, size: str) -> None:
    """Reject an unknown backbone or size. An empty size is the default size.

    Raises:
        ValueError: the backbone or size is unknown or unusable; the message is for users.
    """
    if name.startswith(TIMM) and name != TIMM:
        if size:
            raise ValueError(f"{name} has only one size; leave out size")
        return
    if name in UNUSABLE:
        raise ValueError(f"the backbone {name} cannot be used: {UNUSABLE[name]}")
    if name not in BACKBONES:
        known = f"Known: {', '.join(BACKBONES)}, and timm/NAME for a network of timm"
        raise ValueError(f'unknown backbone "{name}". {did_you_mean(name, BACKBONES)}{known}')
    sizes = (*BACKBONES[name].sizes, TEST)
    if size and size not in sizes:
        known = f"Known: {', '.join(sizes)}"
        raise ValueError(f'{name} has no size "{size}". {did_you_mean(size, sizes)}{known}')


def default_size(name: str) -> str:
    """Return the default size; empty for a network of timm."""
    return "" if name.startswith(TIMM) else next(iter(BACKBONES[name].sizes))


def backbone_config(
    name: str,
    size: str = "",
    *,
    num_channels: int = 3,
    image_size: tuple[int, int] | None = None,
    maps: int = 4,
    drop_path: float | None = None,
) -> Any:
    """Build the config of a backbone.

    Args:
        name: a key of BACKBONES, or `timm/<name>`.
        size: one of its sizes, `test`, or empty for the default.
        num_channels: number of image channels.
        image_size: (height, width) of the crops; a backbone with a fixed size is built for the
            largest valid square in it.
        maps: 4 for a pyramid from fine to coarse (for a plain ViT: from early to late layers, all
            of one size); 1 for the last map only.
        drop_path: stochastic depth rate, increasing with depth; None keeps the published value.

    Raises:
        ValueError: `drop_path` is given, but the backbone has none.
        ModuleNotFoundError: the package `timm` is needed and not installed.
    """
    if name.startswith(TIMM):
        if drop_path is not None:
            raise ValueError(f"{name} does not support drop_path")
        return timm_backbones.config(name.removeprefix(TIMM), num_channels, maps)
    backbone = BACKBONES[name]
    values: dict[str, Any] = {**backbone.common, "num_channels": num_channels}
    values |= backbone.tiny if size == TEST else backbone.sizes[size or default_size(name)]
    if drop_path is not None:
        if not backbone.drop_path:
            raise ValueError(f"{name} has no drop_path")
        values[backbone.drop_path] = drop_path
    if backbone.fixed and image_size is not None:
        side = max(min(image_size) // backbone.multiple, 1) * backbone.multiple
        values["image_size"] = [side, side]
    config_class = getattr(importlib.import_module("transformers"), backbone.config)
    stages = [name for name in config_class(**values).stage_names if name != "stem"]
    more = backbone.pyramid if maps > 1 else {}
    config = config_class(**values, **more, out_features=evenly_spaced(stages, maps))
    set_channels(config, num_channels)
    return config


def evenly_spaced(stages: list[str], maps: int) -> list[str]:
    """Select that many evenly spaced stages, including the last; `stages` excludes the stem."""
    return [stages[(k + 1) * len(stages) // maps - 1] for k in range(maps)]


def set_channels(config: Any, num_channels: int) -> None:
    """Set the number of input channels everywhere in a backbone's config."""
    config.num_channels = num_channels
    if hasattr(config, "stem_channels"):  # HGNetV2 has it twice
        config.stem_channels = [num_channels, *config.stem_channels[1:]]


def encoder_id(name: str, size: str) -> str | None:
    """Return the Hub id of published encoder weights, or None."""
    if name.startswith(TIMM):
        return timm_backbones.hub_id(name.removeprefix(TIMM))
    return BACKBONES[name].hub.get(size or default_size(name))


def encoder_license(name: str) -> str:
    """Return the licence of a backbone's published weights; empty if unknown."""
    return "" if name.startswith(TIMM) else BACKBONES[name].license


def size_rule(config: Any) -> "SizeRule":
    """Return the image sizes that a backbone accepts, from its config.

    An accepted size is used completely: a plain ViT and ConvNeXt's first layer would silently drop
    incomplete patches at the border.
    """
    from segacc.model import SizeRule

    if config.model_type == "timm_backbone":
        facts = timm_backbones.facts_of(config.backbone)
        if facts.fixed:
            return SizeRule(fixed=facts.fixed)
        return SizeRule(multiple=facts.multiple, minimum=max(facts.strides))
    backbone = _family(config)
    if backbone.fixed:
        height, width = config.image_size
        return SizeRule(fixed=(height, width))
    patch = getattr(config, "patch_size", None)
    multiple = patch if backbone.multiple > 1 and isinstance(patch, int) else backbone.multiple
    return SizeRule(multiple=multiple, minimum=max(backbone.minimum, multiple))


def image_processor(config: Any) -> Any:
    """Build the image processor for a backbone, with its mean, std and fixed size, if any."""
    from transformers import SegformerImageProcessor

    if config.model_type == "timm_backbone":
        mean, std = timm_backbones.facts_of(config.backbone).normalization
    else:
        mean, std = _family(config).normalization
    fixed = size_rule(config).fixed
    resize = {"size": {"height": fixed[0], "width": fixed[1]}} if fixed else {}
    return SegformerImageProcessor(
        do_resize=fixed is not None,
        do_reduce_labels=False,
        image_mean=list(mean),
        image_std=list(std),
        **resize,
    )


def unit_of(config: Any) -> tuple[str, ...]:
    """Return the class names that FSDP wraps as units: the backbone's layers."""
    return () if config.model_type == "timm_backbone" else (_family(config).unit,)


def _family(config: Any) -> Backbone:
    if config.model_type not in BACKBONES:
        raise WeightsError(
            f"segacc does not know the backbone {config.model_type}. Known: {', '.join(BACKBONES)}."
        )
    return BACKBONES[config.model_type]
