"""What the table of backbones is made of: the record of a family, and how its sizes go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One family of feature extractors of transformers."""

    config: str
    """Name of the config class in transformers."""
    sizes: Mapping[str, Mapping[str, Any]]
    """By published size, what the config takes; the first one is the default."""
    tiny: Mapping[str, Any]
    """What the config takes for a network of a few thousand parameters, for tests."""
    hub: Mapping[str, str] = field(default_factory=dict)
    """By size, the Hub id of published encoder weights; a size may have none."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """What the config takes in every size, unless the size says otherwise."""
    pyramid: Mapping[str, Any] = field(default_factory=dict)
    """What the config takes besides when four maps are asked for."""
    multiple: int = 1
    """Height and width must be multiples of this, or pixels at the end are dropped in silence."""
    minimum: int = 1
    """Pixels that height and width must have at least."""
    fixed: bool = False
    """Whether a network takes only images of the size it was built for."""
    drop_path: str = "drop_path_rate"
    """The config's name for the probability that a residual branch is skipped; empty: none."""
    unit: str = ""
    """Class name of the modules that FSDP wraps as units."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    """Mean and std of RGB in 0..1 that the published weights were trained with."""
    license: str = ""
    """Licence of the published weights, as their model cards state it; empty: not known."""


def convnext(depths: list[int], width: int) -> dict[str, Any]:
    """Describe a ConvNeXt: the width doubles from stage to stage."""
    return {"depths": depths, "hidden_sizes": [width, 2 * width, 4 * width, 8 * width]}


def swin(width: int, heads: int, middle: int, **more: Any) -> dict[str, Any]:
    """Describe a Swin: heads double with the width, only the third stage has another depth."""
    doubled = [heads, 2 * heads, 4 * heads, 8 * heads]
    return {"embed_dim": width, "depths": [2, 2, middle, 2], "num_heads": doubled, **more}


def resnet(depths: list[int], layer_type: str = "bottleneck") -> dict[str, Any]:
    """Describe a ResNet of one of its two kinds of layers."""
    sizes = [64, 128, 256, 512] if layer_type == "basic" else [256, 512, 1024, 2048]
    return {"depths": depths, "hidden_sizes": sizes, "layer_type": layer_type}


def vit(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """Describe a plain vision transformer."""
    named = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**named, **more}


def focalnet(width: int, middle: int, levels: int, ends: int = 2) -> dict[str, Any]:
    """Describe a FocalNet: only the third stage has another depth, all have the same levels."""
    return {
        "embed_dim": width,
        "depths": [ends, ends, middle, ends],
        # The config lets these be chosen, but only these fit the network's own downsampling.
        "hidden_sizes": [2 * width, 4 * width, 8 * width, 8 * width],
        "focal_levels": [levels] * 4,
    }


def hiera(width: int, depths: list[int], heads: int) -> dict[str, Any]:
    """Describe a Hiera: heads double from stage to stage."""
    doubled = [heads, 2 * heads, 4 * heads, 8 * heads]
    return {"embed_dim": width, "depths": depths, "num_heads": doubled}


def pvt(
    depths: list[int], width: int = 64, ratios: tuple[int, ...] = (8, 8, 4, 4)
) -> dict[str, Any]:
    """Describe a PVTv2 by depths, first width and widening of its MLPs."""
    sizes = [width, 2 * width, 5 * width, 8 * width]
    return {"depths": depths, "hidden_sizes": sizes, "mlp_ratios": list(ratios)}


def hgnet(
    stem: list[int],
    middle: list[int],
    out: list[int],
    blocks: list[int],
    *,
    layers: int,
    affine: bool = False,
) -> dict[str, Any]:
    """Describe an HGNetV2 by its stem and, of each stage, widths, blocks and layers a block."""
    return {
        "stem_channels": [3, *stem],
        "stage_in_channels": [stem[1], *out[:3]],
        "stage_mid_channels": middle,
        "stage_out_channels": out,
        "hidden_sizes": out,
        "stage_num_blocks": blocks,
        "stage_numb_of_layers": [layers] * 4,
        "use_learnable_affine_block": affine,
    }


def gated(*, bias: bool = True) -> dict[str, Any]:
    """Describe what DINOv3's plus sizes and the largest have: a gated MLP, perhaps no biases."""
    return {
        "use_gated_mlp": True,
        "hidden_act": "silu",
        "query_bias": bias,
        "value_bias": bias,
    }
