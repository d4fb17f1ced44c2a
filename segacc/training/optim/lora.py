"""The options of `--lora`: adapters that are trained in place of the encoder's weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan, PositiveInt

from segacc.model.exported import need
from segacc.settings.options import decode, parse_component
from segacc.settings.sources import Settings

PositiveFloat = Annotated[float, Gt(0), AllowInfNan(False)]


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Options of `--lora`."""

    r: PositiveInt
    """Rank of the adapters."""
    alpha: PositiveInt | None = None
    """The change of the weights is scaled by alpha / r; default 2 r."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout on the input of the adapters."""
    targets: tuple[str, ...] = ()
    """Names, or ends of the names, of the encoder's layers that get an adapter, such as
    `q_proj/v_proj`; `*` matches anything. Default: all linear layers."""
    lr_scale: PositiveFloat = 10.0
    """Factor on the learning rate: adapters start from zero, like a new head."""

    @property
    def scale(self) -> int:
        """Return `alpha`, or its default."""
        return self.alpha or 2 * self.r

    def to_dict(self) -> dict[str, Any]:
        """Return it for segacc.json."""
        return {**asdict(self), "alpha": self.scale}


def choose_lora(settings: Settings) -> LoraOptions | None:
    """Parse `r=16,alpha=32`, or in YAML a mapping; None if it was not given, or is `none`.

    Raises:
        OptionError: an option is unknown or invalid, or peft is not installed.
    """
    given, where = settings.config.lora, settings.where("lora")
    if given in (None, "none"):
        return None
    if isinstance(given, Mapping):
        values = {str(key).replace("-", "_"): value for key, value in given.items()}
    else:
        values = dict(parse_component(f"lora:{given}", where).values)
    options = decode(LoraOptions, values, where)
    need(("peft",), where)
    return options
