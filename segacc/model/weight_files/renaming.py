"""Rules that give the tensors of one library the names that they have in another."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Tensors = Mapping[str, Tensor]
Renamer = Callable[[Tensors, Tensors, bool], dict[str, Tensor]]
"""(tensors of a file, the network's own, whether its head is not loaded) to tensors by the names of
the network. It raises a WeightsError if the head was built otherwise."""


def same(tensor: Tensor) -> Tensor:
    """Return a tensor as it is."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """What happens to the tensors with names that match a pattern."""

    pattern: str
    """A regular expression for the whole name."""
    names: tuple[str, ...]
    r"""The new names, with `\1` for the first group. A tensor is divided along its first dimension
    if there are several, and left out if there are none."""
    change: Callable[[Tensor], Tensor] = same
    """Applied to the tensor before it is divided."""


def rename(found: Tensors, rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Apply to each tensor the first rule that matches; without one, it keeps its name.

    A tensor that cannot be divided evenly keeps its name too, so that it is reported as unused.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in found.items():
        match, rule = _first(name, rules)
        if match is None:
            state[name] = tensor
        elif len(rule.names) < 2:
            state |= {match.expand(one): rule.change(tensor) for one in rule.names}
        elif tensor.ndim and tensor.shape[0] % len(rule.names) == 0:
            parts = rule.change(tensor).chunk(len(rule.names))
            state |= {match.expand(one): part for one, part in zip(rule.names, parts, strict=True)}
        else:
            state[name] = tensor
    return state


def _first(name: str, rules: Sequence[Rule]) -> tuple[re.Match[str] | None, Rule]:
    for rule in rules:
        if match := re.fullmatch(rule.pattern, name):
            return match, rule
    return None, Rule("", ())


def within(start: str, target: str, parts: Mapping[str, str]) -> list[Rule]:
    """Return rules for modules: each name `start.old.*` becomes `target.new.*`.

    Args:
        start: a regular expression for the beginning of the names.
        target: the new beginning, which may refer to groups of `start`.
        parts: the new name of each module, by a regular expression of the old one without groups.
    """
    count = re.compile(start).groups + 1
    return [
        Rule(rf"{start}\.{old}\.(.+)", (rf"{target}.{new}.\{count}",)) for old, new in parts.items()
    ]
