"""`segacc train`, and its Python form: `for event in train(TrainConfig(...))`."""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.console import load_plugins, quiet_libraries
from segacc.errors import OptionError, WriteError, is_main
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Layer
from segacc.training.plan import make_plan

if TYPE_CHECKING:
    from segacc.training.events import Event
    from segacc.training.run import Run


def train_command(layers: list[Layer]) -> int:
    """Train and show the progress; return 0, or 128 + N if signal N stopped the run."""
    plan = make_plan(layers, load_plugins(), started=process_start())
    console = Console(soft_wrap=True, quiet=not is_main())
    with console.status("Loading torch, the data and the weights ..."):
        quiet_libraries()
        from segacc.training.events import Stopped
        from segacc.training.setup import build_run

        run = build_run(plan)
    stopped: Stopped | None = None
    if not is_main():
        for event in events(run):
            stopped = event if isinstance(event, Stopped) else stopped
        return exit_code(stopped)
    from segacc.commands.progress import Display

    with Display(
        console, names=run.labels.names, palette=run.labels.palette, best_by=run.config.best_by
    ) as screen:
        for event in events(run):
            try:
                screen.show(event)
            except (OSError, UnicodeError, SystemExit) as error:  # save, then end
                console.quiet = True
                run.signal.ask(unseen(error, run.folder))
            stopped = event if isinstance(event, Stopped) else stopped
    console.out(screen.summary(), highlight=False)
    return exit_code(stopped)


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


def exit_code(stopped: Any) -> int:
    """Return 0 for a finished run, 128 + N for one that signal N stopped."""
    import signal

    if stopped is None or stopped.resume is None:
        return 0
    return 128 + int(signal.Signals[stopped.reason])


def train(config: TrainConfig) -> "Iterator[Event]":
    """Train as `python -m segacc` does and yield the events; the run folder is written as well.

    Raises:
        SegaccError: a setting, the data or the weights are invalid.
    """
    from segacc.training.setup import build_run

    fields = dataclasses.fields(TrainConfig)
    typed = {
        f.name: getattr(config, f.name) for f in fields if getattr(config, f.name) != f.default
    }
    layers = [Layer(typed, "TrainConfig")]
    yield from events(build_run(make_plan(layers, load_registry())))


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
