"""Training in Python: `fit(...)`, and `for event in train(TrainConfig(...))`."""

import dataclasses
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.commands.terminal.console import load_plugins
from segacc.commands.train import events, fitted, show_run
from segacc.errors import OptionError
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.recipes import read_recipe
from segacc.settings.sources import Layer, as_keywords, keywords_of, merge
from segacc.training.plan import make_plan

if TYPE_CHECKING:
    from segacc.training.events import Event

SOURCE = "TrainConfig"
UNUSED = (
    "nothing was trained yet. Iterate over it, as in `for event in segacc.train(config)`, or call "
    "segacc.fit(config)"
)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run left behind."""

    folder: Path
    """The run folder."""
    step: int
    """Number of optimizer steps done."""
    best_by: str
    """The score that selects `best/`, such as `mean_iou`."""
    best_score: float | None
    """Its best value; None before the first evaluation, or if every value is nan."""
    reason: str
    """Why the run ended: `finished`, `early stop: ...`, or the name of a signal, such as `SIGINT`
    after Ctrl+C or after the kernel was interrupted."""
    resume: str | None = None
    """The command that continues the run, if steps are left."""


@keywords_of(TrainConfig)
def fit(config: TrainConfig | None = None, **settings: Any) -> TrainingResult:
    """Train as `segacc` does on the command line, with its progress display, also in notebooks.

    Only the main process of several shows the progress. `train` is the same without a display.

    Args:
        config: the settings.
        **settings: fields of TrainConfig; they override those of `config`.

    Raises:
        SegaccError: a setting, the data or the weights are invalid.
    """
    layers = [] if config is None else [_layer(config)]
    plan = make_plan([*layers, Layer(settings, "segacc.fit")], load_plugins())
    run, stopped = show_run(plan)
    return TrainingResult(
        folder=run.folder,
        step=stopped.step,
        best_by=run.config.best_by,
        best_score=run.progress.best,
        reason=stopped.reason,
        resume=stopped.resume,
    )


def recipe(name: str) -> TrainConfig:
    """Return the settings of a recipe, which `--recipe NAME` uses on the command line.

    They are complete but for the data set: `segacc.fit(segacc.recipe("tutorial"), dataset=...)`.

    Raises:
        OptionError: there is no recipe of this name.
    """
    return merge([read_recipe(name, "segacc.recipe")]).config


def train(config: TrainConfig) -> "Training":
    """Train as `python -m segacc` does and yield the events; the run folder is written as well.

    Nothing happens before the first event is asked for. `fit` trains to the end at once.

    Raises:
        SegaccError: a setting, the data or the weights are invalid.
    """
    return Training(config)


class Training(Iterator["Event"]):
    """The generator of a run's events that `train` returns.

    It warns if it is deleted before the first event was asked for, as nothing was trained then.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Prepare the run; nothing is checked yet."""
        self._begun = False
        self._events = _trained(config)

    def __next__(self) -> "Event":
        """Train up to the next event."""
        self._begun = True
        return next(self._events)

    def close(self) -> None:
        """End the run without saving it."""
        self._begun = True
        self._events.close()

    def __repr__(self) -> str:
        """Return what it is, and what to do with it if nothing was done."""
        return "<segacc.train: begun>" if self._begun else f"<segacc.train: {UNUSED}>"

    def __del__(self) -> None:
        """Warn if nothing was trained."""
        if not self._begun:
            warnings.warn(f"segacc.train: {UNUSED}", stacklevel=2)


def _layer(config: TrainConfig) -> Layer:
    """Return the settings of a TrainConfig that are not defaults.

    Raises:
        OptionError: it is something else.
    """
    if not isinstance(config, TrainConfig):
        raise OptionError(
            f"segacc: expected a TrainConfig, found {type(config).__name__}. segacc.fit takes its "
            "fields as keywords, too, as in segacc.fit(max_steps=100)."
        )
    fields = dataclasses.fields(TrainConfig)
    values = {f.name: getattr(config, f.name) for f in fields}
    return Layer({f.name: values[f.name] for f in fields if values[f.name] != f.default}, SOURCE)


def _trained(config: TrainConfig) -> "Generator[Event, None, None]":
    with as_keywords(TrainConfig):
        plan = make_plan([_layer(config)], load_registry())
        from segacc.data.quick_check import read_data

        given = read_data(plan.dataset, plan.settings.config, plan.settings.where)
        from segacc.training.setup import build_run

        yield from events(build_run(plan, given, fitted))
