"""Completion in the shell: commands, flags, and names and options of components."""

import argparse
from collections.abc import Callable, Iterable

import argcomplete
from argcomplete.completers import FilesCompleter

from segacc.commands.cli import COMMANDS, train_parser
from segacc.commands.plugins.command import ALL_KINDS, all_components, options_of
from segacc.settings.recipes import recipe_names

KIND = {"arch": "architecture", "aug": "augmentation", **{kind: kind for kind in ALL_KINDS}}
"""The kind of component that a flag takes, by the flag's name."""


def complete() -> None:
    """Answer the shell, which runs segacc with the variable _ARGCOMPLETE set, and exit.

    The user turns it on with `eval "$(register-python-argcomplete segacc)"`.
    """
    argcomplete.autocomplete(whole_parser())


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, with a completer for each value that is not a path."""
    root = train_parser()
    commands = root.add_subparsers()
    for name in [name for name in COMMANDS if " " not in name]:
        commands.add_parser(name)
        commands.choices[name] = COMMANDS[name].parser()
    for parser in (root, *commands.choices.values()):
        for action in parser._actions:
            if names := values_of(action):
                action.completer = names  # type: ignore[attr-defined]
    return root


def values_of(action: argparse.Action) -> Callable[..., Iterable[str]] | None:
    """Return what completes the value of a flag; None for paths, which the shell completes."""
    metavar = str(action.metavar or "")
    if action.dest in KIND:
        return lambda prefix, **_: components(action.dest, prefix)
    if action.dest == "recipe":
        return lambda **_: recipe_names()
    if "|" in metavar:
        return lambda **_: metavar.split("|")
    if metavar in ("N", "X", "SIZE"):
        return lambda **_: ()
    return None


def components(flag: str, prefix: str) -> list[str]:
    """Return the names of components for a flag; after `NAME:`, those with each of its options."""
    offers = {one.record.name: one for one in all_components().of_kind(KIND[flag])}
    name, colon, typed = prefix.partition(":")
    if not colon or name not in offers:
        paths = FilesCompleter()(prefix) if flag == "dataset" else ()
        return [*sorted(offers), *paths]
    start = prefix[: len(prefix) - len(typed.rpartition(",")[2])]
    return [f"{start}{option.name}=" for option in options_of(offers[name])]
