"""Configs of the networks that transformers lacks."""

from typing import Any, ClassVar

from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from segacc.contracts import IGNORE

TINY = "tiny"
"""A narrow MobileNetV3, for tests."""


class OnBackboneConfig(PreTrainedConfig):  # type: ignore[misc]
    """Base class of the configs of networks on a transformers backbone.

    Attributes:
        backbone_config: of any transformers backbone; its `out_features` are the input of the rest.
    """

    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the backbone's config where it is a dict, or that of DINOv2 where it is None."""
        if not isinstance(self.backbone_config, PreTrainedConfig):
            values = {"model_type": "dinov2", **(self.backbone_config or {})}
            self.backbone_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)


class LinearSegConfig(OnBackboneConfig):
    """Config of `LinearForSemanticSegmentation`: a transformers backbone and a linear head.

    Attributes:
        freeze_backbone: whether the backbone is frozen and stays in evaluation mode.
        dropout: dropout probability of whole feature channels before the head.
        initializer_range: standard deviation of the head's initial weights.
        semantic_loss_ignore_index: label that is ignored by the loss of `labels=`.
    """

    model_type = "segacc_linear"
    freeze_backbone: bool = True
    dropout: float = 0.0
    initializer_range: float = 0.01
    semantic_loss_ignore_index: int = IGNORE


class PyramidConfig(BackboneConfigMixin, OnBackboneConfig):  # type: ignore[misc]
    """Config of `PyramidBackbone`: a plain ViT with a simple feature pyramid.

    Attributes:
        channels: channels of the four maps.
    """

    model_type = "segacc_pyramid"
    channels: int = 256

    def __post_init__(self, **kwargs: Any) -> None:
        """Name the four maps, all of which are the output unless `out_features` is given."""
        self.stage_names = ["stem", *(f"stage{k}" for k in range(1, 5))]
        features = kwargs.pop("out_features", None) or self.stage_names[1:]
        self.set_output_features_output_indices(features, kwargs.pop("out_indices", None))
        super().__post_init__(**kwargs)


class DptSegConfig(OnBackboneConfig):
    """Config of `DptForSemanticSegmentation`: DPT's decoder on a plain ViT.

    Attributes:
        neck_hidden_sizes: channels of the four reassembled maps, from fine to coarse.
        fusion_hidden_size: channels of the decoder.
        dropout: dropout probability in the two heads.
        auxiliary_loss_weight: loss weight of the auxiliary head; 0 removes the head.
        initializer_range: standard deviation of the decoder's initial weights.
        semantic_loss_ignore_index: label that is ignored by the loss of `labels=`.
    """

    model_type = "segacc_dpt"
    neck_hidden_sizes: list[int] | tuple[int, ...] = (96, 192, 384, 384)
    fusion_hidden_size: int = 256
    dropout: float = 0.1
    auxiliary_loss_weight: float = 0.4
    initializer_range: float = 0.02
    semantic_loss_ignore_index: int = IGNORE


class DeepLabV3PlusSegConfig(OnBackboneConfig):
    """Config of `DeepLabV3PlusForSemanticSegmentation`, whose backbone is one of timm.

    Attributes:
        timm_arguments: more arguments of the timm network, such as narrow `channels` for tests.
        hidden_size: channels of the decoder.
        low_channels: channels to which the early feature map is reduced.
        dilations: of the three separable convolutions on the last feature map.
        dropout: dropout probability of whole feature channels in the two heads.
        auxiliary_loss_weight: loss weight of the auxiliary head; 0 removes the head.
        auxiliary_channels: channels of the auxiliary head.
        semantic_loss_ignore_index: label that is ignored by the loss of `labels=`.
    """

    model_type = "segacc_deeplabv3plus"
    timm_arguments: dict[str, Any] | None = None
    hidden_size: int = 512
    low_channels: int = 48
    dilations: list[int] | tuple[int, ...] = (12, 24, 36)
    dropout: float = 0.1
    auxiliary_loss_weight: float = 0.4
    auxiliary_channels: int = 256
    semantic_loss_ignore_index: int = IGNORE


class PmtSegConfig(OnBackboneConfig):
    """Config of `PmtForUniversalSegmentation`: PMT's decoder on a plain ViT.

    Attributes:
        freeze_backbone: whether the backbone is frozen and stays in evaluation mode.
        patch_size: side of the backbone's patches in pixels.
        image_size: (height, width) in pixels to which mask logits are resized before the sigmoid:
            that of the crops.
        num_queries: number of predicted masks.
        num_blocks: number of the decoder's blocks.
        intermediate_size: width of the MLP in them.
        class_weight: weight of the class loss.
        mask_weight: weight of the masks' cross-entropy.
        dice_weight: weight of the masks' dice loss.
        no_object_weight: weight of the class "no object" in the class loss.
        train_num_points: number of points at which a mask is compared with the label.
        oversample_ratio: as in transformers' EomtConfig.
        importance_sample_ratio: as in transformers' EomtConfig.
    """

    model_type = "segacc_pmt"
    freeze_backbone: bool = True
    patch_size: int = 14
    image_size: list[int] | tuple[int, int] = (512, 512)
    num_queries: int = 100
    num_blocks: int = 6
    intermediate_size: int = 384
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75


class TorchvisionSegConfig(PreTrainedConfig):  # type: ignore[misc]
    """Base class of the configs of torchvision's segmentation networks.

    Attributes:
        backbone: `mobilenet_v3_large`, `resnet50`, `resnet101`, or `tiny`, for tests.
        num_channels: number of image channels.
        semantic_loss_ignore_index: label that is ignored by the loss of `labels=`.
    """

    backbone: str = "mobilenet_v3_large"
    num_channels: int = 3
    semantic_loss_ignore_index: int = IGNORE


class AuxiliarySegConfig(TorchvisionSegConfig):
    """Base class of the configs with an auxiliary head.

    Attributes:
        auxiliary_loss_weight: loss weight of the auxiliary head; 0 removes the head.
    """

    auxiliary_loss_weight: float = 0.4


class DeepLabV3SegConfig(AuxiliarySegConfig):
    """Config of `DeepLabV3ForSemanticSegmentation`."""

    model_type = "segacc_deeplabv3"


class FCNSegConfig(AuxiliarySegConfig):
    """Config of `FCNForSemanticSegmentation`."""

    model_type = "segacc_fcn"
    backbone: str = "resnet50"


class LRASPPSegConfig(TorchvisionSegConfig):
    """Config of `LRASPPForSemanticSegmentation`."""

    model_type = "segacc_lraspp"


class NormedSegformerConfig(PreTrainedConfig):  # type: ignore[misc]
    """Config of `NormedSegformerForSemanticSegmentation`.

    Attributes: those of transformers' SegformerConfig. That class cannot be its base, because it
    cannot be imported yet when the configs are registered.
    """

    model_type = "segacc_segformer"
    reads: ClassVar[str] = "segformer"
    """model_type of other weights that have the same encoder, with the same names."""

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    sr_ratios: list[int] | tuple[int, ...] = (8, 4, 2, 1)
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 160, 256)
    patch_sizes: list[int] | tuple[int, ...] = (7, 3, 3, 3)
    strides: list[int] | tuple[int, ...] = (4, 2, 2, 2)
    num_attention_heads: list[int] | tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: list[int] | tuple[int, ...] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int = 256
    semantic_loss_ignore_index: int = IGNORE
    reshape_last_stage: bool = True


TORCHVISION_CONFIGS = {
    "deeplabv3": (DeepLabV3SegConfig, "DeepLabV3ForSemanticSegmentation"),
    "fcn": (FCNSegConfig, "FCNForSemanticSegmentation"),
    "lraspp": (LRASPPSegConfig, "LRASPPForSemanticSegmentation"),
}
"""Config and class name of the network, by the prefix of torchvision's names."""


class DDRNetSegConfig(PreTrainedConfig):  # type: ignore[misc]
    """Config of `DDRNetForSemanticSegmentation`.

    Attributes:
        variant: `23_slim`, `23`, or `tiny`, for tests.
        num_channels: number of image channels.
        auxiliary_loss_weight: loss weight of the auxiliary head; 0 removes the head.
        semantic_loss_ignore_index: label that is ignored by the loss of `labels=`.
    """

    model_type = "segacc_ddrnet"

    variant: str = "23_slim"
    num_channels: int = 3
    auxiliary_loss_weight: float = 0.4
    semantic_loss_ignore_index: int = IGNORE


class PIDNetSegConfig(PreTrainedConfig):  # type: ignore[misc]
    """Config of `PIDNetForSemanticSegmentation`.

    Attributes:
        variant: `s`, `m`, `l`, or `tiny`, for tests.
        num_channels: number of image channels.
        auxiliary_loss_weight: loss weight of the auxiliary head; 0 removes the head.
        boundary_loss_weight: loss weight of the boundary head; 0 removes the head.
        semantic_loss_ignore_index: label that is ignored by the loss of `labels=`.
    """

    model_type = "segacc_pidnet"

    variant: str = "s"
    num_channels: int = 3
    auxiliary_loss_weight: float = 0.4
    boundary_loss_weight: float = 20.0
    semantic_loss_ignore_index: int = IGNORE


CONFIGS: tuple[type[PreTrainedConfig], ...] = (
    LinearSegConfig,
    PyramidConfig,
    DptSegConfig,
    DeepLabV3PlusSegConfig,
    PmtSegConfig,
    NormedSegformerConfig,
    *(config for config, _ in TORCHVISION_CONFIGS.values()),
    DDRNetSegConfig,
    PIDNetSegConfig,
)
