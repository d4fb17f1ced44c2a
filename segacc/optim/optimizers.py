"""Optimizers by name: torch's, and some of timm's; chosen and checked without torch."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from segacc.errors import OptionError, did_you_mean
from segacc.optim import options
from segacc.settings.options import decode, parse_component
from segacc.settings.sources import Settings


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


BOTH = ("cpu", "cuda")

# Left out of torch.optim: LBFGS (asks for the loss several times a step), SparseAdam (sparse
# gradients only), Muon (2-D tensors only), Rprop (whole data sets as batches, no weight decay) and
# ASGD (its average of the weights would go unused). Learning rates: SGD's is that of
# mmsegmentation's schedules, Lion's a fifth of AdamW's (the paper: 3 to 10 times smaller), the
# others are the libraries' defaults.
OPTIMIZERS: Mapping[str, Kind] = {
    "adamw": Kind(place="torch.optim.AdamW", options=options.AdamWOptions, fused=BOTH),
    "adam": Kind(place="torch.optim.Adam", options=options.AdamOptions, fused=BOTH),
    "adamax": Kind(place="torch.optim.Adamax", options=options.AdamaxOptions),
    "nadam": Kind(place="torch.optim.NAdam", options=options.NAdamOptions),
    "radam": Kind(place="torch.optim.RAdam", options=options.RAdamOptions),
    "sgd": Kind(place="torch.optim.SGD", options=options.SGDOptions, fused=BOTH, lr=_both(0.01)),
    "rmsprop": Kind(place="torch.optim.RMSprop", options=options.RMSpropOptions),
    "adagrad": Kind(
        place="torch.optim.Adagrad", options=options.AdagradOptions, fused=BOTH, lr=_both(0.01)
    ),
    "adadelta": Kind(place="torch.optim.Adadelta", options=options.AdadeltaOptions, lr=_both(1.0)),
    "adafactor": Kind(
        place="torch.optim.Adafactor", options=options.AdafactorOptions, lr=_both(0.01)
    ),
    "lion": Kind(
        place="timm.optim.Lion",
        options=options.LionOptions,
        lr={"loaded": 1.2e-5, "random": 2e-4},
    ),
    "lamb": Kind(
        place="timm.optim.Lamb",
        options=options.LambOptions,
        fixed={"max_grad_norm": None},  # gradients are clipped before, as --max-grad-norm says
    ),
    "lars": Kind(place="timm.optim.Lars", options=options.LarsOptions, lr=_both(1.0)),
    "adan": Kind(place="timm.optim.Adan", options=options.AdanOptions),
    "adopt": Kind(place="timm.optim.Adopt", options=options.AdoptOptions),
}

ALIASES = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "lion_32bit": "lion"}
"""transformers' names (`transformers.training_args.OptimizerNames`) where they differ; its `sgd`,
`rmsprop`, `adagrad` and `adafactor` are called so here, too."""


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
