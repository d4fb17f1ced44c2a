"""PMT (Cavagnero et al. 2026): EoMT's last blocks as a decoder on a frozen plain ViT."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, PositiveInt

from segacc.contracts import Facts
from segacc.errors import OptionError
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.backbones import (
    TEST,
    TIMM,
    backbone_config,
    check_backbone,
    encoder_id,
    encoder_license,
    is_plain,
    plain_width,
    properties,
    timm_facts,
)
from segacc.plugins.architectures.eomt import AnnealingOptions

if TYPE_CHECKING:
    from segacc.model import SegmentationModel


@dataclass(frozen=True, kw_only=True)
class PmtOptions(AnnealingOptions):
    """Options of PMT."""

    backbone: str = "dinov3_vit"
    """Plain ViT: dinov3_vit, dinov2, dinov2_with_registers, beit, or timm/NAME; the decoder reads
    the tokens of four evenly spaced layers, with class and register tokens, but for timm."""
    size: Annotated[str, BeforeValidator(str)] = ""
    """Published size of the backbone, e.g. large; empty for the default. The name of a timm network
    includes its size; `test` is a very small one, for tests."""
    num_blocks: PositiveInt = 6
    """Number of the decoder's blocks, as wide as the backbone; the authors have 6."""
    unfreeze: bool = False
    """Train the backbone too. By default only the decoder is trained, which requires pretrained
    backbone weights; the backbone then stays in evaluation mode."""

    def __post_init__(self) -> None:
        """Reject an unknown backbone or size."""
        super().__post_init__()
        check_backbone(self.backbone, self.size)


def build(options: PmtOptions, facts: Facts) -> "SegmentationModel":
    """Build the network with random weights; masks have 4 x 4 pixels per patch of 16.

    Raises:
        OptionError: the backbone is no plain ViT, or there is not a window of annealing for each
            block.
        WeightsError: `config` is not a folder with a supported PMT.
    """
    from transformers import EomtImageProcessor

    from segacc.model.mask_classification import AnnealedModel  # first, as it needs scipy
    from segacc.model.networks.configs import PmtSegConfig
    from segacc.model.networks.pmt import PmtForUniversalSegmentation
    from segacc.model.transformers_model import make_config

    sizes = {} if options.config else _sizes(options, facts)
    config = make_config(PmtSegConfig, options, facts, **sizes)
    annealing = options.annealing_settings("pmt", config.num_blocks)
    rule, (mean, std), units = properties(config.backbone_config)
    height, width = rule.fixed or config.image_size
    only = rule.fixed is not None  # then windows cover the longer side, as of EoMT
    return AnnealedModel(
        PmtForUniversalSegmentation(config),
        EomtImageProcessor(
            # Masks are resized to this before the sigmoid, as by the authors.
            size={"shortest_edge": height, "longest_edge": None if only else width},
            do_resize=only,
            do_split_image=only,
            do_pad=False,
            image_mean=list(mean),
            image_std=list(std),
        ),
        **annealing,
        encoder="backbone",
        score_size=(height, width),
        size_rule=rule,
        units=(*units, "EomtDinov3Layer"),
    )


def _sizes(options: PmtOptions, facts: Facts) -> dict[str, Any]:
    """Return the arguments of PmtSegConfig."""
    name = options.backbone
    if not is_plain(name):
        raise OptionError(
            f"--arch pmt: backbone={name}: PMT needs a plain ViT, such as dinov3_vit; {name} has "
            "feature maps of several sizes, for which there is mask2former."
        )
    config = backbone_config(
        name,
        options.size,
        image_size=facts.crop_size,
        num_channels=facts.num_channels,
        pyramid=False,
    )
    if hasattr(config, "pos_embed_rescale"):
        config.pos_embed_rescale = None  # no jitter of positions, as in `eomt_dinov3`
    patch = timm_facts(config.backbone).strides[-1] if name.startswith(TIMM) else config.patch_size
    return {
        "backbone_config": config,
        "freeze_backbone": not options.unfreeze,
        "patch_size": patch,
        "image_size": list(facts.crop_size),
        "num_blocks": options.num_blocks,
        "intermediate_size": plain_width(config),
        **options.loss_settings(),
    }


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register PMT."""
    return [
        Architecture(
            name="pmt",
            summary="mask classification, masked attention on a frozen plain ViT (Cavagnero et al. "
            "2026); needs scipy",
            options=PmtOptions,
            build=build,
            default_weights=encoder_id,
            # All of it is trained, as it starts random.
            tiny=lambda: PmtOptions(
                size=TEST, unfreeze=True, num_blocks=2, num_queries=6, train_num_points=64
            ),
            model_types=("segacc_pmt",),
            weights_license=encoder_license,
        )
    ]
