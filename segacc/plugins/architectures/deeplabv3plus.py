"""DeepLabV3+ (Chen et al., ECCV 2018) on dilated networks of timm, as mmsegmentation builds it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.errors import OptionError
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbones import TIMM, timm_facts, timm_published, wrap

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

TINY: Final = "tiny"
NARROW = {"layers": [1, 1, 2, 2], "channels": [4, 8, 16, 32], "stem_width": 2}
"""Arguments with which timm builds a very small resnet50c."""
LOW = 4
"""Stride of the early feature map (section 3.1)."""
UNLIKE = {
    "multi_grid": "its encoder has other dilations in its last stage (multi_grid in the "
    "configuration that the file contains) than the networks of timm, so that logits would differ. "
    "Load the encoder alone by --head fresh."
}
"""Files of mmsegmentation (R-101-D16-MG124) with the tensors of this network that are not its."""


@dataclass(frozen=True, kw_only=True)
class DeepLabV3PlusOptions(TransformersOptions):
    """Options of DeepLabV3+."""

    backbone: str = "timm/resnet50c"
    """Encoder: timm/NAME for a network of timm that can be dilated, such as resnet50c, resnet101c
    (mmsegmentation's ResNetV1c), resnet18d or mobilenetv2_100; tiny for tests. With 19 classes and
    the auxiliary head, the first has 44 million parameters, the second 63."""
    output_stride: Literal[8, 16] = 8
    """Image pixels per position of the last feature map in height and width; 16 needs less memory
    and time."""
    hidden_size: Annotated[int, Gt(0)] = 512
    """Number of channels of the decoder; 256 in the paper."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout probability of whole channels before the classifiers."""
    auxiliary: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss in training; 0 removes the head."""
    auxiliary_channels: Annotated[int, Gt(0)] = 256
    """Number of channels of the auxiliary head."""

    def __post_init__(self) -> None:
        """Reject a backbone that is not timm's."""
        super().__post_init__()
        if self.backbone != TINY and not self.backbone.startswith(TIMM):
            raise ValueError(
                f'backbone="{self.backbone}" is no network of timm; write timm/NAME, such as '
                "timm/resnet50c"
            )


def build(options: DeepLabV3PlusOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; logits at 1/4 of the image size.

    Raises:
        OptionError: timm has no such network, or it cannot be dilated.
        WeightsError: `config` is not a folder with a supported DeepLabV3+.
    """
    from segacc.model.networks.configs import DeepLabV3PlusSegConfig
    from segacc.model.networks.deeplabv3plus import DeepLabV3PlusForSemanticSegmentation
    from segacc.model.transformers_model import make_config
    from segacc.model.weight_files import mmseg

    config = make_config(
        DeepLabV3PlusSegConfig,
        options,
        facts,
        backbone_config=None if options.config else _dilated(options, facts.num_channels),
        timm_arguments=NARROW if options.backbone == TINY else None,
        hidden_size=options.hidden_size,
        dilations=[12 * k * 8 // options.output_stride for k in (1, 2, 3)],
        dropout=options.dropout,
        auxiliary_loss_weight=options.auxiliary,
        auxiliary_channels=options.auxiliary_channels,
    )
    model = wrap(
        DeepLabV3PlusForSemanticSegmentation(config),
        classifiers=["decode_head.conv_seg", "auxiliary_head.conv_seg"],
        auxiliary=("auxiliary_head", config.auxiliary_loss_weight),
        renamer=mmseg.deeplabv3plus,
        min_batch_size=2,  # the pyramid applies batch norm to globally pooled features
    )
    model.unlike = UNLIKE
    return model


def _dilated(options: DeepLabV3PlusOptions, num_channels: int) -> Any:
    """Build the config of a dilated backbone with three maps: early, next to last and last.

    Raises:
        OptionError: timm has no such network, or its maps have other strides.
    """
    from transformers import TimmBackboneConfig

    stride = options.output_stride
    name = "resnet50c" if options.backbone == TINY else options.backbone.removeprefix(TIMM)
    strides = timm_facts(name, stride).strides
    early = [index for index, one in enumerate(strides[:-2]) if one == LOW]
    if not early or strides[-1] != stride:
        found = ", ".join(map(str, strides))
        raise OptionError(
            f"--arch deeplabv3plus: backbone=timm/{name}: with output_stride={stride}, its feature "
            f"maps have the strides {found}; one of {LOW}, at least one more and a last one of "
            f"{stride} are needed."
        )
    maps = [early[-1], len(strides) - 2, len(strides) - 1]
    return TimmBackboneConfig(
        backbone=name, out_indices=maps, num_channels=num_channels, output_stride=stride
    )


def default_weights(options: DeepLabV3PlusOptions) -> str | None:
    """Return the Hub id of timm's encoder."""
    published = None if options.config else timm_published(options.backbone)
    return published.hf_hub_id if published else None


def weights_license(options: DeepLabV3PlusOptions) -> str:
    """Return the licence of the default weights, as timm states it."""
    published = timm_published(options.backbone)
    return (published.license or "").replace("apache", "Apache") if published else ""


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register DeepLabV3+."""
    return [
        Architecture(
            name="deeplabv3plus",
            summary="DeepLabV3+ (Chen et al. 2018) on dilated ResNets and other networks of timm",
            options=DeepLabV3PlusOptions,
            build=build,
            default_weights=default_weights,
            tiny=lambda: DeepLabV3PlusOptions(backbone=TINY, hidden_size=16, auxiliary_channels=8),
            model_types=("segacc_deeplabv3plus",),
            variants=("backbone=timm/resnet50c", "backbone=timm/resnet101c"),
            weights_license=weights_license,
        )
    ]
