"""What can go wrong by a user's hand: one paragraph of where, what, and what would be right."""

import difflib
from collections.abc import Iterable


def count_of(count: int, word: str) -> str:
    """Tell a number of things, as `1 pixel` or `2 pixels`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


class SegaccError(Exception):
    """A mistake the user can mend: printed as one paragraph, and the process exits with 2."""


class OptionError(SegaccError):
    """Something typed on the command line, in a YAML file or in Python is not what it should be."""


class DataError(SegaccError):
    """A data set, an image or a label is not what it should be."""


class UnreadableError(DataError):
    """An image or label file is missing or not decodable; `skip_unreadable` may pass it over."""


class WriteError(SegaccError):
    """Something of a run cannot be written: the disk is full, or the terminal is gone."""


class PluginError(SegaccError):
    """A component is unknown, ambiguous, or its plugin is broken."""


class NonFiniteError(SegaccError):
    """A loss or a gradient is not a finite number, more often than is tolerated."""


class WeightsError(SegaccError):
    """Weights cannot be found, or do not belong to the network they were given for."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean "x"? ` or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'Did you mean "{near[0]}"? ' if near else ""
