"""Learning-rate schedules: warm-up in one or two stages, then a decay.

The learning rate is a function of the optimizer step alone. It does not depend on the number of
processes or accumulation steps, and a resumed run needs only its step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan, PositiveInt

from segacc.errors import OptionError, unknown
from segacc.settings.config import TrainConfig
from segacc.settings.options import Listed, decode, describe, parse_component
from segacc.settings.sources import Settings
from segacc.settings.units import steps_of

Share = Annotated[float, Ge(0), Le(1)]
Factor = Annotated[float, Gt(1), AllowInfNan(False)]


class Decay(Protocol):
    """The learning rate after the warm-up."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor on the peak learning rate in step 0..total-1 after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Poly:
    """Options of the schedule `poly`: torch's PolynomialLR, mmsegmentation's PolyLR."""

    summary: ClassVar[str] = "decay as (1 - step / total) ** power"
    power: Annotated[float, Gt(0), AllowInfNan(False)] = 1.0
    """Exponent of the decay; 1 is linear, 0.9 is usual for convolutional networks."""
    floor: Share = 0.0
    """Final learning rate, as a share of the peak, one step after the last."""

    def factor(self, step: int, total: int) -> float:
        """Decay as (1 - step / total) ** power."""
        return float(self.floor + (1 - self.floor) * (1 - step / total) ** self.power)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Options of the schedule `cosine` (Loshchilov and Hutter 2017), without restarts."""

    summary: ClassVar[str] = "decay as half a cosine wave (Loshchilov and Hutter 2017)"
    floor: Share = 0.0
    """Final learning rate, as a share of the peak, one step after the last."""

    def factor(self, step: int, total: int) -> float:
        """Decay as the first half of a cosine wave."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * step / total)) / 2


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Options of the schedule `linear`."""

    summary: ClassVar[str] = "linear decay"
    floor: Share = 0.0
    """Final learning rate, as a share of the peak, one step after the last."""

    def factor(self, step: int, total: int) -> float:
        """Decay linearly."""
        return 1 - (1 - self.floor) * step / total


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Options of the schedule `constant`."""

    summary: ClassVar[str] = "no decay after the warm-up"

    def factor(self, step: int, total: int) -> float:
        """Stay at the peak."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """Options of the schedule `step`: torch's MultiStepLR, with its milestones as shares."""

    summary: ClassVar[str] = "multiply by gamma at each milestone"
    milestones: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (8 / 12, 11 / 12)
    """Shares of the steps after the warm-up, e.g. `0.6/0.8`; default: 8/12 and 11/12."""
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    """Factor at each milestone."""

    def factor(self, step: int, total: int) -> float:
        """Multiply by `gamma` for each milestone that is reached."""
        reached = sum(step >= round(share * total) for share in self.milestones)
        return float(self.gamma**reached)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Options of the schedule `wsd`: constant, then a decay at the end (Hu et al. 2024, MiniCPM).

    A checkpoint from before the decay can be trained for longer, as nothing depends on the length
    of the run until then. Hägele et al. (2024) found the shape `sqrt` and a decay of a fifth best.
    """

    summary: ClassVar[str] = "constant, then a short decay at the end (Hu et al. 2024)"
    decay: Annotated[float, Gt(0), Le(1)] = 0.2
    """Share of the steps after the warm-up in which the learning rate decays."""
    shape: Literal["sqrt", "linear", "cosine"] = "sqrt"
    """Shape of the decay: 1 - sqrt(x), 1 - x, or half a cosine wave, for x from 0 to 1."""
    floor: Share = 0.0
    """Final learning rate, as a share of the peak, one step after the last."""

    def factor(self, step: int, total: int) -> float:
        """Stay at the peak, then decay."""
        length = max(1, round(self.decay * total))
        part = (step - (total - length)) / length
        if part <= 0:
            return 1.0
        falls = {"sqrt": math.sqrt(part), "linear": part, "cosine": _half_wave(part)}
        return self.floor + (1 - self.floor) * (1 - falls[self.shape])


def _half_wave(part: float) -> float:
    return (1 - math.cos(math.pi * part)) / 2


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Options of the schedule `plateau`: torch's ReduceLROnPlateau, by the score `best_by`."""

    summary: ClassVar[str] = "multiply by gamma after evaluations without a better score"
    patience: PositiveInt = 3
    """Number of evaluations in a row without a better score after which the learning rate falls;
    torch's `patience` is one less."""
    min_delta: Annotated[float, Ge(0), AllowInfNan(False)] = 0.0
    """Smallest change of the score that counts as an improvement; it must exceed this."""
    gamma: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Factor each time."""
    floor: Share = 0.0
    """Lowest learning rate, as a share of the peak."""

    def factor(self, step: int, total: int) -> float:
        """Stay at the peak; `reduced` depends on the scores."""
        return 1.0

    def reduced(self, count: int) -> float:
        """Return the factor after `count` reductions."""
        return max(self.floor, self.gamma**count)


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Options of the schedule `one_cycle` (Smith and Topin 2017), as of torch's OneCycleLR.

    The learning rate rises and falls over the whole run, without a separate warm-up. Unlike torch's
    it does not cycle momentum.
    """

    summary: ClassVar[str] = "rise and fall over the whole run (Smith and Topin 2017)"
    pct_start: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the run in which the learning rate rises."""
    div_factor: Factor = 25.0
    """Ratio of the peak to the learning rate of the first step."""
    final_div_factor: Factor = 1e4
    """Ratio of the learning rate of the first step to that of the last step."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Shape of the rise and of the fall: cosine or linear."""

    def factor(self, step: int, total: int) -> float:
        """Rise from the first step to the peak, then fall until the last step."""
        first, top = 1 / self.div_factor, max(0.0, self.pct_start * total - 1)
        if step < top:
            return self._between(first, 1.0, step / top)
        fall = total - 1 - top
        return self._between(1.0, first / self.final_div_factor, (step - top) / (fall or 1.0))

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "cos":
            part = _half_wave(part)
        return start + (end - start) * part


DECAYS: dict[str, type[Any]] = {
    "poly": Poly,
    "cosine": Cosine,
    "linear": Linear,
    "constant": Constant,
    "step": Step,
    "wsd": WarmupStableDecay,
    "plateau": Plateau,
    "one_cycle": OneCycle,
}


def listed() -> list[Listed]:
    """Describe the schedules."""
    return [Listed(name, cls.summary, describe(cls)) for name, cls in DECAYS.items()]


def parse_schedule(given: Any, where: str) -> Decay:
    """Parse `name:key=value,...` or a mapping with `name`.

    Raises:
        OptionError: the name or an option is unknown, or an option is invalid.
    """
    named = parse_component(given, where)
    if named.name not in DECAYS:
        raise OptionError(f"{where}: {unknown('schedule', named.name, DECAYS)}.")
    decay: Decay = decode(DECAYS[named.name], named.values, named.label)
    return decay


def choose_schedule(settings: Settings) -> Decay:
    """Parse the schedule of the settings.

    Raises:
        OptionError: a warm-up is given with a schedule that has its own; or see `parse_schedule`.
    """
    decay = parse_schedule(settings.config.schedule, settings.where("schedule"))
    for key in ("warmup_steps", "encoder_warmup_steps"):
        if isinstance(decay, OneCycle) and getattr(settings.config, key):
            where = settings.where(key)
            raise OptionError(
                f"{where}: the schedule one_cycle has its own warm-up, pct_start; leave this out."
            )
    none = isinstance(decay, OneCycle) or settings.config.warmup_steps == 0
    where = settings.where("warmup_start")
    if none and where == "--warmup-start":  # that of a recipe has no effect then
        raise OptionError(f"{where}: this run has no linear warm-up; leave this out.")
    return decay


def lr_factor(
    decay: Decay,
    step: int,
    total: int,
    *,
    warmup: int,
    encoder_warmup: int = 0,
    head: bool,
    first: float | None = None,
) -> float:
    """Return the factor on a group's peak learning rate in step 0..total-1.

    The factor rises linearly from `first` in the first step to 1 in the first step after the
    warm-up, as torch's LinearLR. With a second stage the head warms up first, while the encoder's
    learning rate is 0; then the encoder warms up while the head decays. Each decays from the end of
    its own warm-up. This is EoMT's published schedule (Kerssies et al. 2025,
    two_stage_warmup_poly_schedule.py: 500 steps for the head, 1000 for the encoder, poly 0.9; its
    warm-ups start at 0).

    Args:
        decay: the schedule after the warm-up.
        step: number of optimizer steps done before this one.
        total: number of optimizer steps of the whole run.
        warmup: steps of the first stage.
        encoder_warmup: steps of the second stage; with 0 encoder and head warm up together.
        head: whether the group belongs to the head.
        first: the factor in the first step of a warm-up; default 1 / (its length + 1).
    """
    second = encoder_warmup and not head
    if second and step < warmup:
        return 0.0
    start, length = (warmup, encoder_warmup) if second else (0, warmup)
    if step < start + length:
        if first is None:
            return (step - start + 1) / (length + 1)
        return first + (1 - first) * (step - start) / length
    return decay.factor(step - start - length, total - start - length)


def set_lr(
    optimizer: Any,
    decay: Decay,
    step: int,
    total: int,
    config: TrainConfig,
    *,
    reductions: int = 0,
) -> None:
    """Set each group's learning rate to that of this step, see `lr_of`."""
    for group in optimizer.param_groups:
        group["lr"] = lr_of(group, decay, step, total, config, reductions=reductions)


def lr_of(
    group: Mapping[str, Any],
    decay: Decay,
    step: int,
    total: int,
    config: TrainConfig,
    *,
    reductions: int,
) -> float:
    """Return a group's learning rate: its peak `initial_lr` times the factor of this step.

    With `plateau` it is that after so many reductions. It is 0 while the group is still frozen.
    """
    if step < group["frozen_until"]:
        return 0.0
    warmup = steps_of(config.warmup_steps or 0, total)
    second = steps_of(config.encoder_warmup_steps, total)
    stages = {"warmup": warmup, "encoder_warmup": second, "head": group["head"]}
    factor = lr_factor(decay, step, total, **stages, first=config.warmup_start)
    share = decay.reduced(reductions) if isinstance(decay, Plateau) else 1.0
    return float(share * (group["initial_lr"] * factor))
