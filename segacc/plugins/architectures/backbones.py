"""Backbones by name and size, for heads on feature maps, as of `upernet` and `linear`.

Importing this module is cheap: transformers and timm are imported inside the functions.
"""

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from pydantic import BeforeValidator

from segacc.contracts import TransformersOptions
from segacc.errors import OptionError, WeightsError, did_you_mean, unknown
from segacc.plugins.architectures.backbone_table import BACKBONES, UNUSABLE

if TYPE_CHECKING:
    from segacc.model import SizeRule, TransformersModel

    Colors = tuple[tuple[float, ...], tuple[float, ...]]

T = TypeVar("T")

TIMM = "timm/"
"""Prefix of the names of timm's networks."""
TEST = "test"
"""Name of each backbone's test size: `Backbone.tiny`."""


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(TransformersOptions):
    """Common options of the heads on a backbone."""

    backbone: str = "convnext"
    """Backbone: convnext, convnextv2, swin, swinv2, resnet, dinov2, dinov2_with_registers,
    dinov3_vit, dinov3_convnext, beit, focalnet, hiera, pvt_v2, hgnet_v2, bit, or timm/NAME for a
    network of timm."""
    size: Annotated[str, BeforeValidator(str)] = ""
    """Published size of the backbone, e.g. tiny, base, 50, b2; empty for the default. The name of a
    timm network includes its size; `test` is a very small one, for tests."""

    def __post_init__(self) -> None:
        """Reject an unknown backbone or size."""
        super().__post_init__()
        check_backbone(self.backbone, self.size)


class OnBackbone(Protocol):
    """Options with a backbone, see BackboneOptions."""

    @property
    def backbone(self) -> str:
        """Name."""

    @property
    def size(self) -> str:
        """Published size, or empty."""

    @property
    def config(self) -> Path | None:
        """Folder in place of them."""


def check_backbone(name: str, size: str) -> None:
    """Reject an unknown backbone or size. An empty size is the default size.

    Raises:
        ValueError: the backbone or size is unknown or unusable; the message is for users.
    """
    if name.startswith(TIMM) and name != TIMM:
        if size:
            raise ValueError(f"{name} has only one size; leave out size")
        return
    if name in UNUSABLE:
        raise ValueError(f"the backbone {name} cannot be used: {UNUSABLE[name]}")
    if name not in BACKBONES:
        more = ", and timm/NAME for a network of timm"
        raise ValueError(unknown("backbone", name, BACKBONES, more))
    sizes = (*BACKBONES[name].sizes, TEST)
    if size and size not in sizes:
        known = f"Known: {', '.join(sizes)}"
        raise ValueError(f'{name} has no size "{size}". {did_you_mean(size, sizes)}{known}')


def check_drop_path(name: str, drop_path: float | None) -> None:
    """Reject a stochastic depth rate for a backbone that has none.

    Raises:
        ValueError: the message is for users.
    """
    if drop_path is not None and (name.startswith(TIMM) or not BACKBONES[name].drop_path):
        raise ValueError(f"{name} does not support drop_path; leave it out")


def is_plain(name: str) -> bool:
    """Return whether a backbone is a plain ViT, whose feature maps all have one size.

    Raises:
        OptionError: see `timm_facts`.
    """
    if name.startswith(TIMM):
        return len(set(timm_facts(name.removeprefix(TIMM)).strides)) == 1
    return BACKBONES[name].plain


def plain_width(config: Any) -> int:
    """Return the width of a plain ViT from its config."""
    if config.model_type != "timm_backbone":
        return int(config.hidden_size)
    return timm_facts(config.backbone).channels[-1]


def default_size(name: str) -> str:
    """Return the default size; empty for a network of timm."""
    return "" if name.startswith(TIMM) else next(iter(BACKBONES[name].sizes))


def encoder_id(options: OnBackbone) -> str | None:
    """Return the Hub id of published encoder weights, or None."""
    name, size = options.backbone, options.size or default_size(options.backbone)
    if options.config is not None or size == TEST:
        return None
    if not name.startswith(TIMM):
        return BACKBONES[name].hub.get(size)
    published = timm_published(name)
    return published.hf_hub_id if published else None


def timm_published(name: str) -> Any:
    """Return timm's record of a network's default weights, for `timm/NAME`; None without them."""
    import timm

    plain = name.removeprefix(TIMM)
    return timm.models.get_pretrained_cfg(plain) if timm.is_model(plain) else None


def encoder_license(options: OnBackbone) -> str:
    """Return the licence of a backbone's published weights; empty if unknown."""
    name = options.backbone
    return "" if name.startswith(TIMM) else BACKBONES[name].license


def backbone_config(
    name: str,
    size: str = "",
    *,
    num_channels: int = 3,
    image_size: tuple[int, int] | None = None,
    maps: int = 4,
    pyramid: bool = True,
    drop_path: float | None = None,
) -> Any:
    """Build the config of a backbone.

    Args:
        name: a key of BACKBONES, or `timm/<name>`.
        size: one of its sizes, `test`, or empty for the default.
        num_channels: number of image channels.
        image_size: (height, width) of the crops; a backbone with a fixed size is built for the
            largest valid square in it.
        maps: 4 for a pyramid from fine to coarse (for a plain ViT: from early to late layers, all
            of one size); 1 for the last map only.
        pyramid: whether several maps of a backbone with a pyramid of its own (BEiT) are that.
        drop_path: stochastic depth rate of a backbone that has one, increasing with depth; None
            keeps the published value.

    Raises:
        OptionError: see `timm_facts`; or a timm network has fewer maps than requested.
    """
    from segacc.model.transformers_weights import set_channels

    if name.startswith(TIMM):
        return _timm_config(name, num_channels, maps)
    backbone = BACKBONES[name]
    values: dict[str, Any] = {**backbone.common, "num_channels": num_channels}
    values |= backbone.tiny if size == TEST else backbone.sizes[size or default_size(name)]
    if drop_path is not None:
        values[backbone.drop_path] = drop_path
    if backbone.fixed and image_size is not None:
        side = max(min(image_size) // backbone.multiple, 1) * backbone.multiple
        values["image_size"] = [side, side]
    config_class = getattr(importlib.import_module("transformers"), backbone.config)
    stages = [name for name in config_class(**values).stage_names if name != "stem"]
    more = backbone.pyramid if maps > 1 and pyramid else {}
    config = config_class(**values, **more, out_features=evenly_spaced(stages, maps))
    set_channels(config, num_channels)
    return config


def pyramid_config(name: str, size: str = "", *, channels: int = 256, **more: Any) -> Any:
    """Build the config of a backbone with four maps at 1/4, 1/8, 1/16 and 1/32 of the image size.

    A plain ViT gets a simple feature pyramid; its maps have 1/4 to 2 times its patch size.

    Args:
        name: see `backbone_config`.
        size: see `backbone_config`.
        channels: channels of the maps of the simple feature pyramid.
        more: see `backbone_config`, except `maps`.

    Raises:
        OptionError: see `backbone_config`; or a timm network's last four maps have other strides.
    """
    if not is_plain(name):
        if name.startswith(TIMM):
            _check_strides(name)
        return backbone_config(name, size, **more)
    from segacc.model.networks.configs import PyramidConfig

    config = backbone_config(name, size, maps=1, **more)
    return PyramidConfig(backbone_config=config, channels=channels)


def _check_strides(name: str) -> None:
    strides = timm_facts(name.removeprefix(TIMM)).strides[-4:]
    if strides != (4, 8, 16, 32):
        found = ", ".join(map(str, strides))
        raise OptionError(
            f"{name}: the last feature maps have the strides {found}; 4, 8, 16, 32 are needed."
        )


def _timm_config(name: str, num_channels: int, maps: int) -> Any:
    from transformers import TimmBackboneConfig

    plain = name.removeprefix(TIMM)
    strides = timm_facts(plain).strides
    count = len(strides)
    if count < maps:
        raise OptionError(f"{name} has only {count} feature maps; {maps} are needed.")
    # The last ones of a pyramid, evenly spaced ones of a plain ViT.
    pyramid = len(set(strides)) > 1
    chosen = list(range(count - maps, count)) if pyramid else evenly_spaced(range(count), maps)
    return TimmBackboneConfig(backbone=plain, out_indices=chosen, num_channels=num_channels)


def evenly_spaced(stages: Sequence[T], maps: int) -> list[T]:
    """Select that many evenly spaced stages, including the last; `stages` excludes the stem."""
    return [stages[(k + 1) * len(stages) // maps - 1] for k in range(maps)]


def wrap(network: Any, *, multiple: int = 1, **more: Any) -> "TransformersModel":
    """Wrap a network with a backbone; sizes, mean and std are the backbone's.

    Args:
        network: it has a `backbone_config` in its config.
        multiple: height and width must be multiples of this many times the backbone's own multiple.
        more: see TransformersModel.
    """
    from transformers import SegformerImageProcessor

    from segacc.model import TransformersModel

    rule, (mean, std), units = properties(network.config.backbone_config)
    if rule.fixed is None:
        rule = replace(rule, multiple=multiple * rule.multiple)
    height, width = rule.fixed or (512, 512)
    return TransformersModel(
        network,
        SegformerImageProcessor(
            do_resize=rule.fixed is not None,
            size={"height": height, "width": width},
            do_reduce_labels=False,
            image_mean=list(mean),
            image_std=list(std),
        ),
        encoder="backbone",
        size_rule=rule,
        units=units,
        **more,
    )


def properties(config: Any) -> tuple["SizeRule", "Colors", tuple[str, ...]]:
    """Return accepted image sizes, mean and std, and FSDP units of a backbone, from its config.

    An accepted size is used completely: a plain ViT and ConvNeXt's first layer would silently drop
    incomplete patches at the border.
    """
    from segacc.model import SizeRule

    if config.model_type == "segacc_pyramid":  # its coarsest position covers 2 x 2 patches
        rule, colors, units = properties(config.backbone_config)
        return replace(rule, minimum=2 * rule.multiple), colors, units
    if config.model_type == "timm_backbone":
        facts = timm_facts(config.backbone, config.output_stride)
        free = SizeRule(multiple=facts.multiple, minimum=max(facts.strides))
        return SizeRule(fixed=facts.fixed) if facts.fixed else free, facts.normalization, ()
    if config.model_type not in BACKBONES:
        raise WeightsError(
            f"segacc does not know the backbone {config.model_type}. Known: {', '.join(BACKBONES)}."
        )
    backbone = BACKBONES[config.model_type]
    patch = getattr(config, "patch_size", None)
    multiple = patch if backbone.multiple > 1 and isinstance(patch, int) else backbone.multiple
    rule = SizeRule(multiple=multiple, minimum=max(backbone.minimum, multiple))
    if backbone.fixed:
        rule = SizeRule(fixed=tuple(config.image_size))
    return rule, backbone.normalization, (backbone.unit,)


@dataclass(frozen=True, kw_only=True)
class TimmFacts:
    """Properties of a timm network."""

    strides: tuple[int, ...]
    """Stride of each feature map relative to the image, from the first map to the last."""
    channels: tuple[int, ...]
    """Channels of each feature map."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and std of RGB in 0..1."""
    fixed: tuple[int, int] | None
    """(height, width) if only one size is accepted."""
    multiple: int
    """Height and width must be multiples of this, otherwise pixels at the border may be dropped."""


@functools.cache
def timm_facts(name: str, output_stride: int | None = None) -> TimmFacts:
    """Return the properties of a timm network, `name` or `name.tag`.

    Args:
        name: timm's.
        output_stride: stride of the last feature map, for a network that can be dilated; None for
            its own.

    Raises:
        OptionError: timm has no such network, or it returns no usable feature maps.
    """
    import timm
    import torch

    if not timm.is_model(name):
        near = did_you_mean(name.partition(".")[0], timm.list_models())
        raise OptionError(f'timm has no network "{name}". {near}'.rstrip())
    given = {"features_only": True, "output_stride": output_stride}  # timm leaves out None
    try:
        try:
            with torch.device("meta"):
                network = timm.create_model(name, **given)
        except NotImplementedError:  # an older torch lacks an operation for the meta device
            with torch.random.fork_rng(devices=[]):
                network = timm.create_model(name, **given)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        fault = (
            f"cannot have output_stride={output_stride}"
            if output_stride
            else "returns no feature maps"
        )
        reason = f"{type(error).__name__}: {error}".rstrip(".: ")
        raise OptionError(f"timm/{name} {fault}: {reason}.") from None
    if str(getattr(network, "output_fmt", "NCHW")).upper().endswith("NHWC"):
        raise OptionError(
            f"timm/{name} returns channels-last feature maps, which the heads do not support."
        )
    published = timm.models.get_pretrained_cfg(name)
    strides = tuple(one["reduction"] for one in network.feature_info.info)
    return TimmFacts(
        strides=strides,
        channels=tuple(one["num_chs"] for one in network.feature_info.info),
        normalization=(tuple(published.mean), tuple(published.std)),
        fixed=tuple(published.input_size[1:]) if published.fixed_input_size else None,
        multiple=_timm_multiple(network),
    )


def _timm_multiple(network: Any) -> int:
    """Return what height and width must be multiples of: 1 if all maps round up, else the stride.

    Args:
        network: a timm network on the meta device; nothing is computed.
    """
    import torch

    strides: list[int] = [one["reduction"] for one in network.feature_info.get_dicts()]
    size = 4 * max(strides) + 1
    try:
        with torch.no_grad():
            maps = network.eval()(torch.empty(1, 3, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError):
        return max(strides)
    wanted = [-(-size // stride) for stride in strides]
    same = [tuple(one.shape[2:]) for one in maps] == [(side, side) for side in wanted]
    return 1 if same else max(strides)
