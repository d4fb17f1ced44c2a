"""EoMT (Kerssies et al., CVPR 2025): mask classification with a plain ViT, DINOv2 or DINOv3."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from segacc.contracts import Facts
from segacc.errors import OptionError
from segacc.hookspecs import Architecture, hookimpl
from segacc.plugins.architectures.mask2former import PointOptions

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

# Width, layers, heads, layers with queries: table 1 of the paper; `tiny` is not published.
SIZES = {
    "small": (384, 12, 6, 3),
    "base": (768, 12, 12, 3),
    "large": (1024, 24, 16, 4),
    "tiny": (32, 3, 2, 2),
}
PATCH = 16
BARE = {
    "eomt": {"dinov2_with_registers": {"encoder.layer.": "layers."}},
    "eomt_dinov3": {"dinov3_vit": {"model.layer.": "layers.", "norm.": "layernorm."}},
}
"""Bare encoders whose weights can be loaded, with the names that differ from EoMT's."""
DINOV2 = {
    ".attention.attention.query.": ".attention.q_proj.",  # of older transformers
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.out_proj.",
    ".attention.o_proj.": ".attention.out_proj.",
}
"""Parts of names of a bare DINOv2's tensors, and EoMT's in their place."""
Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True, kw_only=True)
class AnnealingOptions(PointOptions):
    """Common options of networks whose masked attention is gradually disabled in training."""

    annealing: bool = True
    """Gradually disable masked attention during training, so that the trained network does not need
    it; if false, attention stays masked or unmasked as in the loaded weights."""
    annealing_start: tuple[Share, ...] = ()
    """Share of the run at which this begins in each block with queries, first block first, e.g.
    `0/0.32/0.48/0.65`; by default block k of n begins at
    k / (n + 2), counted from 1."""
    annealing_end: tuple[Share, ...] = ()
    """Share of the run at which attention in each of these blocks is no longer masked; by default
    that of block k at (k + 1) / (n + 2)."""

    def __post_init__(self) -> None:
        """Reject windows that are incomplete, empty or without effect."""
        super().__post_init__()
        starts, ends = self.annealing_start, self.annealing_end
        if (starts or ends) and not self.annealing:
            raise ValueError("annealing is false; leave out annealing_start and annealing_end")
        if len(starts) != len(ends):
            raise ValueError(
                f"annealing_start has {len(starts)} numbers and annealing_end {len(ends)}; give "
                "one of each per block with queries"
            )
        for start, end in zip(starts, ends, strict=True):
            if start >= end:
                raise ValueError(f"a block's annealing_start, {start:g}, is not below its end")

    def annealing_settings(self, name: str, num_blocks: int) -> dict[str, Any]:
        """Return the arguments of AnnealedModel for a network with that many blocks with queries.

        Raises:
            OptionError: there is not a window for each block; `name` is the architecture's.
        """
        windows = tuple(zip(self.annealing_start, self.annealing_end, strict=True))
        if windows and len(windows) != num_blocks:
            raise OptionError(
                f"--arch {name}: annealing_start has {len(windows)} numbers, but {num_blocks} "
                "blocks have queries."
            )
        return {"annealing": self.annealing, "windows": windows}


@dataclass(frozen=True, kw_only=True)
class EomtOptions(AnnealingOptions):
    """Options of EoMT."""

    variant: Literal["small", "base", "large", "tiny"] = "large"
    """Size: small has 24 million parameters, base 93, large 316; tiny has 0.1, for tests."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Stochastic depth rate in training."""


def build_eomt(options: EomtOptions, facts: Facts) -> "SegmentationModel":
    """Build EoMT on DINOv2's ViT with random weights; the only image size is the crop size.

    Raises:
        OptionError: the crop is not square or not a multiple of 16, or there is not a window of
            annealing for each block.
    """
    from transformers import EomtConfig, EomtForUniversalSegmentation

    return _build(EomtConfig, EomtForUniversalSegmentation, options, facts)


def build_eomt_dinov3(options: EomtOptions, facts: Facts) -> "SegmentationModel":
    """Build EoMT on DINOv3's ViT, like `build_eomt`."""
    from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

    width = SIZES[options.variant][0]
    more = {"intermediate_size": 4 * width, "pos_embed_rescale": None}  # no jitter of positions
    return _build(EomtDinov3Config, EomtDinov3ForUniversalSegmentation, options, facts, **more)


def _build(
    config_class: Any, network_class: Any, options: EomtOptions, facts: Facts, **more: Any
) -> "SegmentationModel":
    from transformers import EomtImageProcessor

    from segacc.model import SizeRule
    from segacc.model.mask_classification import EomtModel
    from segacc.model.transformers_model import make_config, square_side

    width, layers, heads, blocks = SIZES[options.variant]
    config = make_config(
        config_class,
        options,
        facts,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_blocks=blocks,
        num_upscale_blocks=1 if options.variant == "tiny" else 2,
        image_size=square_side(facts, PATCH) if options.config is None else 0,
        patch_size=PATCH,
        drop_path_rate=options.drop_path,
        **options.loss_settings(),
        **more,
    )
    side = config.image_size
    annealing = options.annealing_settings(config.model_type, config.num_blocks)
    return EomtModel(
        network_class(config),
        # The network accepts a single size: the shorter side is resized to it, and windows of
        # that size cover the longer side, as in the authors' published semantic networks.
        EomtImageProcessor(
            size={"shortest_edge": side, "longest_edge": None}, do_split_image=True, do_pad=False
        ),
        **annealing,
        bare=BARE[config.model_type],
        adapt=from_dinov2 if config.model_type == "eomt" else None,
        encoder=("embeddings", "layers", "layernorm"),
        score_size=(side, side),
        size_rule=SizeRule(fixed=(side, side)),
    )


def from_dinov2(found: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Convert the tensors of a bare DINOv2 with registers to EoMT's; return others as they are.

    EoMT, as timm, has the class token's position in the class token.
    """
    places = "embeddings.position_embeddings"
    if places not in found:
        return found
    state = {}
    for name, tensor in found.items():
        old = next((one for one in DINOV2 if one in name), "")
        state[name.replace(old, DINOV2[old]) if old else name] = tensor
    positions, token = state.pop(places), "embeddings.cls_token"  # (1, 1 + T, C), (1, 1, C)
    state[token] = state[token] + positions[:, :1]
    state[f"{places}.weight"] = positions[0, 1:]
    return state


def _weights(ade20k: str, coco: str, variant: str) -> str | None:
    """Return the authors' weights for the variant: ADE20K, or COCO if there are none."""
    published = ade20k if variant == "large" else coco.format(variant)
    return None if variant == "tiny" else f"tue-mps/{published}"


def tiny() -> EomtOptions:
    """Return options of a network of 0.1 million parameters."""
    return EomtOptions(variant="tiny", num_queries=6, train_num_points=64)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register EoMT with DINOv2 and with DINOv3."""
    return [
        Architecture(
            name="eomt",
            summary="mask classification, plain DINOv2 ViT (Kerssies et al. 2025); needs scipy",
            options=EomtOptions,
            build=build_eomt,
            default_weights=lambda options: _weights(
                "ade20k_semantic_eomt_large_512", "coco_panoptic_eomt_{}_640_2x", options.variant
            ),
            tiny=tiny,
            model_types=("eomt",),
        ),
        Architecture(
            name="eomt_dinov3",
            summary="mask classification, plain DINOv3 ViT (Kerssies et al. 2025); needs scipy",
            options=EomtOptions,
            build=build_eomt_dinov3,
            default_weights=lambda options: _weights(
                "eomt-dinov3-ade-semantic-large-512",
                "eomt-dinov3-coco-panoptic-{}-640",
                options.variant,
            ),
            tiny=tiny,
            model_types=("eomt_dinov3",),
            weights_license=lambda options: "DINOv3 License",
        ),
    ]
