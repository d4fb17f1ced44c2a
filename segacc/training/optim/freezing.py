"""What does not learn, for good or for the first steps: `--freeze` and `--unfreeze-after`.

What is frozen for good asks for no gradient. What learns later asks for one from the start, since
DDP fixes what it reduces when it wraps the network; until then its gradients are zeroed before they
are clipped and its learning rate is 0. When it begins, its optimizer state starts anew: moments
and step counters that had seen zeros only would make Adam's first steps about three times too
large, (1 - 0.9) / sqrt(1 - 0.999) in place of 1.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from segacc.errors import OptionError, did_you_mean
from segacc.model import SegmentationModel
from segacc.model.probe import freeze
from segacc.settings.sources import Settings

ENCODER, NORM = "encoder", "norm"
MANY = 12
"""Beginnings of names that an error lists."""


def selected(network: SegmentationModel, settings: Settings) -> list[str]:
    """Name the parameters that `--freeze` means, of those that learn, in the network's order.

    Raises:
        OptionError: one of its values means nothing, or nothing that learns; or all is meant.
    """
    where, freezes = settings.where("freeze"), settings.config.freeze
    learns = [name for name, one in network.named_parameters() if one.requires_grad]
    for given in freezes:
        names = matching(network, given)
        if not names:
            raise OptionError(f"{where}: {given}: {_no_match(network, given)}")
        if set(names).isdisjoint(learns):
            raise OptionError(
                f"{where}: {given}: the architecture keeps all of it frozen as it is; leave this "
                "out."
            )
    meant = {name for given in freezes for name in matching(network, given)}
    if meant.issuperset(learns):
        raise OptionError(f"{where}: {', '.join(freezes)}: nothing is left to train.")
    return [name for name in learns if name in meant]


def matching(network: SegmentationModel, given: str) -> list[str]:
    """Name the parameters that one value of `--freeze` means.

    Args:
        network: their owner.
        given: `encoder`, `norm`, or a pattern as in a shell (`*`, `?`, `[01]`) that a name, or its
            beginning up to a dot, must match; a first `network.` of names may be left out.
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
    """Tell a norm by its class, or by the name of a class without submodules, for others' norms."""
    known = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    named = "norm" in type(module).__name__.lower() and not any(module.children())
    return isinstance(module, known) or named


def _no_match(network: SegmentationModel, given: str) -> str:
    names = [_short(name) for name, _ in network.named_parameters()]
    parts = [name.split(".") for name in names]
    begins = list(dict.fromkeys(".".join(part[:2]) for part in parts))
    every = dict.fromkeys(".".join(part[:k]) for part in parts for k in range(1, len(part) + 1))
    known = ", ".join(begins[:MANY])
    more = f" and {len(begins) - MANY} more" if len(begins) > MANY else ""
    return (
        f"no parameter of the architecture has a name like this. {did_you_mean(given, every)}"
        f'Known: "{ENCODER}", "{NORM}", and names that begin with {known}{more}; '
        "* stands for anything."
    )


def freeze_for_good(network: SegmentationModel, settings: Settings) -> None:
    """Freeze what `--freeze` means; a frozen batch norm keeps its statistics, too.

    Raises:
        OptionError: see `selected`.
    """
    freeze(network, tuple(selected(network, settings)))
    keep_statistics(network, settings)
    if network.still_batchnorms and len(network.still_batchnorms) == len(network.batchnorms()):
        network.freeze_batchnorm()


def keep_statistics(network: SegmentationModel, settings: Settings) -> None:
    """Let the batch norms that `--freeze` means, with all they have, keep their statistics."""
    meant = {name for given in settings.config.freeze for name in matching(network, given)}
    network.still_batchnorms = frozenset(
        path
        for path, norm in network.batchnorms().items()
        if (own := {f"{path}.{name}" for name, _ in norm.named_parameters()}) and own <= meant
    )


def forget(optimizer: Any, step: int) -> None:
    """Drop the optimizer's state of the groups that begin in this step."""
    for group in optimizer.param_groups:
        if group["frozen_until"] == step:
            group.pop("step", None)  # where timm's LAMB and Adan count
            for parameter in group["params"]:
                optimizer.state.pop(parameter, None)


def hold(groups: Iterable[dict[str, Any]], step: int) -> None:
    """Take the learning rate from the groups that begin after `step`."""
    for group in groups:
        if step < group["frozen_until"]:
            group["lr"] = 0.0


def silence(groups: Iterable[dict[str, Any]], step: int) -> None:
    """Zero the gradients of the groups that begin after `step`, so that no norm counts them."""
    for group in groups:
        if step < group["frozen_until"]:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.zero_()
