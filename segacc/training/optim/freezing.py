"""Freeze parameters, permanently (`--freeze`) or for the first steps (`--unfreeze-after`).

Permanently frozen parameters have requires_grad False. Parameters that are unfrozen later require
gradients from the start, since DDP decides what to reduce when it wraps the network; until then
their gradients are zeroed before clipping and their learning rate is 0. When they are unfrozen,
their optimizer state is reset: moments of zeros with a high step count would make Adam's first
steps about three times too large, (1 - 0.9) / sqrt(1 - 0.999) instead of 1.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from segacc.errors import OptionError, did_you_mean, first_of
from segacc.model import SegmentationModel
from segacc.model.probe import freeze
from segacc.settings.sources import Settings

ENCODER, NORM = "encoder", "norm"
MANY = 12
"""Number of name prefixes that an error lists."""


def selected(network: SegmentationModel, settings: Settings) -> list[str]:
    """Return the names of the trainable parameters that `--freeze` selects, in network order.

    Raises:
        OptionError: a value matches no parameter, or no trainable one; or all are frozen.
    """
    where, freezes = settings.where("freeze"), settings.config.freeze
    learns = [name for name, one in network.named_parameters() if one.requires_grad]
    for given in freezes:
        names = matching(network, given)
        if not names:
            raise OptionError(f"{where}: {given}: {_no_match(network, given)}")
        if set(names).isdisjoint(learns):
            lora = settings.config.lora and not all(map(network.is_head, names))
            raise OptionError(
                f"{where}: {given}: {'--lora' if lora else 'the architecture'} already freezes all "
                "of these parameters; leave this out."
            )
    meant = meant_by(network, freezes)
    if meant.issuperset(learns):
        raise OptionError(f"{where}: {', '.join(freezes)}: nothing is left to train.")
    return [name for name in learns if name in meant]


def meant_by(network: SegmentationModel, freezes: Iterable[str]) -> set[str]:
    """Return the names of the parameters that several values of `--freeze` select."""
    return {name for given in freezes for name in matching(network, given)}


def matching(network: SegmentationModel, given: str) -> list[str]:
    """Return the names of the parameters that one value of `--freeze` selects.

    Args:
        network: the network.
        given: `encoder`, `norm`, or a shell pattern (`*`, `?`, `[01]`) that the name or a prefix of
            it up to a dot must match; the leading `network.` of names may be left out.
    """
    names = [name for name, _ in network.named_parameters()]
    if given == ENCODER:
        return [name for name in names if not network.is_head(name)]
    if given == NORM:
        return [name for name in names if _is_norm(network.get_submodule(_module(name)))]
    patterns = (given, f"{given}.*")
    return [
        name
        for name in names
        if any(fnmatchcase(told, one) for told in (name, _short(name)) for one in patterns)
    ]


def _short(name: str) -> str:
    return name.removeprefix("network.")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm layer, by its class or by the name of a leaf class."""
    known = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    named = "norm" in type(module).__name__.lower() and not any(module.children())
    return isinstance(module, known) or named


def _no_match(network: SegmentationModel, given: str) -> str:
    names = [_short(name) for name, _ in network.named_parameters()]
    parts = [name.split(".") for name in names]
    begins = list(dict.fromkeys(".".join(part[:2]) for part in parts))
    every = dict.fromkeys(".".join(part[:k]) for part in parts for k in range(1, len(part) + 1))
    return (
        f"no parameter of the architecture matches. {did_you_mean(given, every)}"
        f'Known: "{ENCODER}", "{NORM}", and names that start with {first_of(begins, MANY)}; '
        "* matches anything."
    )


def freeze_for_good(network: SegmentationModel, settings: Settings) -> None:
    """Freeze the parameters that `--freeze` selects, and the statistics of frozen batch norms.

    Raises:
        OptionError: see `selected`.
    """
    freeze(network, tuple(selected(network, settings)))
    keep_statistics(network, settings)
    if network.still_batchnorms and len(network.still_batchnorms) == len(network.batchnorms()):
        network.freeze_batchnorm()


def keep_statistics(network: SegmentationModel, settings: Settings, *, begun: bool = False) -> None:
    """Freeze the statistics of batch norms whose parameters `--freeze` or `--lora` all freezes.

    Args:
        network: the network.
        settings: the settings.
        begun: whether what `--unfreeze-after` froze is trained by now.
    """
    freezes = () if begun else settings.config.freeze
    meant = meant_by(network, (*freezes, ENCODER) if settings.config.lora else freezes)
    network.still_batchnorms = frozenset(
        path
        for path, norm in network.batchnorms().items()
        if (own := {f"{path}.{name}" for name, _ in norm.named_parameters()}) and own <= meant
    )


def forget(optimizer: Any, step: int) -> None:
    """Reset the optimizer state of the groups that are unfrozen in this step."""
    for group in optimizer.param_groups:
        if group["frozen_until"] == step:
            group.pop("step", None)  # the step count of timm's LAMB and Adan
            for parameter in group["params"]:
                optimizer.state.pop(parameter, None)


def silence(groups: Iterable[dict[str, Any]], step: int) -> None:
    """Zero the gradients of the groups still frozen in this step; the norm then excludes them."""
    for group in groups:
        if step < group["frozen_until"]:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.zero_()
