"""segmentation-models-pytorch (SMP) for segacc: `--arch smp:decoder=unet,encoder=resnet34`.

Importing this module is cheap: SMP, timm and torch are imported where they are needed.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from segacc import Architecture, Facts, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

CLASSES = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "manet": "MAnet",
    "linknet": "Linknet",
    "fpn": "FPN",
    "pspnet": "PSPNet",
    "pan": "PAN",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3Plus",
    "upernet": "UPerNet",
    "segformer": "Segformer",
    "dpt": "DPT",
}
"""SMP's classes by the name of the decoder."""
TIMM = "tu-"
"""SMP's prefix of timm's networks."""
OWN = ("encoder_name", "encoder_depth", "encoder_weights", "in_channels", "classes")
FIXED = ("activation", "aux_params", "upsampling", "pretrained")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of smp."""

    decoder: Literal[
        "unet",
        "unetplusplus",
        "manet",
        "linknet",
        "fpn",
        "pspnet",
        "pan",
        "deeplabv3",
        "deeplabv3plus",
        "upernet",
        "segformer",
        "dpt",
    ] = "unet"
    """Decoder: one of SMP's networks."""
    encoder: str = ""
    """Encoder as SMP names it: resnet34, mit_b2, efficientnet-b3, ..., or tu-NAME for a network of
    timm. Default: resnet34; for dpt, which needs a ViT of timm,
    tu-vit_base_patch16_224.augreg_in21k."""
    depth: Annotated[int, Ge(3), Le(5)] | None = None
    """Number of the encoder's stages (SMP's encoder_depth); each halves the resolution. Default:
    SMP's, which is 5 but for pspnet (3) and dpt (4 maps of one size)."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """More arguments of SMP's class, e.g. `kwargs={decoder_channels: [128, 64, 32, 16, 8]}`."""

    def __post_init__(self) -> None:
        """Reject arguments that other options or the run determine."""
        if taken := [name for name in self.kwargs if name in OWN]:
            raise ValueError(
                f"kwargs: {', '.join(taken)} cannot be set here; the options encoder and depth, "
                "--weights, and the classes and channels of the run determine them"
            )
        if fixed := [name for name in self.kwargs if name in FIXED]:
            raise ValueError(
                f"kwargs: {', '.join(fixed)} cannot be set; segacc takes plain logits at the "
                "resolution of the decoder, and loads weights by --weights"
            )

    @property
    def encoder_name(self) -> str:
        """The encoder, or the default one of the decoder."""
        default = "tu-vit_base_patch16_224.augreg_in21k" if self.decoder == "dpt" else "resnet34"
        return self.encoder or default


def build(options: Options, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at the resolution of the decoder.

    Raises:
        OptionError: there is no such encoder, or SMP refuses it for this decoder.
    """
    from segacc_smp.network import SMPModel

    return SMPModel(options, facts)


def default_weights(options: Options) -> str | None:
    """Return the Hub id of the encoder's weights that SMP loads by default; None if it has none."""
    from segacc_smp.network import encoder_hub_id

    return encoder_hub_id(options.encoder_name)


def weights_license(options: Options) -> str:
    """Return the licence of timm's weights; empty for SMP's, which are of many authors."""
    from segacc_smp.network import timm_config

    return getattr(timm_config(options.encoder_name), "license", None) or ""


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register smp."""
    return [
        Architecture(
            name="smp",
            summary="segmentation-models-pytorch: U-Net, FPN, PAN, ... on 76 encoders and timm's",
            options=Options,
            build=build,
            default_weights=default_weights,
            tiny=lambda: Options(
                encoder="tu-test_resnet", kwargs={"decoder_channels": [16, 16, 8, 8, 8]}
            ),
            variants=tuple(f"decoder={name}" for name in CLASSES),
            weights_license=weights_license,
        )
    ]
