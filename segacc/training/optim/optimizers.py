"""Optimizers by name, with typed options."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan, BeforeValidator

from segacc.errors import OptionError, did_you_mean
from segacc.settings.options import decode, parse_component
from segacc.settings.sources import Settings

BOTH = ("cpu", "cuda")

ALIASES = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "lion_32bit": "lion"}
"""transformers' names (`transformers.training_args.OptimizerNames`) where they differ; its `sgd`,
`rmsprop`, `adagrad` and `adafactor` are called so here, too."""


def _numbers(count: int) -> BeforeValidator:
    """Split `0.9/0.95`, and want so many numbers."""

    def split(value: Any) -> Any:
        parts = value.split("/") if isinstance(value, str) else value
        if isinstance(parts, list | tuple) and len(parts) != count:
            raise ValueError(f"{count} numbers are needed, one beside the other with /")
        return parts

    return BeforeValidator(split)


Share = Annotated[float, Ge(0), Lt(1)]
Pair = Annotated[tuple[Share, Share], _numbers(2)]
Triple = Annotated[tuple[Share, Share, Share], _numbers(3)]
Amount = Annotated[float, Ge(0), AllowInfNan(False)]
Positive = Annotated[float, Gt(0), AllowInfNan(False)]


@dataclass(frozen=True, kw_only=True)
class AdamaxOptions:
    """Options of Adamax, and what the options of Adam's kin start with."""

    betas: Pair = (0.9, 0.999)
    """Share of the past in the means of the gradient and of its square, as in `0.9/0.95`."""
    eps: Positive = 1e-8
    """Added to the denominator."""


@dataclass(frozen=True, kw_only=True)
class AdamWOptions(AdamaxOptions):
    """Options of AdamW (Loshchilov and Hutter, ICLR 2019)."""

    amsgrad: bool = False
    """Divide by the largest mean of squares so far (Reddi et al., ICLR 2018)."""


@dataclass(frozen=True, kw_only=True)
class AdamOptions(AdamWOptions):
    """Options of Adam (Kingma and Ba, ICLR 2015)."""

    decoupled_weight_decay: bool = False
    """Decay as AdamW does, not through the gradient."""


@dataclass(frozen=True, kw_only=True)
class RAdamOptions(AdamaxOptions):
    """Options of RAdam (Liu et al., ICLR 2020)."""

    decoupled_weight_decay: bool = False
    """Decay as AdamW does, not through the gradient."""


@dataclass(frozen=True, kw_only=True)
class NAdamOptions(RAdamOptions):
    """Options of NAdam (Dozat 2016)."""

    momentum_decay: Amount = 4e-3
    """How fast the momentum rises to its value."""


@dataclass(frozen=True, kw_only=True)
class SGDOptions:
    """Options of stochastic gradient descent."""

    momentum: Share = 0.0
    """Share of the past in the direction, as in 0.9."""
    dampening: Share = 0.0
    """Share of the gradient that is left out of the momentum."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    def __post_init__(self) -> None:
        """Refuse what torch would."""
        if self.nesterov and (self.momentum == 0 or self.dampening > 0):
            raise ValueError("nesterov needs a momentum above 0, and no dampening")


@dataclass(frozen=True, kw_only=True)
class RMSpropOptions:
    """Options of RMSprop."""

    alpha: Share = 0.99
    """Share of the past in the mean of the squares."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    momentum: Share = 0.0
    """Share of the past in the direction."""
    centered: bool = False
    """Divide by the variance in place of the mean of squares."""


@dataclass(frozen=True, kw_only=True)
class AdagradOptions:
    """Options of Adagrad (Duchi et al., JMLR 2011)."""

    lr_decay: Amount = 0.0
    """Decay of the learning rate beside the schedule."""
    initial_accumulator_value: Amount = 0.0
    """What the sum of squares starts from."""
    eps: Positive = 1e-10
    """Added to the denominator."""


@dataclass(frozen=True, kw_only=True)
class AdadeltaOptions:
    """Options of Adadelta (Zeiler 2012)."""

    rho: Share = 0.9
    """Share of the past in the means of squares."""
    eps: Positive = 1e-6
    """Added to both means."""


@dataclass(frozen=True, kw_only=True)
class AdafactorOptions:
    """Options of torch's Adafactor (Shazeer and Stern, ICML 2018): steps relative to weights."""

    beta2_decay: Annotated[float, Lt(0), AllowInfNan(False)] = -0.8
    """Power of the step with which the newest square counts less."""
    d: Annotated[float, Ge(1), AllowInfNan(False)] = 1.0
    """Updates are clipped to this root mean square."""


@dataclass(frozen=True, kw_only=True)
class LionOptions:
    """Options of Lion (Chen et al., NeurIPS 2023)."""

    betas: Pair = (0.9, 0.99)
    """Share of the past in the direction, and in what is kept of it."""
    caution: bool = False
    """Leave out what goes against the gradient (Liang et al. 2024)."""


@dataclass(frozen=True, kw_only=True)
class LambOptions(AdamaxOptions):
    """Options of LAMB (You et al., ICLR 2020)."""

    eps: Positive = 1e-6
    """Added to the denominator."""
    bias_correction: bool = True
    """Undo that the means start from 0."""
    grad_averaging: bool = True
    """Weigh the gradient by 1 - beta1 in the mean."""
    trust_clip: bool = False
    """Never take a longer step than without the trust ratio."""
    always_adapt: bool = False
    """Take the trust ratio of parameters without weight decay, too."""
    caution: bool = False
    """Leave out what goes against the gradient (Liang et al. 2024)."""
    decoupled_decay: bool = False
    """Decay as AdamW does."""


@dataclass(frozen=True, kw_only=True)
class LarsOptions(SGDOptions):
    """Options of LARS (You et al. 2017)."""

    trust_coeff: Positive = 0.001
    """Length of a step relative to the weights."""
    eps: Positive = 1e-8
    """Added to the denominator of the trust ratio."""
    trust_clip: bool = False
    """Never take a longer step than without the trust ratio."""
    always_adapt: bool = False
    """Take the trust ratio of parameters without weight decay, too."""


@dataclass(frozen=True, kw_only=True)
class AdanOptions:
    """Options of Adan (Xie et al., TPAMI 2024)."""

    betas: Triple = (0.98, 0.92, 0.99)
    """Share of the past in the means of gradient, its change, and squares, as `0.98/0.92/0.99`."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    no_prox: bool = False
    """Decay as AdamW does."""
    caution: bool = False
    """Leave out what goes against the gradient (Liang et al. 2024)."""


@dataclass(frozen=True, kw_only=True)
class AdoptOptions:
    """Options of ADOPT (Taniguchi et al., NeurIPS 2024)."""

    betas: Pair = (0.9, 0.9999)
    """Share of the past in the means of the gradient and of its square."""
    eps: Positive = 1e-6
    """Least denominator."""
    decoupled: bool = False
    """Decay as AdamW does."""
    caution: bool = False
    """Leave out what goes against the gradient (Liang et al. 2024)."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An optimizer by name."""

    place: str
    """Its module and class."""
    options: type[Any]
    fused: tuple[str, ...] = ()
    """Kinds of devices on which one kernel updates all parameters."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are not the user's."""
    lr: Mapping[str, float] = field(default_factory=dict)
    """Default learning rates with "loaded" and "random" weights, where AdamW's do not serve."""

    @property
    def package(self) -> str:
        """The package that has it."""
        return self.place.partition(".")[0]


def _both(lr: float) -> dict[str, float]:
    return {"loaded": lr, "random": lr}


# Left out of torch.optim: LBFGS (asks for the loss several times a step), SparseAdam (sparse
# gradients only), Muon (2-D tensors only), Rprop (whole data sets as batches, no weight decay) and
# ASGD (its average of the weights would go unused). Learning rates: SGD's is that of
# mmsegmentation's schedules, Lion's a fifth of AdamW's (the paper: 3 to 10 times smaller), the
# others are the libraries' defaults.
OPTIMIZERS: Mapping[str, Kind] = {
    "adamw": Kind(place="torch.optim.AdamW", options=AdamWOptions, fused=BOTH),
    "adam": Kind(place="torch.optim.Adam", options=AdamOptions, fused=BOTH),
    "adamax": Kind(place="torch.optim.Adamax", options=AdamaxOptions),
    "nadam": Kind(place="torch.optim.NAdam", options=NAdamOptions),
    "radam": Kind(place="torch.optim.RAdam", options=RAdamOptions),
    "sgd": Kind(place="torch.optim.SGD", options=SGDOptions, fused=BOTH, lr=_both(0.01)),
    "rmsprop": Kind(place="torch.optim.RMSprop", options=RMSpropOptions),
    "adagrad": Kind(
        place="torch.optim.Adagrad", options=AdagradOptions, fused=BOTH, lr=_both(0.01)
    ),
    "adadelta": Kind(place="torch.optim.Adadelta", options=AdadeltaOptions, lr=_both(1.0)),
    "adafactor": Kind(place="torch.optim.Adafactor", options=AdafactorOptions, lr=_both(0.01)),
    "lion": Kind(
        place="timm.optim.Lion",
        options=LionOptions,
        lr={"loaded": 1.2e-5, "random": 2e-4},
    ),
    "lamb": Kind(
        place="timm.optim.Lamb",
        options=LambOptions,
        fixed={"max_grad_norm": None},  # gradients are clipped before, as --max-grad-norm says
    ),
    "lars": Kind(place="timm.optim.Lars", options=LarsOptions, lr=_both(1.0)),
    "adan": Kind(place="timm.optim.Adan", options=AdanOptions),
    "adopt": Kind(place="timm.optim.Adopt", options=AdoptOptions),
}


@dataclass(frozen=True)
class ChosenOptimizer:
    """An optimizer and the options it will be built with."""

    kind: Kind
    options: Any

    def build(self, groups: list[dict[str, Any]], device: str) -> Any:
        """Build it over parameter groups, fused where it can be.

        Args:
            groups: with `lr` and `weight_decay` in each.
            device: kind of device of the parameters, as `cuda`.
        """
        module, _, name = self.kind.place.rpartition(".")
        fused = {"fused": True} if device in self.kind.fused else {}
        make = getattr(importlib.import_module(module), name)
        return make(groups, **asdict(self.options), **self.kind.fixed, **fused)


def choose_optimizer(given: Any, where: str) -> ChosenOptimizer:
    """Find an optimizer and decode its options; torch is not imported.

    Args:
        given: `name:key=value,...`, or a mapping with `name`.
        where: how the user typed it.

    Raises:
        OptionError: unknown name or option, wrong value, or its package is missing.
    """
    component = parse_component(given, where)
    name = ALIASES.get(component.name, component.name)
    if name not in OPTIMIZERS:
        near = did_you_mean(component.name, (*OPTIMIZERS, *ALIASES))
        raise OptionError(
            f'{where}: unknown optimizer "{component.name}". {near}Known: {", ".join(OPTIMIZERS)}.'
        )
    kind = OPTIMIZERS[name]
    label = f"{where} {component.name}" if where.startswith("--") else f"{where} ({component.name})"
    for key in ("lr", "weight_decay"):
        if key in component.values:
            flag = f"--{key.replace('_', '-')}"
            raise OptionError(
                f'{label}: "{key}" is a setting of the run, not of the optimizer: use {flag} '
                f"{component.values[key]}."
            )
    chosen = ChosenOptimizer(kind, decode(kind.options, component.values, label))
    if find_spec(kind.package) is None:
        raise OptionError(
            f"{where}: {component.name} needs the package {kind.package}: pip install "
            f'"segacc[{kind.package}]".'
        )
    return chosen


def default_lr(given: Any, start: str, usual: float) -> float:
    """Return the learning rate that a run takes where none was typed.

    Args:
        given: the optimizer, as it was typed; `choose_optimizer` takes it.
        start: "loaded" or "random", as the weights are.
        usual: AdamW's.
    """
    return choose_optimizer(given, "").kind.lr.get(start, usual)


def check_optimization(settings: Settings) -> None:
    """Check what can be checked of the optimizer and of what is frozen without torch.

    Raises:
        OptionError: so.
    """
    config = settings.config
    choose_optimizer(config.optimizer, settings.where("optimizer"))
    if config.unfreeze_after is not None and not config.freeze:
        raise OptionError(
            f"{settings.where('unfreeze_after')}: {config.unfreeze_after}: nothing is frozen. Say "
            "what is, as in --freeze encoder, or leave this out."
        )
    check_length(settings)


def check_length(settings: Settings) -> None:
    """Refuse a run that ends before what is frozen begins to learn.

    Raises:
        OptionError: so.
    """
    config = settings.config
    if config.max_steps and config.unfreeze_after and config.max_steps <= config.unfreeze_after:
        raise OptionError(
            f"{settings.where('unfreeze_after')}: {config.unfreeze_after}: the run has only "
            f"{config.max_steps} steps, so {', '.join(config.freeze)} would never learn. Leave "
            "this out to freeze for good."
        )
