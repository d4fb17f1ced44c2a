"""Common options of losses: the weight of the term, and class weights."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import AllowInfNan

from segacc.contracts import Facts
from segacc.errors import OptionError

Weight = Annotated[float, Gt(0), AllowInfNan(False)]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Options of every loss."""

    weight: Weight = 1.0
    """Factor of this term in the sum of all losses."""


@dataclass(frozen=True, kw_only=True)
class ClassWeightedOptions(LossOptions):
    """Options of a loss with class weights."""

    class_weights: tuple[Annotated[float, Ge(0), AllowInfNan(False)], ...] = ()
    """Weight of each class in order, e.g. `class_weights=1/1/4.5`; default: --class-weights if
    given, else 1 for all."""

    def __post_init__(self) -> None:
        """Reject class weights that are all 0."""
        if self.class_weights and not any(self.class_weights):
            raise ValueError("class_weights: no weight is above 0")


def check_class_weights(options: ClassWeightedOptions, facts: Facts, name: str) -> None:
    """Check that there is one weight per class.

    Raises:
        OptionError: the number of weights is wrong, or --class-weights is given as well.
    """
    given, classes = len(options.class_weights), facts.num_classes
    if given and facts.class_weights is not None:
        raise OptionError(
            f"--loss {name}: class_weights is given here and as --class-weights; give one of them."
        )
    if given not in (0, classes):
        raise OptionError(
            f"--loss {name}: class_weights has {given} numbers, the data set {classes} classes: "
            f"{', '.join(facts.class_names)}."
        )
