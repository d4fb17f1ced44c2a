"""`--early-stop` as it is typed: the score, and how long it may stay as it is."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from pydantic import AllowInfNan, PositiveInt

from segacc.settings.options import decode, parse_component
from segacc.settings.sources import Settings


@dataclass(frozen=True, kw_only=True)
class EarlyStopOptions:
    """Options of `--early-stop METRIC:...`."""

    patience: PositiveInt = 5
    """Evaluations in a row that may bring no better score."""
    min_delta: Annotated[float, Ge(0), AllowInfNan(False)] = 0.0
    """A score is better only when it is so by more than this."""


def choose_early_stop(settings: Settings) -> tuple[str, EarlyStopOptions] | None:
    """Read `METRIC:patience=5,min_delta=0.001`: the score's name and the rest; None for `none`.

    Raises:
        OptionError: an unknown or wrong option.
    """
    given, where = settings.config.early_stop, settings.where("early_stop")
    if given is None:
        return None
    named = parse_component(given, where)
    options = decode(EarlyStopOptions, named.values, f"{where} {named.name}")
    return None if named.name == "none" else (named.name, options)
