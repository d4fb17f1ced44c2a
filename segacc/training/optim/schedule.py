"""The learning rate as a function of the step alone: warm-up in one or two stages, then a decay.

Counted in optimizer steps, so neither the number of processes nor accumulation plays a part; and a
resumed run needs nothing but its step.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan

from segacc.errors import OptionError, did_you_mean
from segacc.settings.config import TrainConfig
from segacc.settings.options import decode, parse_component
from segacc.settings.sources import Settings
from segacc.settings.units import steps_of

Share = Annotated[float, Ge(0), Le(1)]
Factor = Annotated[float, Gt(1), AllowInfNan(False)]


class Decay(Protocol):
    """What the learning rate does after the warm-up."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor on the peak in step 0..total-1 after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Poly:
    """Options of the schedule `poly`: torch's PolynomialLR, mmsegmentation's PolyLR."""

    power: Annotated[float, Gt(0), AllowInfNan(False)] = 1.0
    """1 is linear; 0.9 is usual for convolutional networks."""
    floor: Share = 0.0
    """Share of the peak that the decay ends at, one step after the last."""

    def factor(self, step: int, total: int) -> float:
        """Fall as (1 - step / total) ** power."""
        return float(self.floor + (1 - self.floor) * (1 - step / total) ** self.power)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Options of the schedule `cosine`: half a wave (Loshchilov and Hutter 2017), no restarts."""

    floor: Share = 0.0
    """Share of the peak that the decay ends at, one step after the last."""

    def factor(self, step: int, total: int) -> float:
        """Fall as the first half of a cosine."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * step / total)) / 2


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Options of the schedule `linear`."""

    floor: Share = 0.0
    """Share of the peak that the decay ends at, one step after the last."""

    def factor(self, step: int, total: int) -> float:
        """Fall on a straight line."""
        return 1 - (1 - self.floor) * step / total


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Options of the schedule `constant`."""

    def factor(self, step: int, total: int) -> float:
        """Stay at the peak."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Options of the schedule `one_cycle` (Smith and Topin 2017), as torch's OneCycleLR has them.

    It rises and falls over the whole run, so it has no other warm-up. Momentum stays as it is.
    """

    pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the run in which the learning rate rises."""
    div_factor: Factor = 25.0
    """The first step has the peak divided by this."""
    final_div_factor: Factor = 1e4
    """The last step has the first one's learning rate divided by this."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Form of the rise and of the fall."""

    def factor(self, step: int, total: int) -> float:
        """Rise from the first step to the peak, and fall until the last step."""
        first, top = 1 / self.div_factor, max(0.0, self.pct_start * total - 1)
        if step < top:
            return self._between(first, 1.0, step / top)
        fall = total - 1 - top
        return self._between(1.0, first / self.final_div_factor, (step - top) / (fall or 1.0))

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "cos":
            part = (1 - math.cos(math.pi * part)) / 2
        return start + (end - start) * part


DECAYS: dict[str, type[Any]] = {
    "poly": Poly,
    "cosine": Cosine,
    "linear": Linear,
    "constant": Constant,
    "one_cycle": OneCycle,
}


def parse_schedule(given: Any, where: str) -> Decay:
    """Read `name:key=value,...` or a mapping with `name`.

    Raises:
        OptionError: an unknown name, or an unknown or wrong option.
    """
    named = parse_component(given, where)
    if named.name not in DECAYS:
        raise OptionError(
            f'{where}: unknown schedule "{named.name}". {did_you_mean(named.name, DECAYS)}'
            f"Known: {', '.join(DECAYS)}."
        )
    label = f"{where} {named.name}" if where.startswith("--") else f"{where} ({named.name})"
    decay: Decay = decode(DECAYS[named.name], named.values, label)
    return decay


def choose_schedule(settings: Settings) -> Decay:
    """Read what the settings name; a schedule that has its own warm-up takes no other.

    Raises:
        OptionError: so, or see `parse_schedule`.
    """
    decay = parse_schedule(settings.config.schedule, settings.where("schedule"))
    for key in ("warmup_steps", "encoder_warmup_steps"):
        if isinstance(decay, OneCycle) and getattr(settings.config, key):
            where = settings.where(key)
            raise OptionError(
                f"{where}: the schedule one_cycle has its own warm-up, pct_start; leave this out."
            )
    return decay


def lr_factor(
    decay: Decay, step: int, total: int, *, warmup: int, encoder_warmup: int = 0, head: bool
) -> float:
    """Return the factor on a group's peak learning rate in step 0..total-1.

    The first step of a warm-up has 1 / (warmup + 1) of the peak, the first step after it all of it.
    With a second stage the head warms up first, while the encoder's learning rate is 0; then the
    encoder does, while the head decays; each decays from the end of its own warm-up. That is EoMT's
    published schedule (Kerssies et al. 2025, two_stage_warmup_poly_schedule.py: 500 steps of the
    head, 1000 of the encoder, poly 0.9), except that there a warm-up's first step has 0.

    Args:
        decay: what follows the warm-up.
        step: optimizer steps done before this one.
        total: of the whole run.
        warmup: steps of the first stage.
        encoder_warmup: steps of the second; 0 lets encoder and head warm up together.
        head: whether the group is the head's.
    """
    second = encoder_warmup and not head
    if second and step < warmup:
        return 0.0
    start, length = (warmup, encoder_warmup) if second else (0, warmup)
    if step < start + length:
        return (step - start + 1) / (length + 1)
    return decay.factor(step - start - length, total - start - length)


def set_lr(optimizer: Any, decay: Decay, step: int, total: int, config: TrainConfig) -> None:
    """Set each group's learning rate to its peak, `initial_lr`, times the factor of this step."""
    warmup = steps_of(config.warmup_steps or 0, total)
    second = steps_of(config.encoder_warmup_steps, total)
    for group in optimizer.param_groups:
        stages = {"warmup": warmup, "encoder_warmup": second, "head": group["head"]}
        group["lr"] = group["initial_lr"] * lr_factor(decay, step, total, **stages)
