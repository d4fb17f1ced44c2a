"""`segacc train --dry-run`: build a run, take a few steps, and tell what the whole run needs."""

import dataclasses
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from types import FrameType
from typing import TYPE_CHECKING

from segacc.commands.terminal.console import console_of, load_plugins, quiet_libraries
from segacc.commands.train import process_start
from segacc.data.quick_check import read_data
from segacc.errors import OptionError, is_main
from segacc.settings.sources import Layer, Settings
from segacc.settings.units import bytes_text, clock_text, gpu_memory, seconds
from segacc.training.limits.budget import Pace, Rhythm, fitted, needed
from segacc.training.limits.signals import SAME, heeded
from segacc.training.plan import Plan, make_plan

if TYPE_CHECKING:
    from segacc.data.items import Batch
    from segacc.training.run import Run

FIRST, MOST, LONGEST = 2, 20, 15.0
"""Steps that are not timed, as they are slower; most steps and seconds that are timed."""
FEW, SOME = 4, 16
"""Numbers of images of the two evaluations whose times tell that of a whole one."""


def dry_run_command(layers: list[Layer], given_memory: str | None) -> int:
    """Print what a run needs; nothing stays on the disk.

    Args:
        layers: the sources of the settings.
        given_memory: memory of the GPU that the run is planned for; None for this machine.

    Raises:
        SegaccError: a setting is invalid, as in a run.
    """
    device_memory = gpu_memory(given_memory, "--device-memory") if given_memory else None
    planned = make_plan(layers, load_plugins(), started=process_start())
    if planned.resume:
        raise OptionError("--dry-run: measures a run from its start; leave --resume out.")
    console, last = console_of(), ExitStack()
    with last, console.status("Measuring a few steps ..."), beside(planned) as plan:
        given = read_data(plan.dataset, plan.settings.config, plan.settings.where)
        quiet_libraries()
        from segacc import loop
        from segacc.training.limits.sizing import fit_batch
        from segacc.training.resume import prepare_folder
        from segacc.training.setup import assemble, choices

        fit = partial(fit_batch, step=loop.train_step, device_memory=device_memory)
        run, settings = assemble(plan, given, fit)
        last.enter_context(ended_by_signals())  # until the folder is removed
        prepare_folder(run, settings)
        told = choices(plan.settings, settings)
        lines = [*run.notes[:1], *told, *measured(run, device_memory)]
        run.accelerator.wait_for_everyone()
    for line in lines:
        console.out(line, highlight=False)
    return 0


@contextmanager
def beside(plan: Plan) -> Iterator[Plan]:
    """Give the run a folder beside its own, without trackers and a cache; remove it in the end."""
    folder = plan.folder.with_name(f".{plan.folder.name}.dry-run")
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    config = dataclasses.replace(plan.settings.config, trackers=(), cache=None, push_to_hub=None)
    settings = Settings(config, plan.settings.origins)
    try:
        yield dataclasses.replace(plan, folder=folder, settings=settings, repo=None)
    finally:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
            for parent in made[1:]:
                with suppress(OSError):  # another run has written there meanwhile
                    parent.rmdir()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block by an exception at a signal that stops runs; one within seconds is the same."""
    name, when = "", -SAME

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal name, when
        if (now := time.monotonic()) - when > SAME:  # Python ignores an exception in a finalizer
            name, when = signal.Signals(number).name, now
            raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in heeded()}
    try:
        yield
    except SystemExit:
        if name and is_main():
            sys.stderr.write(f"segacc: {name}: the dry run was stopped.\n")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def measured(run: "Run", device_memory: int | None) -> list[str]:
    """Take steps, evaluate a few images and save; return the lines to print."""
    from segacc import loop
    from segacc.evaluation.compiled import eagerly
    from segacc.evaluation.scoring import BATCH
    from segacc.training.limits.sizing import ENDLESS, memory_of, with_evaluation
    from segacc.training.processes import on_all

    config, start = run.config, time.monotonic() - run.clock.started
    run.config = dataclasses.replace(config, max_steps=ENDLESS)
    batches = endless(run)
    with eagerly():  # each size would compile anew
        memory = memory_of(run, next(batches), device_memory, loop.train_step)
    if device_memory is not None:
        images = run.scoring.eval_batch_size or BATCH
        evaluate = partial(seconds_of, run, images, images)
        memory, _ = with_evaluation(run, memory, device_memory, evaluate)
        return memory.lines(config.micro_batch_size)
    step = seconds_of_steps(run, batches)
    memory, evaluation = with_evaluation(run, memory, None, partial(seconds_of_evaluation, run))
    checkpoint, checkpoint_size = saved(run, "checkpoints")
    model, model_size = saved(run, "best")
    run.config = config
    scoring, end = evaluation + model, model + checkpoint  # as if each score were the best so far
    pace = Pace(step=step, evaluation=scoring, checkpoint=checkpoint, end=end)
    evaluations, checkpoints = (
        Rhythm(last=0, every=float(run.period(every)))
        for every in (config.eval_every, config.save_every)
    )
    total = config.max_steps
    if total is None:
        given = config.max_time or "1h", run.plan.settings.where("max_time")
        fit = partial(fitting, *given, start, pace, evaluations, checkpoints)
        total = on_all(run.accelerator, fit)
    scored, kept = evaluations.times(0, total), min(config.keep, checkpoints.times(0, total))
    whole = start + needed(total, 0, pace, evaluations, checkpoints)
    return [
        *memory.lines(config.micro_batch_size),
        f"time         {step:.3g} s a step, {evaluation:.3g} s an evaluation; {total} steps and "
        f"{scored} evaluations take {clock_text(whole)} ({whole / 3600:.2f} hours)",
        f"disk         {bytes_text(kept * checkpoint_size + 2 * model_size)}: {kept} checkpoints, "
        "best/ and last/",
    ]


def endless(run: "Run") -> Iterator[list["Batch"]]:
    """Yield the micro-batches of each step; the process ends with its launcher, as by SIGHUP."""
    from segacc.training.feed import Meter, step_batches

    yield from step_batches(run, Meter(run), run.signal)
    raise SystemExit(128 + signal.SIGHUP)


def fitting(
    limit: str, where: str, start: float, pace: Pace, evaluations: Rhythm, checkpoints: Rhythm
) -> int:
    """Return how many steps fit in the time limit of a run that begins after `start` seconds.

    Raises:
        OptionError: not even one.
    """
    if total := fitted(seconds(limit) - start, 0, pace, evaluations, checkpoints):
        return total
    least = needed(1, 0, pace, evaluations, checkpoints)
    raise OptionError(
        f"{where}: {limit}: not even one step fits: the run begins after {start:.3g} s, and a "
        f"step, an evaluation and saving take {least:.3g} s. Give more time than "
        f"{start + least:.3g} s."
    )


def seconds_of_steps(run: "Run", batches: Iterator[list["Batch"]]) -> float:
    """Take steps; return the median of their seconds, with the wait for data."""
    from segacc import loop

    taken, last = list[float](), time.perf_counter()
    for micro_batches in batches:
        numbers = loop.train_step(run, micro_batches)
        float(numbers.valid)  # waits for a GPU
        run.progress.step += 1
        run.read_up_to(micro_batches)
        now = time.perf_counter()
        taken.append(now - last)
        last = now
        if len(taken) == FIRST + MOST or (len(taken) > FIRST + 2 and sum(taken) > LONGEST):
            break
    return median(taken[FIRST:] or taken)


def seconds_of_evaluation(run: "Run") -> float:
    """Evaluate few images and some more; return the seconds of an evaluation of all of them.

    A stream is not evaluated, as its number of images need not be known: 0.
    """
    from segacc.data.batches import EvalData
    from segacc.training.saving.model import kinds

    data = run.scoring.data
    if not isinstance(data, EvalData):
        return 0.0
    whole = len(data.source)
    counts = sorted({min(FEW, whole), min(SOME, whole)})
    taken = [seconds_of(run, count) for count in counts]
    if len(counts) == 1:
        return taken[0] * len(kinds(run))
    image = max(0.0, (taken[1] - taken[0]) / (counts[1] - counts[0]))
    return (taken[1] + (whole - counts[1]) * image) * len(kinds(run))


def seconds_of(run: "Run", count: int, batch: int | None = None) -> float:
    """Evaluate so many images, evenly spaced; return the seconds that it took; 0 for a stream.

    Args:
        run: the run.
        count: number of images.
        batch: most of them at once; default: as in the run.
    """
    from segacc import loop
    from segacc.data.batches import EvalData
    from segacc.data.samples import evenly_spaced
    from segacc.data.splits import Part

    data = run.scoring.data
    if not isinstance(data, EvalData):
        return 0.0
    some = Part(data.source.samples, evenly_spaced(len(data.source), count))
    scoring = dataclasses.replace(
        run.scoring,
        data=EvalData(dataclasses.replace(data.source, samples=some)),
        eval_batch_size=batch or run.scoring.eval_batch_size,
    )
    start = time.perf_counter()
    loop.evaluate(scoring)
    return time.perf_counter() - start


def saved(run: "Run", name: str) -> tuple[float, int]:
    """Save a checkpoint or a model; return the seconds that it took, and its bytes."""
    from segacc import loop

    start = time.perf_counter()
    done = loop.save_checkpoint(run) if name == "checkpoints" else loop.saved_model(run, name)
    return time.perf_counter() - start, folder_size(done.folder)


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
