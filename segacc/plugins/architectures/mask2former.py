"""Mask2Former (Cheng et al., CVPR 2022), with any encoder, and MaskFormer (NeurIPS 2021), Swin."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import BeforeValidator, PositiveInt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbones import (
    TEST,
    check_backbone,
    check_drop_path,
    encoder_id,
    encoder_license,
    properties,
    pyramid_config,
)

if TYPE_CHECKING:
    from segacc.model import SegmentationModel
    from segacc.model.mask_classification import MaskModel

Variant = Literal["swin_tiny", "swin_small", "swin_base", "swin_large", "tiny"]

# Width of the first stage, depths, heads, window, image size: Liu et al., Swin, ICCV 2021, section
# 3.3; the two large ones as trained at 384 pixels. `tiny` is not published.
SWIN = {
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 224),
    "swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7, 224),
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12, 384),
    "swin_large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12, 384),
    "tiny": (8, (1, 1, 1, 1), (1, 1, 2, 2), 4, 64),
}

ZOO_LICENSE = "CC BY-NC 4.0"
"""Licence of the published networks, as MODEL_ZOO.md of their authors' repositories states it."""
ENCODER = "model.pixel_level_module.encoder"
"""Name of the encoder in the networks of transformers."""


@dataclass(frozen=True, kw_only=True)
class MaskOptions(TransformersOptions):
    """Common options of mask classification networks."""

    num_queries: PositiveInt = 100
    """Number of predicted masks per image; should exceed the number of classes in an image."""
    no_object_weight: Annotated[float, Gt(0)] = 0.1
    """Weight of the class "no object" in the class loss."""


@dataclass(frozen=True, kw_only=True)
class PointOptions(MaskOptions):
    """Common options of networks that compare masks at sampled points."""

    train_num_points: PositiveInt = 12544
    """Number of points at which a mask is compared with the label; 12544 is 112 x 112."""
    class_weight: Annotated[float, Ge(0)] = 2.0
    """Weight of the class loss and of the class cost in matching."""
    mask_weight: Annotated[float, Ge(0)] = 5.0
    """Weight of the masks' cross-entropy loss and of its cost in matching."""
    dice_weight: Annotated[float, Ge(0)] = 5.0
    """Weight of the masks' dice loss and of its cost in matching."""

    def loss_settings(self) -> dict[str, Any]:
        """Return number of queries, points and weights by the names in transformers' configs."""
        return {
            "num_queries": self.num_queries,
            "train_num_points": self.train_num_points,
            "class_weight": self.class_weight,
            "mask_weight": self.mask_weight,
            "dice_weight": self.dice_weight,
            "no_object_weight": self.no_object_weight,
        }


@dataclass(frozen=True, kw_only=True)
class QueryOptions(PointOptions):
    """Common options of Mask2Former and OneFormer."""

    variant: Variant | None = None
    """Encoder, see there."""
    drop_path: Annotated[float, Ge(0), Lt(1)] | None = 0.3
    """Stochastic depth rate of the encoder, increasing linearly with depth."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout probability in the decoders."""


@dataclass(frozen=True, kw_only=True)
class Mask2FormerOptions(QueryOptions):
    """Options of Mask2Former."""

    variant: Variant | None = None
    """Swin encoder, by default swin_tiny, which gives 47 million parameters, swin_small 69,
    swin_base 107, swin_large 215; tiny gives 0.3, for tests."""
    backbone: str = ""
    """Encoder in place of Swin: any backbone of `upernet`. The plain ViTs (dinov2,
    dinov2_with_registers, dinov3_vit, beit, and those of timm/NAME) get a simple feature pyramid as
    in ViTDet."""
    size: Annotated[str, BeforeValidator(str)] = ""
    """Published size of `backbone`, e.g. base; empty for the default; `test` also makes the decoder
    very small, for tests."""
    drop_path: Annotated[float, Ge(0), Lt(1)] | None = None
    """Stochastic depth rate of the encoder, increasing linearly with depth; default 0.3 for the
    variants, with `backbone` as in transformers."""

    def __post_init__(self) -> None:
        """Reject an unknown backbone or size, and two encoders."""
        super().__post_init__()
        if not self.backbone:
            if self.size:
                raise ValueError("size is the size of backbone, which is missing")
            return
        if self.variant:
            raise ValueError("variant and backbone are two encoders; leave one of them out")
        check_backbone(self.backbone, self.size)
        check_drop_path(self.backbone, self.drop_path)


@dataclass(frozen=True, kw_only=True)
class MaskFormerOptions(MaskOptions):
    """Options of MaskFormer."""

    variant: Variant = "swin_tiny"
    """Encoder: swin_tiny gives 42 million parameters, swin_small 63, swin_base 102, swin_large 212;
    tiny gives 0.3, for tests."""
    class_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the class loss; its cost in matching has weight 1."""
    mask_weight: Annotated[float, Ge(0)] = 20.0
    """Weight of the masks' focal loss and of its cost in matching."""
    dice_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the masks' dice loss and of its cost in matching."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Stochastic depth rate of the encoder, increasing linearly with depth."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability in the transformer decoder."""


def swin_config(variant: str | None, drop_path: float | None) -> dict[str, Any]:
    """Return the config of a Swin encoder with four output feature maps."""
    width, depths, heads, window, image_size = SWIN[variant or "swin_tiny"]
    return {
        "model_type": "swin",
        "embed_dim": width,
        "depths": list(depths),
        "num_heads": list(heads),
        "window_size": window,
        "image_size": image_size,
        "drop_path_rate": 0.3 if drop_path is None else drop_path,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }


def decoder_config(options: QueryOptions, *, small: bool) -> dict[str, Any]:
    """Return the sizes that Mask2Former and OneFormer have in common, very small for tests."""
    width, inner, heads = (64, 64, 2) if small else (256, 2048, 8)
    return {
        "backbone_config": swin_config(options.variant, options.drop_path),
        "hidden_dim": width,
        "encoder_feedforward_dim": inner if small else 1024,
        "dim_feedforward": inner,
        "num_attention_heads": heads,
        "encoder_layers": 1 if small else 6,
        "decoder_layers": 3 if small else 10,
        "dropout": options.dropout,
        **options.loss_settings(),
    }


def wrap(
    model_class: type["MaskModel"], network: Any, processor: Any, facts: Facts, **more: Any
) -> "SegmentationModel":
    """Wrap a network in one of the classes of `mask_classification`."""
    return model_class(
        network,
        processor(do_resize=False, do_reduce_labels=False, ignore_index=facts.ignore_index),
        **{"encoder": ENCODER, **more},
    )


def build_mask2former(options: Mask2FormerOptions, facts: Facts) -> "SegmentationModel":
    """Build Mask2Former with random weights; masks at 1/4 of the image or patch size.

    Raises:
        OptionError: see `pyramid_config`.
        WeightsError: `config` is not a folder with a supported Mask2Former.
    """
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
    )

    from segacc.model.mask_classification import MaskModel
    from segacc.model.transformers_model import make_config
    from segacc.model.transformers_weights import quiet_bars

    sizes = decoder_config(options, small=options.variant == "tiny" or options.size == TEST)
    width = sizes["hidden_dim"]
    if options.backbone:
        sizes["backbone_config"] = pyramid_config(
            options.backbone,
            options.size,
            channels=width,
            num_channels=facts.num_channels,
            image_size=facts.crop_size,
            drop_path=options.drop_path,
        )
    with quiet_bars():  # it warns of any encoder but Swin
        config = make_config(
            Mask2FormerConfig, options, facts, feature_size=width, mask_feature_size=width, **sizes
        )
        network: Any = Mask2FormerForUniversalSegmentation(config)
    encoder = config.backbone_config
    rule, (mean, std), units = properties(encoder)
    decoder = ("Mask2FormerPixelDecoderEncoderLayer", "Mask2FormerMaskedAttentionDecoderLayer")
    return wrap(
        MaskModel,
        network,
        partial(Mask2FormerImageProcessor, image_mean=list(mean), image_std=list(std)),
        facts,
        encoder=f"{ENCODER}.backbone" if hasattr(encoder, "backbone_config") else ENCODER,
        score_size=(384, 384),  # fixed in the image processor
        size_rule=rule,
        units=(*units, *decoder),
    )


def build_maskformer(options: MaskFormerOptions, facts: Facts) -> "SegmentationModel":
    """Build MaskFormer with random weights; masks at 1/4 of the image size."""
    from transformers import (
        MaskFormerConfig,
        MaskFormerForInstanceSegmentation,
        MaskFormerImageProcessor,
    )

    from segacc.model.mask_classification import MaskFormerModel
    from segacc.model.transformers_model import make_config

    small = options.variant == "tiny"
    width = 64 if small else 256
    config = make_config(
        MaskFormerConfig,
        options,
        facts,
        backbone_config=swin_config(options.variant, options.drop_path),
        fpn_feature_size=width,
        mask_feature_size=width,
        decoder_config=detr_config(options, small=small),
        cross_entropy_weight=options.class_weight,
        mask_weight=options.mask_weight,
        dice_weight=options.dice_weight,
        no_object_weight=options.no_object_weight,
    )
    config.use_auxiliary_loss = False  # it breaks a plain forward pass in transformers 5.23
    swin = config.backbone_config
    network: Any = MaskFormerForInstanceSegmentation(config)
    # transformers has replaced it by its own class, and warns when that is loaded.
    config.backbone_config = swin
    return wrap(
        MaskFormerModel,
        network,
        MaskFormerImageProcessor,
        facts,
        num_queries=config.decoder_config.num_queries,
        as_stored=["decoder_config"],
        units=("MaskFormerSwinLayer", "MaskFormerDetrDecoderLayer"),
    )


def detr_config(options: MaskFormerOptions, *, small: bool) -> dict[str, Any]:
    """Return the config of MaskFormer's transformer decoder; its encoder part is never built."""
    width, inner, heads, layers = (64, 64, 2, 2) if small else (256, 2048, 8, 6)
    return {
        "model_type": "detr",
        "d_model": width,
        "decoder_layers": layers,
        "decoder_ffn_dim": inner,
        "decoder_attention_heads": heads,
        "encoder_layers": layers,
        "encoder_ffn_dim": inner,
        "encoder_attention_heads": heads,
        "num_queries": options.num_queries,
        "dropout": options.dropout,
        "backbone_config": {"model_type": "resnet", "out_features": ["stage4"]},
    }


def default_weights(options: Mask2FormerOptions) -> str | None:
    """Return the whole network of the variant, or the published encoder of the backbone."""
    if options.backbone:
        return encoder_id(options)
    variant: Variant = options.variant or "swin_tiny"
    return _weights("facebook/mask2former-swin-{}-ade-semantic", variant)


def weights_license(options: Mask2FormerOptions) -> str:
    """Return the licence of the published weights, whole network or encoder."""
    return encoder_license(options) if options.backbone else ZOO_LICENSE


def _weights(pattern: str, variant: Variant) -> str | None:
    """Return the weights of the variant that were trained on ADE20K."""
    size = variant.removeprefix("swin_")
    return None if variant == "tiny" else pattern.format(size)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register Mask2Former and MaskFormer."""
    return [
        Architecture(
            name="mask2former",
            summary="mask classification, masked attention (Cheng et al. 2022), Swin or any "
            "backbone; needs scipy",
            options=Mask2FormerOptions,
            build=build_mask2former,
            default_weights=default_weights,
            tiny=lambda: Mask2FormerOptions(
                variant="tiny", num_queries=6, train_num_points=64, drop_path=0.0, dropout=0.0
            ),
            model_types=("mask2former",),
            weights_license=weights_license,
        ),
        Architecture(
            name="maskformer",
            summary="mask classification (Cheng et al. 2021), Swin; needs scipy",
            options=MaskFormerOptions,
            build=build_maskformer,
            default_weights=lambda options: _weights(
                "facebook/maskformer-swin-{}-ade", options.variant
            ),
            tiny=lambda: MaskFormerOptions(
                variant="tiny", num_queries=6, drop_path=0.0, dropout=0.0
            ),
            model_types=("maskformer",),
            weights_license=lambda options: ZOO_LICENSE,
        ),
    ]
