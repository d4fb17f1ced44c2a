"""DDRNet and PIDNet: networks of parallel branches for fast inference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from segacc.contracts import Facts, TransformersOptions
from segacc.hookspecs import Architecture, hookimpl

if TYPE_CHECKING:
    from segacc.model import SegmentationModel

HEADS = ("spp", "dfm", "final_layer", "seghead_")
"""Beginnings of the names of what the authors did not train on ImageNet."""
BLOCKS = r"\.(?P<stage>layer\d(?:_d|_)?)(?P<block>\.\d+)?\."
"""The blocks of all branches, which are registered in the order of use."""


@dataclass(frozen=True, kw_only=True)
class DDRNetOptions(TransformersOptions):
    """Options of DDRNet."""

    variant: Literal["23_slim", "23", "tiny"] = "23_slim"
    """Size: 23_slim has 5.7 million parameters, 23 has 20.1 million; tiny has 0.1, for tests."""
    auxiliary: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss in training; 0 removes the head."""


@dataclass(frozen=True, kw_only=True)
class PIDNetOptions(TransformersOptions):
    """Options of PIDNet."""

    variant: Literal["s", "m", "l", "tiny"] = "s"
    """Size: s has 7.6 million parameters, m 28.5, l 36.9; tiny has 0.1, for tests."""
    auxiliary: Annotated[float, Ge(0)] = 0.4
    """Weight of the auxiliary head's loss in training; 0 removes the head."""
    boundary: Annotated[float, Ge(0)] = 20.0
    """Weight of the boundary head's loss in training. With this head the network brings its own
    losses, as in the paper; 0 removes the head, and `--loss` is used."""


def build_ddrnet(options: DDRNetOptions, facts: Facts) -> "SegmentationModel":
    """Build DDRNet with random weights; logits at 1/8 of the image size."""
    from segacc.model.networks.configs import DDRNetSegConfig
    from segacc.model.networks.ddrnet import DDRNetForSemanticSegmentation
    from segacc.model.transformers_model import TransformersModel, make_config

    config = make_config(
        DDRNetSegConfig,
        options,
        facts,
        variant=options.variant,
        auxiliary_loss_weight=options.auxiliary,
    )
    return wrap(TransformersModel, DDRNetForSemanticSegmentation(config), "seghead_extra")


def build_pidnet(options: PIDNetOptions, facts: Facts) -> "SegmentationModel":
    """Build PIDNet with random weights; logits at 1/8 of the image size."""
    from segacc.model.boundary_head import BoundaryModel
    from segacc.model.networks.configs import PIDNetSegConfig
    from segacc.model.networks.pidnet import PIDNetForSemanticSegmentation
    from segacc.model.transformers_model import make_config

    config = make_config(
        PIDNetSegConfig,
        options,
        facts,
        variant=options.variant,
        auxiliary_loss_weight=options.auxiliary,
        boundary_loss_weight=options.boundary,
    )
    return wrap(BoundaryModel, PIDNetForSemanticSegmentation(config), "seghead_p")


def wrap(model_class: Any, network: Any, auxiliary: str) -> "SegmentationModel":
    """Wrap a network; `auxiliary` is the name of its auxiliary head."""
    from transformers import SegformerImageProcessor

    model: SegmentationModel = model_class(
        network,
        SegformerImageProcessor(do_resize=False, do_reduce_labels=False),
        classifiers=["final_layer.conv2", f"{auxiliary}.conv2"],
        auxiliary=(auxiliary, network.config.auxiliary_loss_weight),
        units=["BasicBlock", "Bottleneck"],
        min_batch_size=2,  # the pyramid applies batch norm to globally pooled features
    )
    model.head_prefixes = tuple(f"network.{name}" for name in HEADS)
    model.block_pattern = BLOCKS
    model.one_size = "torch.export fixes the sizes of its pooled features"
    return model


@hookimpl
def segacc_architectures() -> list[Architecture]:
    """Register DDRNet and PIDNet."""
    return [
        Architecture(
            name="ddrnet",
            summary="two branches for fast inference (Hong et al. 2021), 5.7 M",
            options=DDRNetOptions,
            build=build_ddrnet,
            tiny=lambda: DDRNetOptions(variant="tiny"),
            model_types=("segacc_ddrnet",),
            variants=("variant=23_slim", "variant=23"),
        ),
        Architecture(
            name="pidnet",
            summary="three branches for fast inference (Xu et al. 2023), 7.6 M",
            options=PIDNetOptions,
            build=build_pidnet,
            tiny=lambda: PIDNetOptions(variant="tiny"),
            model_types=("segacc_pidnet",),
            variants=("variant=s", "variant=m", "variant=l"),
        ),
    ]
