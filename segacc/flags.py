"""Flags from the config dataclasses: made, parsed, and refused in a sentence."""

import argparse
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any, NoReturn

from segacc.errors import OptionError, did_you_mean
from segacc.settings.options import OptionDoc, describe, literal_choices


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as OptionError."""
        message = message.removeprefix("argument ")
        if switch := re.match(r"(--[\w-]+)/(--no-[\w-]+): ignored", message):
            message = f"{switch[1]}: takes no value; write {switch[1]} or {switch[2]}"
        raise OptionError(f"{message}. `python -m {self.prog} --help` lists all flags.")


class Once(argparse.Action):
    """A flag that may be given once; a second one would be ignored, so it is refused."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store, or raise OptionError."""
        if hasattr(namespace, self.dest):
            raise OptionError(
                f"{option_string}: given twice: {getattr(namespace, self.dest)!r} and "
                f"{values!r}; give it once."
            )
        setattr(namespace, self.dest, values)


def dashes(arg: str) -> str:
    """Take `--batch_size` for `--batch-size`; a value keeps its underscores."""
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else arg


def make_parser(**words: Any) -> Parser:
    """Make the parser of a command; what is not typed leaves no trace."""
    return Parser(
        **{"prog": "segacc", **words}, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )


def parse(parser: Parser, args: list[str]) -> dict[str, Any]:
    """Return what was typed, by name.

    Raises:
        OptionError: an unknown flag or argument, or one that argparse refuses.
    """
    namespace, unknown = parser.parse_known_args(args)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        word = unknown[0].partition("=")[0]
        raise OptionError(
            f"unknown {'flag' if word.startswith('-') else 'argument'} {word}. "
            f"{did_you_mean(word, flags)}"
            f"`python -m {parser.prog} --help` lists all flags."
        )
    return vars(namespace)


def add_flags(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """Make one flag of each field, under the headings that stand as comments in the class."""
    headings, hints = _headings(cls), typing.get_type_hints(cls)
    groups: dict[str, Any] = {}
    for option in describe(cls):
        heading = headings[option.name]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        text = f"{option.doc} {_default(option.default)}".replace("%", "%%")
        kind = _flag_kind(option, hints[option.name])
        groups[heading].add_argument(f"--{option.name.replace('_', '-')}", help=text, **kind)


def _flag_kind(option: OptionDoc, hint: Any) -> dict[str, Any]:
    """Choose how a flag is given: a switch, once for each of many, or once."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is ...:
        return {"action": "append", "metavar": "NAME"}
    if option.name == "resume":
        return {"action": Once, "nargs": "?", "const": "auto", "metavar": "FOLDER"}
    if choices := literal_choices(hint):
        return {"action": Once, "metavar": "|".join(map(str, choices))}
    return {"action": Once, "metavar": _metavar(option.type)}


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
