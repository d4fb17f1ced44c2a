"""How much: times as in `45m`, and steps that may be a share of the run."""

import math
import re
from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import AfterValidator, AllowInfNan

TIME = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
"""Hours, minutes and seconds, each if it is there."""


def seconds(text: str) -> float:
    """Read a time such as `45m`, `90s` or `1h30m`: seconds.

    Raises:
        ValueError: it is none, or no time at all.
    """
    found = TIME.fullmatch(text.strip())
    hours, minutes, rest = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not (total := 3600 * hours + 60 * minutes + rest):
        raise ValueError("a time above 0, written as in 45m, 90s or 1h30m")
    return float(total)


def clock_text(seconds: float) -> str:
    """Tell seconds as `3:12` or `1:03:12`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _time(text: str) -> str:
    seconds(text)
    return text.strip()


def _steps(value: float) -> float:
    """Keep a share below 1; make whole steps an int."""
    if 0 < value < 1:
        return value
    if value != int(value):
        raise ValueError("whole steps, or a fraction of the run below 1")
    return int(value)


Time = Annotated[str, AfterValidator(_time)]
"""A time as it is typed, see `seconds`."""
Steps = Annotated[float, Ge(0), AllowInfNan(False), AfterValidator(_steps)]
"""Optimizer steps, or a share of the run below 1."""
Period = Annotated[float, Gt(0), AllowInfNan(False), AfterValidator(_steps)]
"""Optimizer steps from one time to the next, or a share of the run below 1."""


def steps_of(value: float, total: int) -> int:
    """Count the whole steps of a Steps setting in a run of `total`; a share is rounded down."""
    return int(value) if value >= 1 else math.floor(value * total)


def period_of(value: float, total: int) -> int:
    """Count the whole steps of a Period setting in a run of `total`; a share is rounded up."""
    return int(value) if value >= 1 else max(1, math.ceil(value * total))
