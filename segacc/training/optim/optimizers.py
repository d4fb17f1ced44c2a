"""Optimizers of torch and of timm's factory, by name; the usual ones have typed options."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan, BeforeValidator, PositiveInt

from segacc.errors import OptionError, did_you_mean
from segacc.settings.options import (
    Listed,
    class_docs,
    decode,
    describe,
    name_first,
    parse_component,
)
from segacc.settings.sources import Settings, flag

BOTH = ("cpu", "cuda")

ALIASES = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "lion_32bit": "lion"}
"""transformers' names (`transformers.training_args.OptimizerNames`) where they differ; its `sgd`,
`rmsprop`, `adagrad` and `adafactor` are called so here, too."""


def _numbers(count: int) -> BeforeValidator:
    """Split a text such as `0.9/0.95`, and check how many numbers it has."""

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


class Typed:
    """Types of options, the same in all optimizers; torch's and timm's documentation has more."""

    betas: Pair | Triple
    """Shares of the past in the means of the gradient and of its square, as in `0.9/0.95`."""
    eps: Positive
    """Number added to the denominator."""
    alpha: Share
    """Share of the past in the mean of the squares."""
    rho: Share
    """Share of the past in the means of the squares."""
    momentum: Share
    """Share of the past in the direction."""
    dampening: Share
    """Share of the gradient that does not enter the momentum."""
    momentum_decay: Amount
    """How fast the momentum rises to its value."""
    lr_decay: Amount
    """Decay of the learning rate, in addition to the schedule."""
    initial_accumulator_value: Amount
    """Start of the sum of the squares."""
    beta2_decay: Annotated[float, Lt(0), AllowInfNan(False)]
    """Power of the step that gives the weight of the newest square."""
    d: Annotated[float, Ge(1), AllowInfNan(False)]
    """Root mean square to which updates are clipped."""
    trust_coeff: Positive
    """Length of a step relative to that of the weights."""
    ns_steps: PositiveInt
    """Number of iterations that make the direction orthogonal."""
    conv_mode: Literal["flatten", "batched"]
    """Whether a kernel is one matrix, or one for each of its pixels."""
    adjust_lr_fn: Literal["match_rms_adamw", "original", "rms_to_rms"]
    """How the learning rate depends on the shape of a matrix."""
    amsgrad: bool
    """Divide by the largest mean of the squares so far."""
    decoupled_weight_decay: bool
    """Shrink the weights themselves instead of adding to the gradient, as AdamW does."""
    nesterov: bool
    """Look ahead by the momentum (Nesterov 1983)."""
    centered: bool
    """Subtract the squared mean of the gradient from the mean of the squares."""
    bias_correction: bool
    """Correct the means for their start at 0."""
    grad_averaging: bool
    """Weight the newest gradient by 1 - beta."""
    trust_clip: bool
    """Limit the trust ratio to 1."""
    always_adapt: bool
    """Apply the trust ratio also to parameters without weight decay."""
    caution: bool
    """Skip elements of the update whose sign differs from the gradient's (Liang et al. 2024)."""
    decoupled_decay: bool
    """Shrink the weights themselves instead of adding to the update."""
    decoupled: bool
    """Shrink the weights themselves instead of adding to the gradient."""
    no_prox: bool
    """Shrink the weights as AdamW does instead of dividing them after the step."""


ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}
SGD = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}
TRUST = {"trust_clip": False, "always_adapt": False}
CAUTION = {"caution": False}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An optimizer by name."""

    torch: str = ""
    """Its class in torch.optim; empty where timm's factory makes it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The user's options with their defaults, which are the class's."""
    fused: tuple[str, ...] = ()
    """Kinds of devices on which one kernel updates all parameters."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are not the user's."""
    lr: Mapping[str, float] = field(default_factory=dict)
    """Default learning rates with "loaded" and "random" weights, where AdamW's do not serve."""


def _both(lr: float) -> dict[str, float]:
    return {"loaded": lr, "random": lr}


# Left out of torch.optim: LBFGS (asks for the loss several times a step), SparseAdam (sparse
# gradients only), Muon (2-D tensors only; timm's takes kernels, too), Rprop (whole data sets as
# batches, no weight decay) and ASGD (its average of the weights would go unused). Learning rates:
# SGD's is that of mmsegmentation's schedules, Lion's a fifth of AdamW's (the paper: 3 to 10 times
# smaller), Muon's is AdamW's, whose steps it matches in length; the others are the libraries'.
OPTIMIZERS: Mapping[str, Kind] = {
    "adamw": Kind(torch="AdamW", options={**ADAM, "amsgrad": False}, fused=BOTH),
    "adam": Kind(
        torch="Adam",
        options={**ADAM, "amsgrad": False, "decoupled_weight_decay": False},
        fused=BOTH,
    ),
    "adamax": Kind(torch="Adamax", options=ADAM),
    "nadam": Kind(
        torch="NAdam",
        options={**ADAM, "decoupled_weight_decay": False, "momentum_decay": 4e-3},
    ),
    "radam": Kind(torch="RAdam", options={**ADAM, "decoupled_weight_decay": False}),
    "sgd": Kind(torch="SGD", options=SGD, fused=BOTH, lr=_both(0.01)),
    "rmsprop": Kind(
        torch="RMSprop",
        options={"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    ),
    "adagrad": Kind(
        torch="Adagrad",
        options={"lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
        fused=BOTH,
        lr=_both(0.01),
    ),
    "adadelta": Kind(torch="Adadelta", options={"rho": 0.9, "eps": 1e-6}, lr=_both(1.0)),
    "adafactor": Kind(torch="Adafactor", options={"beta2_decay": -0.8, "d": 1.0}, lr=_both(0.01)),
    "lion": Kind(options={"betas": (0.9, 0.99), **CAUTION}, lr={"loaded": 1.2e-5, "random": 2e-4}),
    "lamb": Kind(
        options={
            **{"betas": (0.9, 0.999), "eps": 1e-6, "bias_correction": True},
            **{"grad_averaging": True, **TRUST, **CAUTION, "decoupled_decay": False},
        },
        fixed={"max_grad_norm": None},  # gradients are clipped before, as --max-grad-norm says
    ),
    "lars": Kind(options={**SGD, "trust_coeff": 0.001, "eps": 1e-8, **TRUST}, lr=_both(1.0)),
    "adan": Kind(options={"betas": (0.98, 0.92, 0.99), "eps": 1e-8, "no_prox": False, **CAUTION}),
    "adopt": Kind(options={"betas": (0.9, 0.9999), "eps": 1e-6, "decoupled": False, **CAUTION}),
    "muon": Kind(
        options={
            **{"momentum": 0.95, "nesterov": False, "betas": (0.9, 0.95), "eps": 1e-7},
            **{"ns_steps": 5, "adjust_lr_fn": "match_rms_adamw", "conv_mode": "flatten"},
        }
    ),
}
OTHER = Kind()
"""Any other optimizer that timm's factory knows. Its class checks the options when it is built."""
GIVEN = ("params", "lr", "weight_decay")
"""Arguments of optimizers that the parameter groups give."""


def options_class(kind: Kind) -> type[Any]:
    """Make the dataclass that an optimizer's options are decoded to."""
    types = get_type_hints(Typed, include_extras=True)
    if "betas" in kind.options:
        types["betas"] = {2: Pair, 3: Triple}[len(kind.options["betas"])]
    fields = [(key, types[key], field(default=value)) for key, value in kind.options.items()]
    checks = {"__post_init__": _refuse_nesterov}
    return dataclasses.make_dataclass(
        "Options", fields, namespace=checks, frozen=True, kw_only=True
    )


def listed() -> list[Listed]:
    """Describe the optimizers that have typed options."""
    docs = class_docs(Typed)
    return [
        Listed(name, _summary(name, kind), describe(options_class(kind), docs))
        for name, kind in OPTIMIZERS.items()
    ]


def _summary(name: str, kind: Kind) -> str:
    source = f"torch.optim.{kind.torch}" if kind.torch else f"timm's {name}"
    lr = " or ".join(dict.fromkeys(f"{value:g}" for value in kind.lr.values()))
    weights = " with random weights" if " or " in lr else ""
    return f"{source}; default --lr {lr}{weights}" if lr else source


def _refuse_nesterov(options: Any) -> None:
    """Refuse Nesterov momentum where torch does."""
    given = vars(options)
    if given.get("nesterov") and (given["momentum"] == 0 or given.get("dampening", 0) > 0):
        raise ValueError("nesterov needs a momentum above 0, and no dampening")


@dataclass(frozen=True)
class ChosenOptimizer:
    """An optimizer and the options it will be built with."""

    name: str
    kind: Kind
    options: Mapping[str, Any]
    label: str = field(compare=False)
    """The name as the user typed it, and where."""

    def build(self, groups: list[dict[str, Any]], device: str) -> Any:
        """Build it over parameter groups, fused where it can be.

        Args:
            groups: with `lr` and `weight_decay` in each.
            device: kind of device of the parameters, as `cuda`.

        Raises:
            OptionError: timm does not know the name, or its class refuses the options.
        """
        if not self.kind.torch:
            return from_timm(self, groups)
        import torch

        fused = {"fused": True} if device in self.kind.fused else {}
        return getattr(torch.optim, self.kind.torch)(groups, **self.options, **fused)


def from_timm(chosen: ChosenOptimizer, groups: list[dict[str, Any]]) -> Any:
    """Build an optimizer by timm's factory.

    Raises:
        OptionError: timm does not know the name, or its class refuses the options.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if chosen.name not in known:
        near = did_you_mean(chosen.name, (*OPTIMIZERS, *ALIASES, *known))
        raise OptionError(
            f"{chosen.label}: unknown optimizer. {near}Known: {', '.join(OPTIMIZERS)}, and the "
            "names that timm.optim.list_optimizers() returns."
        )
    try:
        if chosen.kind is OTHER:
            _check_signature(chosen)
        return create_optimizer_v2(groups, chosen.name, **chosen.options, **chosen.kind.fixed)
    except OptionError:
        raise
    except Exception as error:  # a class raises anything for a wrong value or a missing package
        raise OptionError(f"{chosen.label}: timm cannot build it: {error}.") from None


def _check_signature(chosen: ChosenOptimizer) -> None:
    from timm.optim import get_optimizer_class, get_optimizer_info

    made = get_optimizer_class(chosen.name, bind_defaults=False)
    known = [key for key in inspect.signature(made).parameters if key not in GIVEN]
    for key in chosen.options:
        if key not in known:
            raise OptionError(
                f'{chosen.label}: unknown option "{key}". {did_you_mean(key, known)}Known: '
                f"{', '.join(known)}."
            )
    if get_optimizer_info(chosen.name).second_order:
        raise OptionError(
            f"{chosen.label}: it needs second derivatives, which training does not compute."
        )


def choose_optimizer(given: Any, where: str) -> ChosenOptimizer:
    """Find an optimizer and decode its options; torch is not imported.

    A name that is not in OPTIMIZERS, and its options, are checked when the optimizer is built.

    Args:
        given: `name:key=value,...`, or a mapping with `name`.
        where: how the user typed it.

    Raises:
        OptionError: unknown option, or wrong value.
    """
    component = parse_component(given, where)
    name = ALIASES.get(component.name, component.name)
    kind = OPTIMIZERS.get(name, OTHER)
    label = component.label
    for key in ("lr", "weight_decay"):
        if key in component.values:
            raise OptionError(
                f'{label}: "{key}" is a setting of the run, not of the optimizer: use {flag(key)} '
                f"{component.values[key]}."
            )
    cls = options_class(kind)
    if kind is OTHER:
        given = name_first(cls, component.values, label)
        return ChosenOptimizer(name, kind, {k: _plain(v) for k, v in given.items()}, label)
    return ChosenOptimizer(name, kind, asdict(decode(cls, component.values, label)), label)


def _plain(value: Any) -> Any:
    """Read the text of an option without a declared type: as YAML, or numbers as `0.9/0.95`."""
    if not isinstance(value, str):
        return value
    if "/" in value:
        return tuple(_plain(part) for part in value.split("/"))
    try:
        read = yaml.safe_load(value)
        return float(read) if isinstance(read, str) else read  # to YAML, 1e-8 is a text
    except (ValueError, yaml.YAMLError):
        return value


def default_lr(given: Any, start: str, usual: float) -> float:
    """Return an optimizer's default learning rate, or `usual`, which is AdamW's.

    Args:
        given: the optimizer as the user typed it.
        start: "loaded" or "random", as the weights are.
        usual: the learning rate of an optimizer that has no default of its own.
    """
    return choose_optimizer(given, "").kind.lr.get(start, usual)


def check_optimization(settings: Settings) -> None:
    """Check the optimizer and `--unfreeze-after`, as far as that needs no torch.

    Raises:
        OptionError: an option is unknown or wrong, or what is frozen would never learn.
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
    """Refuse a run that ends before what is frozen begins to learn, with an OptionError."""
    config = settings.config
    if config.max_steps and config.unfreeze_after and config.max_steps <= config.unfreeze_after:
        raise OptionError(
            f"{settings.where('unfreeze_after')}: {config.unfreeze_after}: the run has only "
            f"{config.max_steps} steps, so {', '.join(config.freeze)} would never learn. Leave "
            "this out to freeze for good."
        )
