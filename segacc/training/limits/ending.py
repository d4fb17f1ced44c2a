"""When and why a run ends, and the number of steps that fits in `--max-time`."""

import signal
from collections.abc import Iterator

from accelerate.utils import broadcast_object_list

from segacc.errors import SegaccError
from segacc.settings.sources import Settings
from segacc.settings.units import seconds
from segacc.training.defaults import check_warmup
from segacc.training.events import Fitted, Stopped
from segacc.training.limits.budget import FIRST_FIT, RESERVE, SLACK, Pace, Rhythm, fitted
from segacc.training.limits.exits import resume_command, write_exit
from segacc.training.optim.optimizers import check_length
from segacc.training.run import Run


def reason(run: Run) -> str:
    """Return why the run is over; an empty string while steps are left."""
    if run.progress.step >= run.max_steps:
        return "finished"
    return run.early_stop.reason(run.progress) if run.early_stop else ""


def stopped(run: Run, name: str) -> Stopped:
    """Return the last event: the run is over, or was stopped by a signal, here or elsewhere."""
    step, why = run.progress.step, reason(run)
    stop = Stopped(step=step, reason=why)
    if not why or run.evaluation_due():  # it was stopped before its last evaluation
        stop = Stopped(step=step, reason=name or "SIGTERM", resume=resume_command(run.folder))
    note_exit(run, stop)
    return stop


def note_exit(run: Run, stop: Stopped | None, error: Exception | None = None) -> None:
    """Write exit.json on the main process: why the run ended, and how to continue it.

    Scripts read it, since launchers do not pass the exit code on. A process that is killed does not
    write it, and each start deletes it.

    Args:
        run: the run.
        stop: its last event; None after an error.
        error: the error that ends it.
    """
    if not run.accelerator.is_main_process:
        return
    progress = run.progress
    content = {
        "reason": stop.reason if stop else "error",
        "code": exit_code(stop) if stop else 2 if isinstance(error, SegaccError) else 1,
        "step": progress.step,
        "max_steps": run.max_steps,
        "saved_step": progress.saved or None,
        "resume": stop.resume if stop else resume_command(run.folder) if progress.saved else None,
        "error": str(error) if error else None,
    }
    write_exit(run.folder, content)


def exit_code(stop: Stopped) -> int:
    """Return 0 for a finished run, 128 + N for one that signal N stopped."""
    return 0 if stop.resume is None else 128 + int(signal.Signals[stop.reason])


def tell(run: Run, error: Exception) -> None:
    """Add to an error that ends the run what is saved, and how to continue."""
    step, saved = run.progress.step, run.progress.saved
    text = "No checkpoint was saved yet." if step else ""
    if saved:
        what = "The run is saved" if saved == step else "The newest checkpoint is"
        command = resume_command(run.folder)
        text = f"{what} at step {saved}; once this is fixed, `{command}` continues it."
    if run.accelerator.num_processes > 1 and not isinstance(error, SegaccError):
        text = " ".join([*run.lock.missing(), text])
    if text and isinstance(error, SegaccError):
        error.args = (f"{error} {text}",)
    elif text:
        error.add_note(text)
    note_exit(run, None, error)


def refit(run: Run) -> Iterator[Fitted]:
    """Fit the number of steps to `--max-time` when due; the main process decides for all.

    It is due after the first few steps, again after twice as many, after each evaluation and
    checkpoint, and more often near the end. Until the speed is known, the first guess is kept
    unless not even one more step fits.
    """
    clock, progress = run.clock, run.progress
    limit, step = run.config.max_time, progress.step
    if limit is None or step < clock.next_fit or step >= run.max_steps:
        return
    (total,) = broadcast_object_list([fit(run, seconds(limit))])
    if clock.steps < FIRST_FIT and total > step:
        return
    if clock.steps == FIRST_FIT:
        check_fitted(run, total, limit)
    clock.next_fit = step + max(1, min(clock.steps, (total - step) // 2))
    if total != progress.max_steps:
        progress.max_steps = total
        yield Fitted(step=step, max_steps=total, limit=limit, used=clock.used())


def check_fitted(run: Run, total: int, limit: str) -> None:
    """Check the settings against the fitted number of steps; all processes call it.

    Raises:
        OptionError: the warm-up or another setting needs more steps than the run will have.
    """
    settings = Settings(run.config, run.plan.settings.origins)
    fitted_to = settings.chosen({"max_steps": (total, f"fitted to {limit}")})
    check_length(fitted_to)
    check_warmup(fitted_to, total, f"{total}")


def fit(run: Run, limit: float) -> int:
    """Return the number of steps that fits by this process's measurements."""
    config, progress = run.config, run.progress
    least, of_startup, of_limit = RESERVE
    reserve = max(least, of_startup * run.clock.startup) + of_limit * limit
    left = limit - reserve - run.clock.used()
    if run.clock.steps == 1:  # the first step is slower, so it says nothing about the speed
        return progress.step + (left > 0)
    evaluation = Rhythm(last=progress.evaluated, every=float(run.period(config.eval_every)))
    checkpoint = Rhythm(last=progress.saved, every=float(run.period(config.save_every)))
    return fitted(left, progress.step, measured(run, limit), evaluation, checkpoint)


def measured(run: Run, limit: float) -> Pace:
    """Return the measured pace, with estimates for what was not done yet.

    An evaluation is estimated as training on the same number of images, a checkpoint as a hundredth
    of the time limit.
    """
    laps, config = run.clock.laps, run.config
    step = sum(laps["step"]) / len(laps["step"])
    image = step / (config.micro_batch_size * config.gradient_accumulation_steps)
    share = run.scoring.share()
    guess = 0.1 * limit if share is None else share * image * (2 if run.ema else 1)
    evaluation = SLACK * max(laps["evaluation"], default=guess)
    checkpoint = SLACK * max(laps["checkpoint"], default=0.01 * limit)
    return Pace(step=step, evaluation=evaluation, checkpoint=checkpoint, end=checkpoint)
