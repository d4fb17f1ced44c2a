"""Argument parsers whose flags are made from the settings, and whose errors are paragraphs."""

import argparse
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any, NoReturn

from segacc.errors import OptionError, cut, quoted
from segacc.settings.options import OptionDoc, describe, literal_choices
from segacc.settings.sources import flag
from segacc.settings.synonyms import suggest

VALUE_OPTIONAL = {"resume": "FOLDER", "push_to_hub": "REPO"}
"""Flags that mean `auto` without a value, and what their value is called."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing."""

    def error(self, message: str) -> NoReturn:
        """Raise OptionError with the message."""
        message = message.removeprefix("argument ")
        if switch := re.match(r"(--[\w-]+)/(--no-[\w-]+): ignored", message):
            message = f"{switch[1]}: takes no value; write {switch[1]} or {switch[2]}"
        raise OptionError(f"{message}. `python -m {self.prog} --help` lists all flags.")


class Once(argparse.Action):
    """Action of a flag that may be given only once."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value; raise OptionError if the flag was given before."""
        if hasattr(namespace, self.dest):
            raise OptionError(
                f"{option_string}: given twice: {quoted(getattr(namespace, self.dest))} and "
                f"{quoted(values)}; give it once."
            )
        setattr(namespace, self.dest, values)


def dashes(arg: str) -> str:
    """Replace underscores by dashes in a flag, as in `--batch_size`, but not in its value."""
    name, equals, value = arg.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else arg


def make_parser(**words: Any) -> Parser:
    """Return the parser of a command; flags that are not given have no attribute."""
    return Parser(
        **{"prog": "segacc", **words}, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )


def parse(parser: Parser, args: list[str]) -> dict[str, Any]:
    """Return the given arguments by name.

    Raises:
        OptionError: a flag or argument is unknown, or argparse refuses it.
    """
    namespace, unknown = parser.parse_known_args(args)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        word = unknown[0].partition("=")[0]
        raise OptionError(
            f"unknown {'flag' if word.startswith('-') else 'argument'} {cut(word)}. "
            f"{suggest(word, flags)}"
            f"`python -m {parser.prog} --help` lists all flags."
        )
    return vars(namespace)


def add_flags(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """Add a flag for each field of a class, grouped by the comments in it as headings."""
    headings, hints = _headings(cls), typing.get_type_hints(cls)
    groups: dict[str, Any] = {}
    for option in describe(cls):
        heading = headings[option.name]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        text = f"{option.doc} {_default(option.default)}".replace("%", "%%")
        kind = _flag_kind(option, hints[option.name])
        groups[heading].add_argument(flag(option.name), help=text, **kind)


def _flag_kind(option: OptionDoc, hint: Any) -> dict[str, Any]:
    """Return the argparse settings of a flag: a switch, repeatable, or given once."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is ...:
        return {"action": "append", "metavar": "NAME"}
    if option.name in VALUE_OPTIONAL:
        metavar = VALUE_OPTIONAL[option.name]
        return {"action": Once, "nargs": "?", "const": "auto", "metavar": metavar}
    if choices := literal_choices(hint):
        return {"action": Once, "metavar": "|".join(map(str, choices))}
    metavar = "FILE" if option.name == "output" else _metavar(option.type)
    return {"action": Once, "metavar": metavar}


def _headings(cls: type[Any]) -> Mapping[str, str]:
    heading, found = "Settings", {}
    for line in inspect.getsource(cls).splitlines():
        if comment := re.match(r"    # (.+)", line):
            heading = comment[1]
        elif field := re.match(r"    (\w+):", line):
            found[field[1]] = heading
    return found


def _metavar(type_text: str) -> str:
    words = {
        "integer": "N",
        "number": "X",
        "text": "TEXT",
        "path": "DIR",
        "SIZE": "SIZE",
    }
    return words.get(type_text.split()[0], "VALUE") if "mapping" not in type_text else "NAME"


def _default(default: Any) -> str:
    if default is None or default is False or default == () or default == "required":
        return ""
    if default is True:
        return "[on]"
    return f"[{' '.join(default) if isinstance(default, tuple) else default}]"
