"""`evaluate:NAME_OR_PATH`: any metric module of the `evaluate` library."""

import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.contracts import IGNORE, Facts
from segacc.errors import OptionError
from segacc.hookspecs import Metric, hookimpl
from segacc.plugins.metrics import evaluate_loading
from segacc.plugins.metrics.evaluate_loading import WHERE

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 600.0
"""Timeout in seconds for opening and reading the files shared between processes."""
TRIAL = (32, 32)
"""(H, W) of the perfect prediction that is used to find out a module's score names."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of evaluate."""

    path: str
    """The module's .py file, a folder with a .py file of the same name, or its name on the Hub."""
    config: str | None = None
    """The module's configuration name, if it has several."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Additional arguments of the module's compute, e.g. `kwargs={average: macro}`; num_labels,
    num_classes and ignore_index (255) are added if it accepts them."""
    lower_is_better: tuple[str, ...] = ()
    """Names of its scores for which lower is better, as needed by `--best-by`; modules do not
    provide this."""


class EvaluateModule:
    """A metric module, updated on every process and computed on the main one, as in `evaluate`.

    A module for images or lists of lists gets whole label maps, with 255 in labels and predictions
    where the label is ignored; a module for single values gets the labelled pixels. It gathers its
    inputs itself, through files in the folder HF_METRICS_CACHE, which all processes must share. So
    `state` is empty, and all processes must build it and call `compute` together, once.
    """

    def __init__(self, options: EvaluateOptions, facts: Facts) -> None:
        """Load the module and open its files.

        Raises:
            OptionError: the module cannot be loaded, or is not applicable to label maps.
        """
        self.state: dict[str, Tensor] = {}
        self.path, self.names, self.fed = options.path, facts.class_names, 0
        kind = agreed_class(options)
        known = {"num_labels": facts.num_classes, "num_classes": facts.num_classes}
        known["ignore_index"] = IGNORE
        self.arguments = evaluate_loading.arguments(kind, self.path, known, options.kwargs)
        with tempfile.TemporaryDirectory() as folder:
            self.empty = self._try_out(make(kind, options.config, folder, keep_in_memory=True))
        if unknown := sorted(set(options.lower_is_better) - set(self.empty)):
            raise OptionError(
                f"{WHERE}: lower_is_better: {self.path} returns no score {', '.join(unknown)}. Its "
                f"scores: {', '.join(self.empty)}."
            )
        self.module = self._open(kind, options.config)

    def _try_out(self, module: Any) -> dict[str, Any]:
        """Score a perfect prediction of all classes; return the score names with nan."""
        import torch

        classes = torch.arange(TRIAL[0] * TRIAL[1]).remainder(len(self.names)).view(1, *TRIAL)
        try:
            self.form = chosen_form(module)
            self._feed(module, classes, classes)
            scores = scores_of(module.compute(**self.arguments), self.names)
        except OptionError:
            raise
        except Exception as error:  # third-party code
            raise OptionError(
                f"{WHERE}: {self.path} fails on a perfect prediction of all {len(self.names)} "
                f"classes: {evaluate_loading.told(error)}."
            ) from error
        if not scores:
            raise OptionError(f"{WHERE}: {self.path} returns neither a number nor one per class.")
        return {
            name: dict.fromkeys(score, math.nan) if isinstance(score, dict) else math.nan
            for name, score in scores.items()
        }

    def _open(self, kind: Any, config: str | None) -> Any:
        """Open this process's file; all processes do it now, since some may get no images."""
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        state = PartialState()
        (folder,) = broadcast_object_list([new_folder() if state.is_main_process else ""])
        if state.is_main_process:
            self.tidy = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        ranks = {"num_process": state.num_processes, "process_id": state.process_index}
        module = make(kind, config, folder, **ranks)
        chosen_form(module)
        module.add_batch(predictions=[], references=[])
        return module

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Add predictions (N, H, W) and labels (N, H, W), 255 ignored."""
        self.fed += self._feed(self.module, predictions, labels)

    def _feed(self, module: Any, predictions: "Tensor", labels: "Tensor") -> int:
        """Add to a module; return the number of its examples."""
        valid = labels != IGNORE
        columns: list[Any]
        if self.form == "pixels":
            columns = [one[valid].tolist() for one in (predictions, labels)]
        else:
            maps = [one.where(valid, IGNORE).cpu().numpy() for one in (predictions, labels)]
            columns = [list(one.astype("uint8")) for one in maps]
            if self.form == "rows":
                columns = [one.tolist() for one in maps]
        module.add_batch(predictions=columns[0], references=columns[1])
        return len(columns[0])

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return the module's scores under its own names, nan if nothing was added.

        Numbers are used as they are, and lists of K numbers by class. Processes other than the main
        one return nan.
        """
        from accelerate import PartialState
        from accelerate.utils import gather_object

        found = None
        if sum(gather_object([self.fed])):
            found = self.module.compute(**self.arguments)
        if PartialState().is_main_process:
            self.tidy()
        scores = {} if found is None else scores_of(found, self.names)
        return {name: scores.get(name, nothing) for name, nothing in self.empty.items()}


def agreed_class(options: EvaluateOptions) -> Any:
    """Return the module's class, downloaded by the main process; errors are raised on all.

    Raises:
        OptionError: the module cannot be loaded.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    error = ""
    if PartialState().is_main_process:
        try:
            evaluate_loading.load_class(options.path, options.config)
        except OptionError as met:
            error = str(met)
    (error,) = broadcast_object_list([error])
    if error:
        raise OptionError(error)
    return evaluate_loading.load_class(options.path, options.config)


def make(kind: Any, config: str | None, folder: str, **more: Any) -> Any:
    """Build a module of a class loaded by `evaluate`, with its files in `folder`."""
    run = Path(folder).name
    module = kind(config_name=config, cache_dir=folder, experiment_id=run, timeout=PATIENCE, **more)
    module.download_and_prepare()
    return module


def new_folder() -> str:
    """Create a folder in the cache of `evaluate`, which the processes share."""
    from evaluate import config

    root = Path(config.HF_METRICS_CACHE).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix="segacc-", dir=root)


def chosen_form(module: Any) -> str:
    """Select one of the module's input formats, and return its form.

    Raises:
        OptionError: label maps cannot be converted to any of them.
    """
    ways = module.features if isinstance(module.features, list) else [module.features]
    forms = {evaluate_loading.form_of(way): way for way in reversed(ways)}
    for form in ("pictures", "rows", "pixels"):
        if form in forms:
            module.info.features = forms[form]
            return form
    raise OptionError(
        f"{WHERE}: {module.name} takes {', '.join(map(str, ways))}. Supported are predictions and "
        "references that are images, lists of lists of integers, or integers."
    )


def scores_of(result: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Extract the numbers from a module's result, and lists of K numbers by class name."""
    import numpy as np

    scores: dict[str, Any] = {}
    for name, value in result.items():
        values = np.asarray(value)
        if values.dtype.kind not in "buif":
            continue
        if values.ndim == 0:
            scores[name] = float(values)
        elif values.shape == (len(names),):
            scores[name] = dict(zip(names, values.astype(float).tolist(), strict=True))
    return scores


@hookimpl
def segacc_metrics() -> list[Metric]:
    """Register evaluate."""
    return [
        Metric(
            name="evaluate",
            summary="any metric module of the evaluate library, by name or path",
            options=EvaluateOptions,
            build=EvaluateModule,
            lower_is_better=lambda options: options.lower_is_better,
        )
    ]
