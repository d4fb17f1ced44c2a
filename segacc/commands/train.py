"""`segacc train`, and its Python form: `for event in train(TrainConfig(...))`."""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.console import load_plugins, quiet_libraries
from segacc.errors import SegaccError, WriteError, is_main
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Layer
from segacc.training.folders import CONSOLE_LOG
from segacc.training.plan import make_plan, nothing_left

if TYPE_CHECKING:
    from segacc.training.events import Event
    from segacc.training.run import Run


def train_command(layers: list[Layer]) -> int:
    """Train and show the progress; return 0, or 128 + N if signal N stopped the run."""
    plan = make_plan(layers, load_plugins(), started=process_start())
    console = Console(soft_wrap=True, quiet=not is_main())
    if done := nothing_left(plan):
        console.out(done, highlight=False)
        return 0
    with console.status("Loading torch, the data and the weights ..."):
        quiet_libraries()
        from segacc.training.setup import build_run

        run = build_run(plan)
    if not is_main():
        return exit_code(deque(events(run), maxlen=1).pop())
    with log_of(run) as log:
        return show(run, console, log)


def show(run: "Run", console: Console, log: Console) -> int:
    """Train and show the progress on both consoles; return the exit code."""
    from segacc.commands.progress import Display

    labels, share = run.labels, functools.cache(run.scoring.share)
    make = functools.partial(
        Display, names=labels.names, palette=labels.palette, best_by=run.config.best_by
    )
    last: Event | None = None
    with make(console) as screen, make(log) as copy:
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
    return exit_code(last)


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
