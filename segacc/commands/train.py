"""`segacc train`, and its Python forms: `fit(...)` and `for event in train(TrainConfig(...))`."""

import dataclasses
import functools
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.console import console_of, load_plugins, quiet_libraries
from segacc.errors import OptionError, SegaccError, WriteError, is_main
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Layer, keywords_of
from segacc.training.folders import CONSOLE_LOG
from segacc.training.plan import Plan, make_plan, nothing_left

if TYPE_CHECKING:
    from segacc.training.events import Event, Stopped
    from segacc.training.run import Run

SOURCE = "TrainConfig"
UNUSED = (
    "nothing was trained yet. Iterate over it, as in `for event in segacc.train(config)`, or call "
    "segacc.fit(config)"
)


def train_command(layers: list[Layer]) -> int:
    """Train and show the progress; return 0, or 128 + N if signal N stopped the run."""
    plan = make_plan(layers, load_plugins(), started=process_start())
    if done := nothing_left(plan):
        console_of().out(done, highlight=False)
        return 0
    return exit_code(show_run(plan, prepare=quiet_libraries)[1])


def show_run(plan: Plan, *, prepare: Callable[[], None] = lambda: None) -> tuple["Run", "Stopped"]:
    """Build a run, train it and show the progress on the main process.

    Args:
        plan: the checked run.
        prepare: called before torch is imported.

    Returns:
        The run after its end, and its last event.
    """
    console = console_of()
    with console.status("Loading torch, the data and the weights ..."):
        prepare()
        from segacc.training.events import Stopped
        from segacc.training.setup import build_run

        run = build_run(plan)
    if is_main():
        with log_of(run) as log:
            last = show(run, console, log)
    else:
        last = deque(events(run), maxlen=1).pop()
    assert isinstance(last, Stopped)
    return run, last


def show(run: "Run", console: Console, log: Console) -> "Event | None":
    """Train and show the progress on both consoles; return the last event, or None."""
    from segacc.commands.progress import Display

    labels, share = run.labels, functools.cache(run.scoring.share)
    make = functools.partial(
        Display, names=labels.names, palette=labels.palette, best_by=run.config.best_by
    )
    last: Event | None = None
    with make(console) as screen, make(log, notebook=False) as copy:
        run.scoring.seen = lambda *image: screen.count_image(share())
        for last in events(run):
            for each in (screen, copy):
                try:
                    each.show(last)
                except (OSError, UnicodeError, SystemExit) as error:  # save, then end
                    each.console.quiet = True
                    run.signal.ask(unseen(error, run.folder))
    for each in (screen, copy):
        each.console.out(each.summary(), highlight=False)
    return last


@contextmanager
def log_of(run: "Run") -> Iterator[Console]:
    """Open console.log, to which a run appends; an error that ends the run is its last line."""
    from segacc.training.tracking import command_line

    path = run.folder / CONSOLE_LOG
    file = path.open("a", encoding="utf-8", errors="replace", buffering=1)
    console = Console(file=file, soft_wrap=True, force_terminal=False, color_system=None)
    try:
        console.out(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {command_line()}", highlight=False)
        yield console
    except SegaccError as error:
        with suppress(OSError):
            console.out(f"segacc: {error}", highlight=False)
        raise
    finally:
        with suppress(OSError):  # on a full disk, which has been reported
            file.close()


def to_launch(processes: int | None) -> int:
    """Return how many processes `--processes` asks to start; 0 if this process trains itself.

    Raises:
        OptionError: a launcher has started another number of processes.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if processes and launched not in (1, processes):
        raise OptionError(
            f"--processes: {processes}: a launcher has already started {launched} processes; leave "
            "this out."
        )
    return processes if processes and processes > launched else 0


def launch_command(layers: list[Layer], processes: int, args: list[str]) -> int:
    """Check what needs no torch, then run `segacc train` in several processes.

    Args:
        layers: the sources of the settings.
        processes: number of processes.
        args: the arguments of `segacc train`, for each of the processes.
    """
    make_plan(layers, load_registry())
    with Console(stderr=True).status(f"Starting {processes} processes ..."):
        from segacc.training.processes import launch
    return launch(processes, ["train", *args])


def unseen(error: BaseException, folder: Path) -> Exception:
    """Return the error with which a run ends when its console output cannot be written.

    A closed pipe gives BrokenPipeError, which is not reported; rich raises SystemExit for it.
    """
    if isinstance(error, BrokenPipeError | SystemExit):
        return BrokenPipeError()
    return WriteError(
        f"the console output cannot be written: {error}. The run was saved and stopped; continue "
        f"it with --resume {folder}."
    )


def process_start() -> float:
    """Return when this process started, as a value of time.monotonic, in seconds."""
    import psutil

    return time.monotonic() - (time.time() - float(psutil.Process().create_time()))


def exit_code(stopped: "Stopped") -> int:
    """Return 0 for a finished run, 128 + N for one that signal N stopped."""
    import signal

    if stopped.resume is None:
        return 0
    return 128 + int(signal.Signals[stopped.reason])


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
    from segacc.training.setup import build_run

    yield from events(build_run(make_plan([_layer(config)], load_registry())))


def events(run: "Run") -> "Iterator[Event]":
    """Train a built run; the main process also writes metrics.jsonl, pictures and trackers."""
    from segacc import loop
    from segacc.training import tracking

    stream = loop.train(run)
    if run.accelerator.is_main_process:
        stream = tracking.record(
            run.folder,
            stream,
            names=run.labels.names,
            palette=run.labels.palette,
            best_by=run.config.best_by,
            log=run.accelerator.log if run.config.trackers else None,
            failed=run.signal.ask,
        )
    try:
        yield from stream
    finally:
        run.lock.release()
