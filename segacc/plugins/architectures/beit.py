"""BEiT (Bao et al., ICLR 2022) and Data2Vec-Vision (Baevski et al., ICML 2022) with UPerNet.

Both use the same network: a ViT with relative position biases, whose blocks feed a feature pyramid,
a UPerNet head and an auxiliary FCN head.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from segacc.model import SegmentationModel

# Blocks, width, heads, channels of the auxiliary head; `tiny` is not published.
SIZES = {
    "tiny": (4, 16, 2, 8),
    "base": (12, 768, 12, 256),
    "large": (24, 1024, 16, 256),
}
PATCH = 16
TABLE = "relative_position_bias_table"


@dataclass(frozen=True, kw_only=True)
class BeitOptions(TransformersOptions):
    """Options of BEiT and of Data2Vec-Vision."""

    variant: Literal["base", "large", "tiny"] = "base"
    """Size: base has 163 million parameters, large 440 million; tiny has 60 thousand, for tests."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Stochastic depth rate in training, increasing linearly with depth."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout probability in the transformer blocks."""
    auxiliary: bool = True
    """Train an auxiliary head on the third of the four feature maps."""
    auxiliary_weight: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss."""


def build_beit(options: BeitOptions, facts: Facts) -> "SegmentationModel":
    """Build BEiT with random weights; logits at 1/4 of the image size."""
    from transformers import BeitConfig, BeitForSemanticSegmentation

    from segacc.model import SizeRule

    # transformers reads the input of block `out_indices`, counted from 1, and allows no index
    # after the last block, so the last block's output is not available.
    network = _network(
        BeitConfig, BeitForSemanticSegmentation, options, facts, max(facts.crop_size), after=0
    )
    patch = network.config.patch_size
    rule = SizeRule(multiple=patch, minimum=2 * patch)
    model = _wrap(network, "beit", "BeitLayer", rule, do_resize=False)
    model.one_size = "transformers computes its relative positions in Python"
    return model


def build_data2vec_vision(options: BeitOptions, facts: Facts) -> "SegmentationModel":
    """Build Data2Vec-Vision with random weights; logits at 1/4 of the image size.

    Raises:
        OptionError: the crop is not square or not a multiple of 16.
    """
    from transformers import Data2VecVisionConfig, Data2VecVisionForSemanticSegmentation

    from segacc.model import SizeRule
    from segacc.model.transformers_model import square_side

    side = square_side(facts, PATCH) if options.config is None else 0
    # Like BEiT, but the index after the last block, its output, is allowed.
    network = _network(
        Data2VecVisionConfig, Data2VecVisionForSemanticSegmentation, options, facts, side, after=1
    )
    side = network.config.image_size
    return _wrap(
        network,
        "data2vec_vision",
        "Data2VecVisionLayer",
        SizeRule(fixed=(side, side)),
        do_resize=True,
        size={"height": side, "width": side},
        resample=2,  # bilinear
    )


def _network(
    config_class: Any,
    network_class: Any,
    options: BeitOptions,
    facts: Facts,
    image_size: int,
    *,
    after: int,
) -> Any:
    """Build either network, with maps from four evenly spaced blocks plus `after`.

    A saved network of the same class keeps its own blocks.
    """
    from segacc.model.transformers_model import make_config
    from segacc.model.transformers_weights import read_config

    blocks, width, heads, channels = SIZES[options.variant]
    config = make_config(
        config_class,
        options,
        facts,
        num_hidden_layers=blocks,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        patch_size=PATCH,
        image_size=image_size,
        use_relative_position_bias=True,
        drop_path_rate=options.drop_path,
        hidden_dropout_prob=options.dropout,
        use_auxiliary_head=options.auxiliary,
        auxiliary_loss_weight=options.auxiliary_weight,
        auxiliary_channels=channels,
    )
    saved = read_config(options.config).get("architectures") if options.config else ()
    if network_class.__name__ not in (saved or ()):
        blocks = config.num_hidden_layers
        config.out_indices = [blocks * quarter // 4 + after for quarter in (1, 2, 3, 4)]
    return network_class(config)


def _wrap(network: Any, encoder: str, unit: str, rule: Any, **resize: Any) -> "SegmentationModel":
    """Wrap either network as a TransformersModel."""
    from transformers import BeitImageProcessor

    from segacc.model import TransformersModel

    return TransformersModel(
        network,
        BeitImageProcessor(do_center_crop=False, do_reduce_labels=False, **resize),
        encoder=encoder,
        classifiers=["decode_head.classifier", "auxiliary_head.classifier"],
        auxiliary=("auxiliary_head", network.config.auxiliary_loss_weight),
        size_rule=rule,
        kept=("out_indices",),
        as_stored=("use_shared_relative_position_bias",),
        adapt=spread_biases,
        units=[unit],
        min_batch_size=2,  # the pyramid pools to one value per channel before a batch norm
    )


def spread_biases(found: "dict[str, Tensor]", own: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Copy a table of position biases that the weights share between all blocks to each block.

    Pretrained networks share one table, fine-tuned ones have one per block; the authors'
    fine-tuning starts in the same way (run_class_finetuning.py of unilm/beit).
    """
    shared = [name for name in found if name.endswith(TABLE) and name not in own]
    missing = [name for name in own if name.endswith(TABLE) and name not in found]
    if len(shared) != 1 or not missing or not found[shared[0]].numel():
        return found
    table = found[shared[0]]
    rest = {name: tensor for name, tensor in found.items() if name != shared[0]}
    return {**rest, **dict.fromkeys(missing, table)}


def beit_weights(options: BeitOptions) -> str | None:
    """Return the encoder that was pretrained and then fine-tuned on ImageNet-22k."""
    if options.variant == "tiny":
        return None
    return f"microsoft/beit-{options.variant}-patch16-224-pt22k-ft22k"


def data2vec_vision_weights(options: BeitOptions) -> str | None:
    """Return the encoder that was pretrained on ImageNet-1k without labels."""
    return None if options.variant == "tiny" else f"facebook/data2vec-vision-{options.variant}"


def tiny() -> BeitOptions:
    """Return options of a network of 60 thousand parameters."""
    return BeitOptions(variant="tiny", drop_path=0.0)


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register BEiT and Data2Vec-Vision."""
    return [
        Architecture(
            name="beit",
            summary="BEiT encoder (Bao et al. 2022), UPerNet head, base and large",
            options=BeitOptions,
            build=build_beit,
            default_weights=beit_weights,
            tiny=tiny,
            model_types=("beit",),
            weights_license=lambda options: "Apache-2.0",
        ),
        Architecture(
            name="data2vec_vision",
            summary="Data2Vec-Vision encoder (Baevski et al. 2022), UPerNet head, base and large",
            options=BeitOptions,
            build=build_data2vec_vision,
            default_weights=data2vec_vision_weights,
            tiny=tiny,
            model_types=("data2vec-vision",),
            weights_license=lambda options: "Apache-2.0",
        ),
    ]
