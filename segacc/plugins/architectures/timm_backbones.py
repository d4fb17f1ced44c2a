"""Queries timm for `backbones`; timm is imported inside the functions."""

from dataclasses import dataclass
from typing import Any

from segacc.errors import OptionError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class TimmFacts:
    """Properties of a timm network."""

    strides: tuple[int, ...]
    """Stride of each feature map relative to the image, from the first map to the last."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and std of RGB in 0..1."""
    fixed: tuple[int, int] | None
    """(height, width) if only one size is accepted."""
    multiple: int
    """Height and width must be multiples of this, otherwise pixels at the border may be dropped."""


def facts_of(name: str) -> TimmFacts:
    """Return the properties of a timm network, `name` or `name.tag`, without allocating weights.

    Raises:
        ModuleNotFoundError: the package `timm` is not installed.
        OptionError: timm has no such network, or it returns no usable feature maps.
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
        raise OptionError(f"timm/{name} returns no feature maps: {reason}.") from None
    if str(getattr(network, "output_fmt", "NCHW")).upper().endswith("NHWC"):
        raise OptionError(
            f"timm/{name} returns channels-last feature maps, which the heads do not support."
        )
    given = timm.models.get_pretrained_cfg(name)
    return TimmFacts(
        strides=tuple(one["reduction"] for one in network.feature_info.info),
        normalization=(tuple(given.mean), tuple(given.std)),
        fixed=tuple(given.input_size[1:]) if given.fixed_input_size else None,
        multiple=multiple(network),
    )


def multiple(network: Any) -> int:
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


def config(name: str, num_channels: int, maps: int) -> Any:
    """Build transformers' TimmBackboneConfig for a network of timm.

    Raises:
        ModuleNotFoundError: the package `timm` is not installed.
        OptionError: see `facts_of`; or the network has fewer maps than requested.
    """
    from transformers import TimmBackboneConfig

    strides = facts_of(name).strides
    if len(strides) < maps:
        raise OptionError(f"timm/{name} has only {len(strides)} feature maps; {maps} are needed.")
    return TimmBackboneConfig(
        backbone=name, out_indices=chosen(strides, maps), num_channels=num_channels
    )


def chosen(strides: tuple[int, ...], maps: int) -> list[int]:
    """Select maps: the last ones of a pyramid, evenly spaced ones of a plain ViT."""
    count = len(strides)
    if len(set(strides)) > 1:
        return list(range(count - maps, count))
    return [(k + 1) * count // maps - 1 for k in range(maps)]


def hub_id(name: str) -> str | None:
    """Return the Hub id of the published weights in timm's registry, or None."""
    try:
        import timm
    except ModuleNotFoundError:
        return None
    given = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return None if given is None else given.hf_hub_id
