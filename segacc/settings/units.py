"""Values with units: durations such as `45m`, and steps that may be a fraction of the run."""

import math
import re
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import AfterValidator, AllowInfNan, BeforeValidator

from segacc.errors import OptionError, cut

TIME = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
"""Hours, minutes and seconds, all optional."""


def seconds(text: str) -> float:
    """Convert a duration such as `45m`, `90s` or `1h30m` to seconds.

    Raises:
        ValueError: the text is not a duration, or the duration is 0.
    """
    found = TIME.fullmatch(text.strip())
    hours, minutes, rest = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not (total := 3600 * hours + 60 * minutes + rest):
        raise ValueError("a time above 0, for example 45m, 90s or 1h30m")
    return float(total)


BYTES = re.compile(r"(\d+(?:\.\d+)?) ?(M|G|T)(i?)B", re.IGNORECASE)
OF_CUDA = 600_000_000
"""Bytes of a GPU's memory that CUDA and its libraries take."""


def bytes_of(text: str, where: str) -> int:
    """Convert an amount of memory such as `24GB` (10^9 bytes) or `80GiB` (2^30) to bytes.

    Raises:
        OptionError: the text is something else.
    """
    found = BYTES.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise OptionError(f"{where}: {cut(text)}: expected an amount of memory, such as 24GB.")
    unit = "MGT".index(found[2].upper()) + 2
    return int(float(found[1]) * (1024 if found[3] else 1000) ** unit)


def gpu_memory(text: str, where: str) -> int:
    """Convert the memory of a GPU to bytes, of which more is needed than CUDA itself takes.

    Raises:
        OptionError: it is less, or no amount of memory.
    """
    found = bytes_of(text, where)
    if found <= OF_CUDA:
        raise OptionError(
            f"{where}: {cut(text)}: CUDA and its libraries alone take {OF_CUDA / 1e9:g} GB; give "
            "the whole memory of the GPU, such as 24GB."
        )
    return found


def bytes_text(number: float) -> str:
    """Format bytes, as `1.25 GB` or `14.9 MB`."""
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def clock_text(seconds: float) -> str:
    """Format seconds as `3:12` or `1:03:12`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _time(text: str) -> str:
    seconds(text)
    return text.strip()


def _steps(value: float) -> float:
    """Return a fraction below 1 unchanged and a whole number of steps as an int."""
    if 0 < value < 1:
        return value
    if value != int(value):
        raise ValueError("a whole number of steps, or a fraction of the run below 1")
    return int(value)


def _each(value: Any) -> Any:
    """Accept "0.5/0.4", 0.5 and a list for one number per channel."""
    if isinstance(value, str):
        return value.split("/")
    return [value] if isinstance(value, int | float) else value


def _colors(values: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse what is not a mean or a standard deviation of images in 0..1."""
    if any(value > 1 for value in values):
        raise ValueError("for images in 0..1, so divide numbers for 0..255 by 255")
    if not values or any(not value >= 0 for value in values):
        raise ValueError("from 0 to 1, one per channel")
    return values


def _spread(values: tuple[float, ...]) -> tuple[float, ...]:
    if 0 in values:
        raise ValueError("above 0, as images are divided by them")
    return values


Mean = Annotated[tuple[float, ...], BeforeValidator(_each), AfterValidator(_colors)]
"""Mean of each channel of images in 0..1; typed as `0.485/0.456/0.406`."""
Std = Annotated[Mean, AfterValidator(_spread)]
"""Standard deviation of each channel, above 0; typed likewise."""
Time = Annotated[str, BeforeValidator(lambda time: str(time)), AfterValidator(_time)]
"""A duration as text, see `seconds`; a number alone has no unit, and is an error."""
Steps = Annotated[float, Ge(0), AllowInfNan(False), AfterValidator(_steps)]
"""Number of optimizer steps, or a fraction of the run below 1."""
Period = Annotated[float, Gt(0), AllowInfNan(False), AfterValidator(_steps)]
"""Optimizer steps from one event to the next, or a fraction of the run below 1."""
Every = Period | Literal["epoch"]
"""A Period, or once per pass over the training split."""


def steps_of(value: float, total: int) -> int:
    """Convert a Steps setting to steps of a run of `total` steps; a fraction is rounded down."""
    return int(value) if value >= 1 else math.floor(value * total)


def steps_of_epochs(epochs: float, samples: int, total: int) -> int:
    """Convert passes over `samples` images to steps of `total` images; rounded, at least 1."""
    return max(1, round(epochs * samples / total))


def period_of(value: float, total: int) -> int:
    """Convert a Period setting to steps of a run of `total` steps; a fraction is rounded up."""
    return int(value) if value >= 1 else max(1, math.ceil(value * total))
