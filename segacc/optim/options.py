"""The options of each optimizer: arguments of its class under the same names, with its defaults.

Learning rate and weight decay are not among them: parameter groups give these.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan, BeforeValidator


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
