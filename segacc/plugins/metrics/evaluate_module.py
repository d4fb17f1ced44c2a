"""`evaluate:NAME_OR_PATH`: any metric module of the `evaluate` library."""

import functools
import inspect
import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.contracts import IGNORE, Facts
from segacc.errors import OptionError, expand
from segacc.hookspecs import Metric, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "--metric evaluate"
INPUTS = ("predictions", "references")
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
        self.arguments = arguments(kind, self.path, known, options.kwargs)
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
        self.maps = takes_maps(module)
        try:
            self._feed(module, classes, classes)
            scores = scores_of(module.compute(**self.arguments), self.names)
        except Exception as error:  # third-party code
            raise OptionError(
                f"{WHERE}: {self.path} fails on a perfect prediction of all {len(self.names)} "
                f"classes: {told(error)}."
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
        from evaluate.config import HF_METRICS_CACHE

        state, root = PartialState(), expand(HF_METRICS_CACHE)
        folder = ""
        if state.is_main_process:
            root.mkdir(parents=True, exist_ok=True)
            folder = tempfile.mkdtemp(prefix="segacc-", dir=root)
            self.tidy = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        (folder,) = broadcast_object_list([folder])
        ranks = {"num_process": state.num_processes, "process_id": state.process_index}
        module = make(kind, config, folder, **ranks)
        takes_maps(module)
        module.add_batch(predictions=[], references=[])
        return module

    def update(self, predictions: "Tensor", labels: "Tensor") -> None:
        """Add predictions (N, H, W) and labels (N, H, W), 255 ignored."""
        self.fed += self._feed(self.module, predictions, labels)

    def _feed(self, module: Any, predictions: "Tensor", labels: "Tensor") -> int:
        """Add to a module; return the number of its examples."""
        valid = labels != IGNORE
        said, true = (
            list(one.where(valid, IGNORE).cpu().numpy().astype("uint8"))
            if self.maps
            else one[valid].tolist()
            for one in (predictions, labels)
        )
        module.add_batch(predictions=said, references=true)
        return len(said)

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
            load_class(options.path, options.config)
        except OptionError as met:
            error = str(met)
    (error,) = broadcast_object_list([error])
    if error:
        raise OptionError(error)
    return load_class(options.path, options.config)


@functools.cache
def load_class(path: str, config: str | None) -> Any:
    """Return the module's class; it is loaded once per process.

    Args:
        path: a .py file, a folder with a .py file of the same name, or a name on the Hub.
        config: the module's configuration name, if it has several.

    Raises:
        OptionError: there is no such module, or it cannot be loaded.
    """
    import evaluate

    found = expand(path).resolve()
    local = found.exists() or found.suffix == ".py" or path.count("/") > 1
    local = local or path.startswith(("~", ".", "/"))
    trouble, before = "", evaluate.config.HF_EVALUATE_OFFLINE
    try:
        trouble = "" if local else hub_trouble(path)
        # Offline it looks in its cache alone: its own timeouts are minutes.
        evaluate.config.HF_EVALUATE_OFFLINE = before or bool(trouble)
        with tempfile.TemporaryDirectory() as folder:
            given = str(found) if local else path
            module = evaluate.load(given, config, "metric", cache_dir=folder, keep_in_memory=True)
    except FileNotFoundError:
        looked = f" (looked at {found})" if local else ""
        raise OptionError(f"{WHERE}: {path}{looked}: {missing(path, local, trouble)}") from None
    except Exception as error:  # third-party code and its dependencies
        raise OptionError(f"{WHERE}: {path} cannot be loaded: {told(error)}.") from None
    finally:
        evaluate.config.HF_EVALUATE_OFFLINE = before
    return type(module)


def hub_trouble(name: str) -> str:
    """Return why the Hub is unreachable; empty if it is reachable.

    Raises:
        FileNotFoundError: the Hub has no such module.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    from segacc.model.hub import HUB_TIMEOUT

    try:
        HfApi().space_info(space_of(name), timeout=HUB_TIMEOUT)
    except (HFValidationError, RepositoryNotFoundError):
        raise FileNotFoundError(name) from None
    except Exception as error:  # offline, a Hub in trouble, or what its HTTP library raises
        return type(error).__name__
    return ""


def space_of(name: str) -> str:
    """Return the module's space on the Hub; a name without an owner is one of the library's."""
    return name if "/" in name else f"evaluate-metric/{name}"


def missing(name: str, local: bool, trouble: str) -> str:
    """Return why there is no such module, and how to give one."""
    if local:
        return (
            "there is no such module. Give the module's .py file, or a folder that contains one "
            "with the folder's name."
        )
    space, file = space_of(name), f"{name.rpartition('/')[2]}.py"
    if trouble:
        return (
            f"there is no file or folder of that name, the Hub does not respond ({trouble}), and "
            f"the cache of `evaluate` does not contain it. On a computer with network access, "
            f"download {file} from https://huggingface.co/spaces/{space}, and give the copy's "
            f"path: evaluate:path/to/{file}."
        )
    return (
        f"there is no file or folder of that name, and the Hub has no metric module {space}. The "
        "modules of the library are listed at https://huggingface.co/evaluate-metric; a local file "
        "is given by its path, as evaluate:path/to/module.py."
    )


def told(error: Exception) -> str:
    """Describe another library's error in one line."""
    reason = " ".join(str(error).split())[:400].rstrip(".")
    return f"{type(error).__name__}{': ' if reason else ''}{reason}"


def make(kind: Any, config: str | None, folder: str, **more: Any) -> Any:
    """Build a module of a class loaded by `evaluate`, with its files in `folder`."""
    run = Path(folder).name
    module = kind(config_name=config, cache_dir=folder, experiment_id=run, timeout=PATIENCE, **more)
    module.download_and_prepare()
    return module


def arguments(kind: Any, path: str, known: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the module's compute: the known ones that it takes, and those typed.

    Raises:
        OptionError: compute does not take a typed argument, or needs more.
    """
    signature = inspect.signature(kind._compute)
    given = {name: value for name, value in known.items() if name in signature.parameters} | typed
    try:
        signature.bind(None, predictions=[], references=[], **given)
    except TypeError as error:
        taken = [name for name in signature.parameters if name not in ("self", *INPUTS)]
        raise OptionError(
            f"{WHERE}: kwargs: {path}: {error}. It takes {', '.join(taken) or 'none'}, given as "
            "kwargs={NAME: VALUE}."
        ) from None
    return given


def takes_maps(module: Any) -> bool:
    """Select an input format of the module; return whether it takes label maps, or single pixels.

    Raises:
        OptionError: label maps cannot be converted to any of them.
    """
    ways = module.features if isinstance(module.features, list) else [module.features]
    for depth in (2, 0):
        for way in ways:
            if set(way) == set(INPUTS) and all(depth_of(one) == depth for one in way.values()):
                module.info.features = way
                return depth == 2
    raise OptionError(
        f"{WHERE}: {module.name} takes {', '.join(map(str, ways))}. Supported are predictions and "
        "references that are images, lists of lists of integers, or integers."
    )


def depth_of(feature: Any) -> int | None:
    """Return how deep a feature's lists are, 2 for an image; None if it holds no numbers."""
    depth = 0
    while isinstance(feature, list) or hasattr(feature, "feature"):  # two notations for a list
        feature = feature[0] if isinstance(feature, list) else feature.feature
        depth += 1
    kinds = {"Image": depth + 2, "Value": depth, "ClassLabel": depth}
    return kinds.get(type(feature).__name__)


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
