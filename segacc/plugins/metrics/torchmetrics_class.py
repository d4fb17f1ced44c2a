"""`torchmetrics:NAME`: a metric of torchmetrics whose states add up over images and processes."""

import importlib
import importlib.util
import inspect
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segacc.contracts import IGNORE, Facts
from segacc.errors import OptionError, cut, unknown
from segacc.hookspecs import Metric, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "--metric torchmetrics"
MODULES = ("torchmetrics", "torchmetrics.segmentation")
PIXELS = 4096
"""Number of pixels of the sample that a metric is tried on."""


@dataclass(frozen=True, kw_only=True)
class TorchmetricsOptions:
    """Options of torchmetrics."""

    metric: str
    """Name of a class of torchmetrics, e.g. `CohenKappa`, or of torchmetrics.segmentation."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Its arguments, e.g. `kwargs={average: weighted}`; task, num_classes and input_format are
    added if it takes them."""
    lower_is_better: tuple[str, ...] = ()
    """Names of its scores for which lower is better, as needed by `--best-by`."""


class TorchmetricsClass:
    """A metric of torchmetrics, given the labelled pixels of each image as (1, n) class indices.

    Its states are kept here and summed over processes by segacc, so its own synchronization is off.
    """

    def __init__(self, options: TorchmetricsOptions, facts: Facts) -> None:
        """Create the metric and try it on a sample.

        Raises:
            OptionError: torchmetrics is not installed or has no such metric; the arguments are
                wrong; its states are not sums; or it needs to know where a pixel lies.
        """
        self.name, self.names = options.metric, facts.class_names
        self.key = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", options.metric).lower()
        self.metric = created(options, facts)
        refuse_others_than_sums(self.metric, self.name)
        self.state: dict[str, Tensor] = self._cleared()
        self.empty = {
            key: dict.fromkeys(score, math.nan) if isinstance(score, dict) else math.nan
            for key, score in self._tried(facts.num_classes).items()
        }
        if wrong := sorted(set(options.lower_is_better) - set(self.empty)):
            raise OptionError(
                f"{WHERE}: lower_is_better: {self.name} returns no score {', '.join(wrong)}. Its "
                f"scores: {', '.join(self.empty)}."
            )
        self.state = self._cleared()

    def _tried(self, num_classes: int) -> dict[str, Any]:
        """Return the scores of a sample, which the order of the pixels may not change."""
        import torch

        draw = torch.Generator().manual_seed(0)
        said, true = (torch.randint(num_classes, (PIXELS,), generator=draw) for _ in range(2))
        order = torch.randperm(PIXELS, generator=draw)
        found = []
        try:
            for places in (slice(None), order):
                self.state = self._cleared()
                self._add(said[places], true[places])
                found.append(self.compute())
        except Exception as error:  # its own complaint
            reason = cut(" ".join(str(error).split())).rstrip(".")
            raise OptionError(f"{WHERE}: {self.name} fails on class indices: {reason}.") from error
        pairs = zip(*(numbers(one) for one in found), strict=True)
        if not all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-7) or a != a for a, b in pairs):
            raise OptionError(
                f"{WHERE}: {self.name} depends on where the pixels lie, but it is given those that "
                "are labelled, as a list."
            )
        return found[0]

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Add predictions (N, H, W) and labels (N, H, W), 255 ignored, image by image."""
        for said, true in zip(predictions, labels, strict=True):
            valid = true != IGNORE
            if valid.any():
                self._add(said[valid], true[valid])

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the score under the metric's name, with K values by class; nan if it is empty."""
        if not int(self.state["segacc_images"]):
            return self.empty
        self._load(self.metric.device)
        return self._scores(self.metric.compute())

    def _add(self, said: "Tensor", true: "Tensor") -> None:
        self._load(said.device)
        self.metric.update(said[None], true[None])
        count = self.state["segacc_images"].to(said.device) + 1
        self.state = {key: getattr(self.metric, key) for key in self.metric._defaults}
        self.state["segacc_images"] = count

    def _load(self, device: Any) -> None:
        """Put the state into the metric, which drops what it computed before."""
        self.metric.to(device).reset()
        for key in self.metric._defaults:
            setattr(self.metric, key, self.state[key].to(device))
        self.metric._update_count = 1

    def _cleared(self) -> "dict[str, Tensor]":
        import torch

        state = {key: value.clone() for key, value in self.metric._defaults.items()}
        return {**state, "segacc_images": torch.zeros((), dtype=torch.int64)}

    def _scores(self, found: Any) -> dict[str, Any]:
        """Name the numbers of a result: a scalar, K values, or a dictionary of these."""
        results = found if isinstance(found, dict) else {self.key: found}
        scores: dict[str, Any] = {}
        for key, value in results.items():
            if value.ndim == 0:
                scores[key] = float(value)
            elif tuple(value.shape) == (len(self.names),):
                scores[key] = dict(zip(self.names, value.double().tolist(), strict=True))
            else:
                raise ValueError(f"{key} has the shape {tuple(value.shape)}; expected () or K")
        return scores


def refuse_others_than_sums(metric: Any, name: str) -> None:
    """Refuse a metric with states that are not summed over processes; make floats float64.

    Raises:
        OptionError: it has such a state.
    """
    kept = {key: getattr(how, "__name__", "none") for key, how in metric._reductions.items()}
    if others := [f"{key} ({how})" for key, how in kept.items() if how != "dim_zero_sum"]:
        raise OptionError(
            f"{WHERE}: {name} keeps {', '.join(others)}, which does not add up over images and "
            "processes; only sums do."
        )
    for key, value in metric._defaults.items():  # set_dtype would turn integers into floats, too
        metric._defaults[key] = value.double() if value.is_floating_point() else value


def numbers(scores: dict[str, Any]) -> list[float]:
    """List all numbers of scores."""
    values = (one.values() if isinstance(one, dict) else [one] for one in scores.values())
    return [value for some in values for value in some]


def created(options: TorchmetricsOptions, facts: Facts) -> Any:
    """Create a metric of torchmetrics.

    Raises:
        OptionError: torchmetrics is not installed or has no such metric, or the arguments are
            wrong.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise OptionError(
            f"{WHERE}: the package torchmetrics is not installed. Install it with `pip install "
            "'segacc[torchmetrics]'`."
        )
    from torchmetrics import Metric as Base

    known = {
        name: one
        for module in map(importlib.import_module, MODULES)
        for name, one in vars(module).items()
        if inspect.isclass(one) and issubclass(one, Base) and one is not Base
    }
    if options.metric not in known:
        raise OptionError(f"{WHERE}: {unknown('metric', options.metric, known)}.")
    kind = known[options.metric]
    make = kind.__new__ if "task" in inspect.signature(kind.__new__).parameters else kind.__init__
    taken = inspect.signature(make).parameters
    given = {"task": "multiclass", "num_classes": facts.num_classes, "input_format": "index"}
    given = {name: value for name, value in given.items() if name in taken}
    try:
        metric = kind(**{**given, **options.kwargs}, sync_on_compute=False)
    except Exception as error:  # its own complaint about its arguments
        reason = cut(" ".join(str(error).split())).rstrip(".")
        names = [name for name in taken if name not in ("self", "cls", "kwargs")]
        raise OptionError(
            f"{WHERE}: {options.metric} fails: {reason}. It takes {', '.join(names)}, given as "
            "kwargs={NAME: VALUE}."
        ) from error
    return metric


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register torchmetrics."""
    return [
        Metric(
            name="torchmetrics",
            summary="a metric of torchmetrics that adds up, as torchmetrics:CohenKappa",
            options=TorchmetricsOptions,
            build=TorchmetricsClass,
            lower_is_better=lambda options: options.lower_is_better,
        )
    ]
