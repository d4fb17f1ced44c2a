"""The table of backbones: families, published sizes, Hub ids, licences."""

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
    plain: bool = False
    """Whether it is a plain ViT: all feature maps have one size."""
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


def _ids(pattern: str, *sizes: str) -> dict[str, str]:
    return {size: pattern.format(size) for size in sizes}


_ONES = {"depths": [1, 1, 1, 1]}
_SMALL_VIT = vit(16, 4, 2)
_NARROW = [64, 256, 512, 1024]  # of HGNetV2
_MIDDLE = [32, 64, 128, 256]
_WIDE = [128, 512, 1024, 2048]
_CONVNEXT = {
    "tiny": convnext([3, 3, 9, 3], 96),
    "small": convnext([3, 3, 27, 3], 96),
    "base": convnext([3, 3, 27, 3], 128),
    "large": convnext([3, 3, 27, 3], 192),
}
_DINOV2 = {
    "small": vit(384, 12, 6),
    "base": vit(768, 12, 12),
    "large": vit(1024, 24, 16),
    "giant": vit(1536, 40, 24, use_swiglu_ffn=True),
}

BACKBONES: Mapping[str, Backbone] = {
    "convnext": Backbone(
        config="ConvNextConfig",
        sizes={**_CONVNEXT, "xlarge": convnext([3, 3, 27, 3], 256)},
        hub={
            **_ids("facebook/convnext-{}-224", "tiny", "small", "base", "large"),
            "xlarge": "facebook/convnext-xlarge-224-22k-1k",
        },
        tiny=convnext([1, 1, 1, 1], 4),
        multiple=4,
        minimum=32,
        unit="ConvNextLayer",
        license="Apache-2.0",
    ),
    "convnextv2": Backbone(
        config="ConvNextV2Config",
        sizes={
            "tiny": convnext([3, 3, 9, 3], 96),
            "atto": convnext([2, 2, 6, 2], 40),
            "femto": convnext([2, 2, 6, 2], 48),
            "pico": convnext([2, 2, 6, 2], 64),
            "nano": convnext([2, 2, 8, 2], 80),
            "base": convnext([3, 3, 27, 3], 128),
            "large": convnext([3, 3, 27, 3], 192),
            "huge": convnext([3, 3, 27, 3], 352),
        },
        hub=_ids(
            "facebook/convnextv2-{}-1k-224",
            *("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"),
        ),
        tiny=convnext([1, 1, 1, 1], 4),
        multiple=4,
        minimum=32,
        unit="ConvNextV2Layer",
        license="Apache-2.0",
    ),
    "swin": Backbone(
        config="SwinConfig",
        # base and large have the window of the ADE20K networks that openmmlab published.
        sizes={
            "tiny": swin(96, 3, 6, window_size=7),
            "small": swin(96, 3, 18, window_size=7),
            "base": swin(128, 4, 18, window_size=12),
            "large": swin(192, 6, 18, window_size=12),
        },
        hub={
            **_ids("microsoft/swin-{}-patch4-window7-224", "tiny", "small"),
            **_ids("microsoft/swin-{}-patch4-window12-384", "base", "large"),
        },
        tiny=swin(8, 1, 1, window_size=4) | _ONES,
        unit="SwinLayer",
        license="Apache-2.0",
    ),
    "swinv2": Backbone(
        config="Swinv2Config",
        sizes={
            "tiny": swin(96, 3, 6, window_size=8),
            "small": swin(96, 3, 18, window_size=8),
            "base": swin(128, 4, 18, window_size=8),
            "large": swin(192, 6, 18, window_size=16, pretrained_window_sizes=[12, 12, 12, 6]),
        },
        common={"image_size": 256},
        hub={
            **_ids("microsoft/swinv2-{}-patch4-window8-256", "tiny", "small", "base"),
            "large": "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft",
        },
        tiny=swin(8, 1, 1, window_size=4, image_size=64) | _ONES,
        unit="Swinv2Layer",
        license="Apache-2.0",
    ),
    "resnet": Backbone(
        config="ResNetConfig",
        sizes={
            "50": resnet([3, 4, 6, 3]),
            "18": resnet([2, 2, 2, 2], "basic"),
            "26": resnet([2, 2, 2, 2]),
            "34": resnet([3, 4, 6, 3], "basic"),
            "101": resnet([3, 4, 23, 3]),
            "152": resnet([3, 8, 36, 3]),
        },
        hub=_ids("microsoft/resnet-{}", "18", "26", "34", "50", "101", "152"),
        tiny={"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "layer_type": "basic", **_ONES},
        drop_path="",
        unit="ResNetStage",
        license="Apache-2.0",
    ),
    "dinov2": Backbone(
        config="Dinov2Config",
        sizes=_DINOV2,
        common={"patch_size": 14, "image_size": 518},
        hub=_ids("facebook/dinov2-{}", *_DINOV2),
        tiny={**_SMALL_VIT, "patch_size": 14, "image_size": 56},
        plain=True,
        multiple=14,
        unit="Dinov2Layer",
        license="Apache-2.0",
    ),
    "dinov2_with_registers": Backbone(
        config="Dinov2WithRegistersConfig",
        sizes=_DINOV2,
        common={"patch_size": 14, "image_size": 518},
        hub=_ids("facebook/dinov2-with-registers-{}", *_DINOV2),
        tiny={**_SMALL_VIT, "patch_size": 14, "image_size": 56},
        plain=True,
        multiple=14,
        unit="Dinov2WithRegistersLayer",
        license="Apache-2.0",
    ),
    "dinov3_vit": Backbone(
        config="DINOv3ViTConfig",
        sizes={
            "small": vit(384, 12, 6, intermediate_size=1536),
            "small-plus": vit(384, 12, 6, intermediate_size=1536, **gated()),
            "base": vit(768, 12, 12, intermediate_size=3072),
            "large": vit(1024, 24, 16, intermediate_size=4096),
            "huge-plus": vit(1280, 32, 20, intermediate_size=5120, **gated()),
            "7b": vit(4096, 40, 32, intermediate_size=8192, **gated(bias=False)),
        },
        common={"patch_size": 16, "num_register_tokens": 4},
        hub={
            size: f"facebook/dinov3-vit{short}16-pretrain-lvd1689m".replace("p16", "16plus")
            for size, short in {
                "small": "s",
                "small-plus": "sp",
                "base": "b",
                "large": "l",
                "huge-plus": "hp",
                "7b": "7b",
            }.items()
        },
        tiny={**_SMALL_VIT, "intermediate_size": 32, "num_register_tokens": 1},
        plain=True,
        multiple=16,
        unit="DINOv3ViTLayer",
        license="DINOv3 License",
    ),
    "dinov3_convnext": Backbone(
        config="DINOv3ConvNextConfig",
        sizes=_CONVNEXT,
        hub=_ids("facebook/dinov3-convnext-{}-pretrain-lvd1689m", *_CONVNEXT),
        tiny=convnext([1, 1, 1, 1], 4),
        multiple=4,
        minimum=32,
        unit="DINOv3ConvNextLayer",
        license="DINOv3 License",
    ),
    "beit": Backbone(
        config="BeitConfig",
        sizes={
            "base": vit(768, 12, 12, intermediate_size=3072),
            "large": vit(1024, 24, 16, intermediate_size=4096, layer_scale_init_value=1e-5),
        },
        common={"use_relative_position_bias": True},
        pyramid={"add_fpn": True},
        hub=_ids("microsoft/beit-{}-patch16-224", "base", "large"),
        tiny={**_SMALL_VIT, "intermediate_size": 32, "image_size": 64},
        plain=True,
        multiple=16,
        minimum=32,
        unit="BeitLayer",
        normalization=HALF,
        license="Apache-2.0",
    ),
    "focalnet": Backbone(
        config="FocalNetConfig",
        sizes={
            "tiny": focalnet(96, 6, 2),
            "tiny-lrf": focalnet(96, 6, 3),
            "small": focalnet(96, 18, 2),
            "small-lrf": focalnet(96, 18, 3),
            "base": focalnet(128, 18, 2),
            "base-lrf": focalnet(128, 18, 3),
        },
        hub=_ids(
            "microsoft/focalnet-{}",
            *("tiny", "tiny-lrf", "small", "small-lrf", "base", "base-lrf"),
        ),
        tiny=focalnet(4, 1, 2, ends=1),
        unit="FocalNetLayer",
        license="MIT",
    ),
    "hiera": Backbone(
        config="HieraConfig",
        sizes={
            "tiny": hiera(96, [1, 2, 7, 2], 1),
            "small": hiera(96, [1, 2, 11, 2], 1),
            "base": hiera(96, [2, 3, 16, 3], 1),
            "base-plus": hiera(112, [2, 3, 16, 3], 2),
            "large": hiera(144, [2, 6, 36, 4], 2),
            "huge": hiera(256, [2, 6, 36, 4], 4),
        },
        hub=_ids(
            "facebook/hiera-{}-224-hf", *("tiny", "small", "base", "base-plus", "large", "huge")
        ),
        tiny=hiera(8, [1, 1, 1, 1], 1),
        multiple=32,
        fixed=True,
        unit="HieraLayer",
        license="CC BY-NC 4.0",
    ),
    "pvt_v2": Backbone(
        config="PvtV2Config",
        sizes={
            "b0": pvt([2, 2, 2, 2], 32),
            "b1": pvt([2, 2, 2, 2]),
            "b2": pvt([3, 4, 6, 3]),
            "b3": pvt([3, 4, 18, 3]),
            "b4": pvt([3, 8, 27, 3]),
            "b5": pvt([3, 6, 40, 3], ratios=(4, 4, 4, 4)),
        },
        hub=_ids("OpenGVLab/pvt_v2_{}", "b0", "b1", "b2", "b3", "b4", "b5"),
        tiny={"hidden_sizes": [8, 8, 20, 16], "mlp_ratios": [2, 2, 2, 2], **_ONES},
        minimum=29,
        unit="PvtV2BlockLayer",
        license="Apache-2.0",
    ),
    "hgnet_v2": Backbone(
        config="HGNetV2Config",
        sizes={
            "b4": hgnet([32, 48], [48, 96, 192, 384], _WIDE, [1, 1, 3, 1], layers=6),
            "b0": hgnet([16, 16], [16, 32, 64, 128], _NARROW, [1, 1, 2, 1], layers=3, affine=True),
            "b1": hgnet([24, 32], [32, 48, 96, 192], _NARROW, [1, 1, 2, 1], layers=3, affine=True),
            "b2": hgnet(
                [24, 32], _MIDDLE, [96, 384, 768, 1536], [1, 1, 3, 1], layers=4, affine=True
            ),
            "b3": hgnet([24, 32], _MIDDLE, _WIDE, [1, 1, 3, 1], layers=5, affine=True),
            "b5": hgnet([32, 64], [64, 128, 256, 512], _WIDE, [1, 2, 5, 2], layers=6),
            "b6": hgnet(
                [48, 96], [96, 192, 384, 768], [192, 512, 1024, 2048], [2, 3, 6, 3], layers=6
            ),
        },
        tiny=hgnet([4, 4], [4, 4, 8, 8], [8, 8, 16, 16], [1, 1, 1, 1], layers=1, affine=True),
        drop_path="",
        unit="HGNetV2BasicLayer",
    ),
    "bit": Backbone(
        config="BitConfig",
        sizes={"50": {"depths": [3, 4, 6, 3]}, "101": {"depths": [3, 4, 23, 3]}},
        hub={"50": "google/bit-50"},
        tiny={"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "num_groups": 2, **_ONES},
        unit="BitStage",
        normalization=HALF,
        license="Apache-2.0",
    ),
}
"""The backbones by name; `timm/<name>` is accepted too."""

UNUSABLE = {
    "dinat": "it needs the package natten, which segacc does not support",
    "tipsv2": "it is a pair of an image and a text network",
    "uvdoc_backbone": "transformers cannot build it on its own",
    "vitpose_backbone": "it returns sequences of tokens, not feature maps",
}
"""Backbones of transformers that cannot be used, and the reasons."""
