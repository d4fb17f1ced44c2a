"""Errors caused by user input; each message is a paragraph: where, what is wrong, how to fix it."""

import difflib
import os
from collections.abc import Iterable


def is_main() -> bool:
    """Return whether this is the main process, which alone prints, before accelerate is started."""
    return os.environ.get("RANK", "0") == "0"


def count_of(count: int, word: str, several: str | None = None) -> str:
    """Return a count with its noun, as `1 pixel` or `2 pixels`; `several` is another plural."""
    return f"{count} {word if count == 1 else several or f'{word}s'}"


def first_of(values: Iterable[object], most: int) -> str:
    """Return the first values, as `a, b, c and 5 more`."""
    told = [str(value) for value in values]
    return ", ".join(told[:most]) + (f" and {len(told) - most} more" if len(told) > most else "")


def cut(text: str, most: int = 80) -> str:
    """Return a text that the user typed, for an error: at most so many characters of it."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def quoted(value: object) -> str:
    """Return a value that the user gave, in quotes if it is a text, and cut like `cut`."""
    return cut(repr(value))


class SegaccError(Exception):
    """An error that the user can fix: printed as one paragraph, with exit code 2."""


class OptionError(SegaccError):
    """A setting given on the command line, in a YAML file or in Python is invalid."""


class DataError(SegaccError):
    """A data set, an image or a label is invalid."""


class UnreadableError(DataError):
    """An image or label file is missing or cannot be decoded; see `skip_unreadable`."""


class WriteError(SegaccError):
    """The output of a run cannot be written: the disk is full, or the terminal is gone."""


class PluginError(SegaccError):
    """A component's name is unknown or ambiguous, or its plugin is broken."""


class NonFiniteError(SegaccError):
    """A loss or a gradient was not finite in more steps than `tolerate_nonfinite` allows."""


class WeightsError(SegaccError):
    """Weights cannot be found, or do not fit the network."""


def unknown(what: str, name: str, known: Iterable[str], more: str = "") -> str:
    """Return `unknown loss "dise". Did you mean "dice"? Known: dice, focal`, and `more`."""
    names = list(dict.fromkeys(known))
    listed = ", ".join(names) or "none"
    return f'unknown {what} "{cut(name)}". {did_you_mean(name, names)}Known: {listed}{more}'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean "x"? ` or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'Did you mean "{near[0]}"? ' if near else ""
