"""`segacc train`: build a run, train it, show and record its events."""

import functools
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from segacc.commands.terminal.console import (
    Patient,
    PlainConsole,
    console_of,
    load_plugins,
    loading,
    quiet_libraries,
)
from segacc.errors import OptionError, SegaccError, WriteError, is_main, world_size
from segacc.registry import load_registry
from segacc.settings.secrets import without_secrets
from segacc.settings.sources import Layer, Settings
from segacc.training.folders import CONSOLE_LOG
from segacc.training.limits.exits import stopped_at_start
from segacc.training.limits.signals import Starting
from segacc.training.plan import Plan, make_plan, nothing_left

if TYPE_CHECKING:
    from segacc.training.events import Event, Stopped
    from segacc.training.run import Run


def train_command(layers: list[Layer], *, started: float | None = None) -> int:
    """Train and show the progress; return 0, or 128 + N if signal N stopped the run.

    Args:
        layers: the sources of the settings.
        started: start of the run, as a value of time.monotonic, in seconds; default: that of this
            process.
    """
    plan = None
    Starting(lambda name: stopped_at_start(name, plan))
    started = process_start() if started is None else started
    plan = make_plan(layers, load_plugins(), started=started)
    if done := nothing_left(plan):
        console_of().out(done, highlight=False)
        return 0
    last = show_run(plan, prepare=quiet_libraries)[1]
    from segacc.training.limits.ending import exit_code

    return exit_code(last)


def show_run(plan: Plan, *, prepare: Callable[[], None] = lambda: None) -> tuple["Run", "Stopped"]:
    """Build a run, train it and show the progress on the main process.

    Args:
        plan: the checked run.
        prepare: called before torch is imported.

    Returns:
        The run after its end, and its last event.
    """
    console = console_of()
    with loading(console, "torch, the data and the weights"):
        from segacc.data.quick_check import read_data

        given = read_data(plan.dataset, plan.settings.config, plan.settings.where)
        prepare()
        from segacc.training.events import Stopped
        from segacc.training.setup import build_run

        run = build_run(plan, given, fitted)
    if is_main():
        with log_of(run) as log:
            last = show(run, console, log)
    else:
        last = deque(events(run), maxlen=1).pop()
    assert isinstance(last, Stopped)
    return run, last


def fitted(run: "Run", settings: Settings) -> Settings:
    """Choose the micro-batch of `--batch-size auto`, see `fit_batch`."""
    from segacc import loop
    from segacc.training.limits.sizing import fit_batch

    gc.enable()  # `loading` pauses it, but here memory is measured
    return fit_batch(run, settings, step=loop.train_step)


def show(run: "Run", console: Console, log: Console) -> "Event | None":
    """Train and show the progress on both consoles; return the last event, or None."""
    from segacc.commands.terminal.progress import Display
    from segacc.settings.machine import cores
    from segacc.training.data import faster_data
    from segacc.training.processes import processes_here

    labels, share = run.labels, functools.cache(run.scoring.share)
    make = functools.partial(
        Display,
        names=labels.names,
        palette=labels.palette,
        best_by=run.config.best_by,
        slow_data=faster_data(run.config, cores() // processes_here(run.accelerator)),
    )
    last: Event | None = None
    with make(console) as screen, make(log, notebook=False) as copy:
        run.scoring.seen = lambda *image: screen.count_image(share())
        for last in events(run):
            for each in (screen, copy):
                try:
                    each.show(last)
                except (OSError, UnicodeError, SystemExit) as error:  # save, then end
                    if each is copy and run.config.on_save_error == "continue":
                        continue
                    each.console.quiet = True
                    run.signal.ask(unseen(error, run.folder))
    for each in (screen, copy):
        each.console.out(each.summary(), highlight=False)
    return last


@contextmanager
def log_of(run: "Run") -> Iterator[Console]:
    """Open console.log, to which a run appends; an error that ends the run is its last line."""
    from segacc.training.tracking.environment import command_line

    path = run.folder / CONSOLE_LOG
    file = path.open("a", encoding="utf-8", errors="replace", buffering=1)
    console = PlainConsole(
        file=file, soft_wrap=True, force_terminal=False, force_jupyter=False, color_system=None
    )
    try:
        console.out(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {command_line()}", highlight=False)
        yield console
    except SegaccError as error:
        with suppress(OSError):
            console.out(without_secrets(f"segacc: {error}"), highlight=False)
        raise
    finally:
        with suppress(OSError):  # on a full disk, which has been reported
            file.close()


def to_launch(processes: int | None) -> int:
    """Return how many processes `--processes` asks to start; 0 if this process trains itself.

    Raises:
        OptionError: a launcher has started another number of processes.
    """
    launched = world_size()
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
    Starting(lambda name: stopped_at_start(name, None))
    plan = make_plan(layers, load_registry())
    from segacc.data.quick_check import read_data

    read_data(plan.dataset, plan.settings.config, plan.settings.where)
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


def events(run: "Run") -> "Iterator[Event]":
    """Train a built run; the main process also writes metrics.jsonl, pictures and trackers."""
    from segacc import loop
    from segacc.training.saving.background import Uploads, publishing
    from segacc.training.saving.license import warn
    from segacc.training.tracking.record import Recorder, record
    from segacc.training.tracking.trackers import log_picture

    stream = loop.train(run)
    if run.accelerator.is_main_process:
        warn(run.base)
        tracked = bool(run.config.trackers)
        recorder = Recorder(
            folder=run.folder,
            names=run.labels.names,
            palette=run.labels.palette,
            best_by=run.config.best_by,
            log=run.accelerator.log if tracked else None,
            show=functools.partial(log_picture, run.accelerator) if tracked else None,
        )
        patient = run.config.on_save_error == "continue"
        stream = record(recorder, stream, run.signal.ask, patient=patient)
        if run.plan.repo:
            console = console_of(stderr=True, kind=Patient)
            say = functools.partial(console.out, highlight=False)
            stream = publishing(Uploads(run.plan.repo, run.folder, say), stream)
    try:
        yield from stream
    finally:
        run.lock.release()
