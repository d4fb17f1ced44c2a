"""Records of the backbone table: one per family, and functions that describe its sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One family of transformers backbones."""

    config: str
    """Name of the config class in transformers."""
    sizes: Mapping[str, Mapping[str, Any]]
    """Arguments of the config by published size; the first size is the default."""
    tiny: Mapping[str, Any]
    """Arguments of the config for a network of a few thousand parameters, for tests."""
    hub: Mapping[str, str] = field(default_factory=dict)
    """Hub id of the published encoder weights by size; a size may have none."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the config for all sizes, unless the size overrides them."""
    pyramid: Mapping[str, Any] = field(default_factory=dict)
    """Additional arguments of the config if four feature maps are requested."""
    multiple: int = 1
    """Height and width must be multiples of this, otherwise pixels at the border are dropped."""
    minimum: int = 1
    """Minimum height and width in pixels."""
    fixed: bool = False
    """Whether a network only accepts images of the size that it was built for."""
    drop_path: str = "drop_path_rate"
    """The config's name for the stochastic depth rate; empty if it has none."""
    unit: str = ""
    """Class name of the modules that FSDP wraps as units."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    """Mean and std of RGB in 0..1 of the published weights."""
    license: str = ""
    """Licence of the published weights as stated in their model cards; empty if unknown."""


def convnext(depths: list[int], width: int) -> dict[str, Any]:
    """Config arguments of a ConvNeXt: the width doubles from stage to stage."""
    return {"depths": depths, "hidden_sizes": [width, 2 * width, 4 * width, 8 * width]}


def swin(width: int, heads: int, middle: int, **more: Any) -> dict[str, Any]:
    """Config arguments of a Swin: heads double with the width; only stage 3 varies in depth."""
    doubled = [heads, 2 * heads, 4 * heads, 8 * heads]
    return {"embed_dim": width, "depths": [2, 2, middle, 2], "num_heads": doubled, **more}


def resnet(depths: list[int], layer_type: str = "bottleneck") -> dict[str, Any]:
    """Config arguments of a ResNet with basic or bottleneck layers."""
    sizes = [64, 128, 256, 512] if layer_type == "basic" else [256, 512, 1024, 2048]
    return {"depths": depths, "hidden_sizes": sizes, "layer_type": layer_type}


def vit(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """Config arguments of a plain vision transformer."""
    named = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**named, **more}


def focalnet(width: int, middle: int, levels: int, ends: int = 2) -> dict[str, Any]:
    """Config arguments of a FocalNet: only the third stage's depth varies, levels are constant."""
    return {
        "embed_dim": width,
        "depths": [ends, ends, middle, ends],
        # The config accepts other values, but only these match the network's downsampling.
        "hidden_sizes": [2 * width, 4 * width, 8 * width, 8 * width],
        "focal_levels": [levels] * 4,
    }


def hiera(width: int, depths: list[int], heads: int) -> dict[str, Any]:
    """Config arguments of a Hiera: heads double from stage to stage."""
    doubled = [heads, 2 * heads, 4 * heads, 8 * heads]
    return {"embed_dim": width, "depths": depths, "num_heads": doubled}


def pvt(
    depths: list[int], width: int = 64, ratios: tuple[int, ...] = (8, 8, 4, 4)
) -> dict[str, Any]:
    """Config arguments of a PVTv2 from depths, first width and MLP ratios."""
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
    """Config arguments of an HGNetV2 from its stem and each stage's widths, blocks and layers."""
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
    """Config arguments of DINOv3's plus and largest sizes: gated MLP, optionally no biases."""
    return {
        "use_gated_mlp": True,
        "hidden_act": "silu",
        "query_bias": bias,
        "value_bias": bias,
    }
