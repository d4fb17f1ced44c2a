"""`--class-weights`: the name of a rule, or a file with a number for each class."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segacc.errors import OptionError, count_of, did_you_mean, expand, first_of, read_text

RULES = ("inverse", "enet", "effective")
"""Rules that compute weights from class frequencies; label_counts.py has their formulas."""

FORM = (
    'Expected JSON like {"road": 0.8, "pole": 4.5} or [0.8, 4.5], or a text file with one number '
    "per line, in the order of the classes."
)


def check_class_weights(given: str, where: str) -> None:
    """Check the rule or the file of numbers; the classes are not known yet.

    Raises:
        OptionError: it is neither a rule nor a file of numbers.
    """
    if given in RULES:
        return
    path = expand(given, where)
    if not path.is_file():
        raise OptionError(
            f"{where}: {given} is neither a rule nor a file. {did_you_mean(given, RULES)}"
            f"Rules: {', '.join(RULES)}. File format: {FORM[0].lower()}{FORM[1:]}"
        )
    _read(path, f"{where}: {given}")


def read_class_weights(given: str, names: Sequence[str], where: str) -> tuple[float, ...]:
    """Read a file of class weights.

    A JSON file holds `{name: weight}` for all classes, or a list in their order; it may be the
    `class_balance.json` of another run. Any other file is text with one number per line, in the
    order of the classes.

    Args:
        given: path of the file, as given by the user.
        names: K class names.
        where: the setting that gives the path, for errors.

    Returns:
        K numbers >= 0, unchanged.

    Raises:
        OptionError: the file cannot be read, or does not fit the classes.
    """
    told = f"{where}: {given}"
    content = _read(expand(given), told)
    if isinstance(content, Mapping):
        if strangers := [name for name in content if name not in names]:
            raise OptionError(
                f'{told}: there is no class "{strangers[0]}". '
                f"{did_you_mean(strangers[0], names)}The classes: {first_of(names, 20)}."
            )
        if missing := [name for name in names if name not in content]:
            raise OptionError(
                f"{told}: no weight for {first_of(missing, 8)}; each class needs one."
            )
        return tuple(content[name] for name in names)
    if len(content) != len(names):
        count = count_of(len(content), "weight")
        raise OptionError(f"{told}: {count} for the {len(names)} classes {first_of(names, 8)}.")
    return tuple(content)


def _read(path: Path, told: str) -> "Mapping[str, float] | list[float]":
    """Read the numbers in a file; errors start with `told`."""
    try:
        return _weights(read_text(path))
    except OSError as error:
        raise OptionError(f"{told}: cannot read the file: {error.strerror}.") from None
    except ValueError as error:
        raise OptionError(f"{told}: not a file of class weights ({error}). {FORM}") from None


def _weights(text: str) -> "Mapping[str, float] | list[float]":
    """Parse the content of a file.

    Raises:
        ValueError: it does not have the expected form.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    content = json.loads(text) if text.lstrip()[:1] in ("{", "[") else lines
    if isinstance(content, list):
        numbers = [_number(value) for value in content]
        if not any(numbers):
            raise ValueError("no weight is above 0")
        return numbers
    inner = content.get("class_weights")  # the class_balance.json of a run
    if inner is None and "class_weights" in content:
        raise ValueError("it is from a run without class weights")
    named = {
        name: _number(value)
        for name, value in (inner if isinstance(inner, dict) else content).items()
    }
    if not any(named.values()):
        raise ValueError("no weight is above 0")
    return named


def _number(value: Any) -> float:
    """Parse a number >= 0 from JSON or from a line of text.

    Raises:
        ValueError: it is not such a number.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{value!r} is not a number >= 0")
    return number
