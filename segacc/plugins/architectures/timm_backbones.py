"""What `backbones` asks of timm, which is imported inside the functions."""

from dataclasses import dataclass
from typing import Any

from segacc.errors import OptionError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class TimmFacts:
    """What timm says of one of its networks."""

    strides: tuple[int, ...]
    """Pixels of the image for one of each feature map, from the first map to the last."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and std of RGB in 0..1."""
    fixed: tuple[int, int] | None
    """(height, width) where only one size is taken."""
    multiple: int
    """Height and width must be multiples of this, or pixels at the end may be dropped."""


def facts_of(name: str) -> TimmFacts:
    """Ask timm for a network, `name` or `name.tag`, without making its weights.

    Raises:
        ModuleNotFoundError: the package `timm` is not there.
        OptionError: timm has no such network, or it gives no maps that a head can read.
    """
    import timm
    import torch

    if not timm.is_model(name):
        near = did_you_mean(name.partition(".")[0], timm.list_models())
        raise OptionError(f'timm has no network "{name}". {near}'.rstrip())
    try:
        with torch.device("meta"):
            network = timm.create_model(name, features_only=True)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise OptionError(f"timm/{name} gives no feature maps: {reason}.") from None
    if str(getattr(network, "output_fmt", "NCHW")).upper().endswith("NHWC"):
        raise OptionError(f"timm/{name} gives maps with channels last, which no head here reads.")
    given = timm.models.get_pretrained_cfg(name)
    return TimmFacts(
        strides=tuple(one["reduction"] for one in network.feature_info.info),
        normalization=(tuple(given.mean), tuple(given.std)),
        fixed=tuple(given.input_size[1:]) if given.fixed_input_size else None,
        multiple=multiple(network),
    )


def multiple(network: Any) -> int:
    """Find what height and width must be multiples of: 1 where all maps round up, else the stride.

    Args:
        network: of timm, on the device `meta`; nothing is computed.
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


def config(name: str, num_channels: int, maps: int) -> Any:
    """Build transformers' TimmBackboneConfig of a network of timm.

    Raises:
        ModuleNotFoundError: the package `timm` is not there.
        OptionError: as `facts_of`, or it gives fewer maps than are asked for.
    """
    from transformers import TimmBackboneConfig

    strides = facts_of(name).strides
    if len(strides) < maps:
        raise OptionError(f"timm/{name} gives only {len(strides)} feature maps; {maps} are needed.")
    return TimmBackboneConfig(
        backbone=name, out_indices=chosen(strides, maps), num_channels=num_channels
    )


def chosen(strides: tuple[int, ...], maps: int) -> list[int]:
    """Choose maps: the last ones of a pyramid, evenly spread ones of a plain ViT."""
    count = len(strides)
    if len(set(strides)) > 1:
        return list(range(count - maps, count))
    return [(k + 1) * count // maps - 1 for k in range(maps)]


def hub_id(name: str) -> str | None:
    """Return the Hub id of the published weights that timm knows, or None."""
    try:
        import timm
    except ModuleNotFoundError:
        return None
    given = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return None if given is None else given.hf_hub_id
