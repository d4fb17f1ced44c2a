"""Lock and prepare the run folder at the start of a run, and load the checkpoint to resume."""

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object, load

from segacc.data.atomic import writing
from segacc.data.streams import TrainStream
from segacc.errors import OptionError, WriteError, first_of
from segacc.evaluation.model_folder import side_file
from segacc.settings.sources import ABOUT_THE_PLACE, Settings, to_yaml
from segacc.settings.units import clock_text, seconds
from segacc.training import checkpoint
from segacc.training.folders import ENVIRONMENT, EXIT, MODELS, clear
from segacc.training.limits.budget import FIRST_GUESS
from segacc.training.optim import groups as parameter_groups
from segacc.training.optim.schedule import lr_of
from segacc.training.plan import FROM_THE_START, as_stored
from segacc.training.processes import device_name, on_all
from segacc.training.run import Run
from segacc.training.saving.model import forget_best, save_description, save_model
from segacc.training.tracking.environment import note_start
from segacc.training.tracking.identity import (
    ANYWAY,
    changes,
    file_digests,
    number_settings,
    numbers_changed,
    order_settings,
)
from segacc.training.tracking.trackers import start_trackers

SAME_BATCH = (
    "Use the same data, and a number of processes, batch size and accumulation steps with the same "
    "product."
)
SAME_READERS = (
    "A streamed run can only be resumed with the same number of processes, --num-workers, "
    "--batch-size and shards."
)


ON_PURPOSE = (
    "If they were changed on purpose, add --resume-anyway; the run then goes on with weights that "
    "were trained with the former ones."
)


def lock_folder(run: Run) -> None:
    """Lock the run folder against other runs.

    Raises:
        OptionError: another run has locked it, or has used it since this run was planned; or a
            process cannot open the lock.
    """
    accelerator, lock = run.accelerator, run.lock

    def claim() -> None:
        with writing(run.folder):
            lock.claim()
        run.notes += [lock.note] if lock.note else []
        if (run.folder / "config.yaml").exists() and not (run.plan.resume or run.config.overwrite):
            raise OptionError(
                f"{run.folder}: another run was started there at the same time and has already "
                "ended. Choose another folder with --output-dir."
            )

    main = accelerator.is_main_process
    on_all(accelerator, lambda: claim() if main else None)
    on_all(accelerator, lambda: None if main else lock.share())


def prepare_folder(run: Run, settings: Settings) -> None:
    """Create the run folder with config.yaml and the other files of a start; starts trackers."""
    devices = gather_object([device_name(run.accelerator.device)])
    if run.accelerator.is_main_process:
        with writing(run.folder):
            write_start(run, settings, devices)
    run.accelerator.wait_for_everyone()
    if run.config.trackers:
        done = run.progress.step if run.plan.resume else None
        start = partial(start_trackers, run.accelerator, run.folder, settings, step=done)
        on_all(run.accelerator, start)


def write_start(run: Run, settings: Settings, devices: Sequence[str]) -> None:
    """Write the files of a start, after those of another run were deleted with `--overwrite`."""
    if run.config.overwrite and not run.plan.resume and run.folder.exists():
        begins = begins_anew(settings)
        clear(run.folder, keep=MODELS if begins else ())
        for model in [
            path for path in map(run.folder.joinpath, MODELS) if begins and path.is_dir()
        ]:
            checkpoint.set_aside(model, side_file(model).get("step", 0))
    (run.folder / EXIT).unlink(missing_ok=True)
    (run.folder / "pictures").mkdir(parents=True, exist_ok=True)
    if not run.plan.resume:
        save_description(run)
    if not (run.plan.resume and unchanged(settings, run.folder / "config.yaml")):
        text = to_yaml(settings)
        (run.folder / "config.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
    run.balance.write(run.folder)
    parameter_groups.write(run.groups, run.folder)
    path, step = run.folder / ENVIRONMENT, run.progress.step
    note_start(path, step=step, devices=devices, started=run.clock.started)


def begins_anew(settings: Settings) -> bool:
    """Return whether `--resume auto` starts the run, as it has no checkpoint yet."""
    return settings.where("overwrite") == f"{FROM_THE_START}: overwrite"


def unchanged(settings: Settings, stored: Path) -> bool:
    """Return whether all settings come from config.yaml, which also records their sources."""
    typed = {key: where for key, where in settings.origins.items() if key not in ABOUT_THE_PLACE}
    return all(where == f"{stored}: {key}" for key, where in typed.items())


def resume(run: Run) -> None:
    """Load the checkpoint of the plan, if any.

    Raises:
        OptionError: the data or the total batch size are not those of the checkpoint; or, for a
            stream, the number of processes or workers.
    """
    sizes, times = file_digests(run)
    now, numbers = order_settings(run, sizes), number_settings(run, times)
    if run.plan.resume:
        load_checkpoint(run, run.plan.resume, now, numbers)
    elif begins_anew(run.plan.settings):
        run.notes.append("there is no checkpoint yet, so --resume auto starts the run")
    run.progress.settings, run.progress.numbers = now, numbers
    if run.config.max_time is not None:
        fit_first(run, run.config.max_time)


def load_checkpoint(
    run: Run, found: checkpoint.Resume, now: dict[str, Any], numbers: dict[str, Any]
) -> None:
    """Load a checkpoint, after comparing what it was trained with.

    Args:
        run: the run.
        found: the checkpoint.
        now: see `order_settings`.
        numbers: see `number_settings`.

    Raises:
        OptionError: see `resume`.
    """
    main, streamed = run.accelerator.is_main_process, isinstance(run.train_data, TrainStream)
    on_all(run.accelerator, lambda: checkpoint.verify(found.checkpoint) if main else None)
    stored = deepcopy(found.progress)
    was = stored.settings
    missing = [key for key in now if key not in was]
    if missing and streamed == ("shards" in was):
        raise OptionError(
            f"--resume {run.config.resume}: an older version of segacc wrote this checkpoint, "
            f"without {', '.join(missing)}, so it cannot be checked whether the data are the "
            "same. Resume with that version, or start a new run from its weights with "
            "--weights FOLDER."
        )
    run.notes += compared(run, was, now, streamed=streamed)
    run.notes += numbers_changed(stored.numbers, numbers)
    lr = load_state(run, found.checkpoint)
    run.unreadable.update(stored.unreadable)
    if run.ema:
        ema = run.ema
        on_all(run.accelerator, lambda: ema.load(found.checkpoint))
    if streamed:
        stored.positions = stored.positions[run.accelerator.process_index]
    run.progress, run.clock.before = stored, stored.seconds
    run.evaluation_saved = stored.evaluated
    run.scoring.num_images = stored.num_images
    run.notes += stretched(run, lr)
    run.notes += smaller(run)
    if run.early_stop and run.early_stop.reason(stored):
        run.notes.append(
            "this run was stopped early; raise the patience of --early-stop to continue it"
        )
    back = partial(go_back, run, stored.step, stored.best_step)
    on_all(run.accelerator, lambda: back() if main else None)
    bring_back_best(run)


def compared(run: Run, was: dict[str, Any], now: dict[str, Any], *, streamed: bool) -> list[str]:
    """Refuse to go on with another meaning; return the differences that `--resume-anyway` passes.

    Raises:
        OptionError: the data, the classes, the architecture or the order of samples differ.
    """
    different = changes(was, now)
    passed = [key for key in different if key in ANYWAY and run.config.resume_anyway]
    if len(passed) < len(different):
        all_told = "; ".join(f"{key} {how}" for key, how in different.items())
        anyway = "" if different.keys() - set(ANYWAY) else f" {ON_PURPOSE}"
        raise OptionError(
            f"--resume {run.config.resume}: the settings differ from those of the checkpoint: "
            f"{all_told}. {SAME_READERS if streamed else SAME_BATCH}{anyway}"
        )
    return [f"--resume-anyway: {key} {different[key]}" for key in passed]


def stretched(run: Run, lr: float) -> list[str]:
    """Return what another number of steps changes in a resumed run; `lr` is that of its last step.

    With `--max-time` the number of steps is fitted to the speed anyway.
    """
    step, before, now = run.progress.step, run.progress.max_steps, run.config.max_steps
    if not before or not now or now == before or step == now:
        return []
    group, schedule = run.optimizer.param_groups[0], run.plan.schedule
    then = lr_of(group, schedule, step, now, run.config, reductions=run.progress.reductions)
    return [
        f"the run had {before} steps and now has {now}; the schedule is fitted to {now} steps: the "
        f"learning rate goes from {lr:.1e} in step {step} to {then:.1e} in step {step + 1}"
    ]


def smaller(run: Run) -> list[str]:
    """Return a note on micro-batches that were halved; a new --batch-size tries larger ones."""
    progress, again = run.progress, as_stored(run.plan.settings, "batch_size", run.folder)
    progress.micro_batch = progress.micro_batch if again else None
    if run.parts == 1:
        return []
    return [
        f"micro-batches have up to {progress.micro_batch} images, as the memory was full at an "
        f"earlier step; --resume {run.folder} with --batch-size tries larger ones"
    ]


def go_back(run: Run, step: int, best_step: int | None) -> None:
    """Bring the run folder to the step of the checkpoint and its best one, on the main process.

    Raises:
        WriteError: a file cannot be removed or renamed.
    """
    try:
        checkpoint.recover(run.folder)
        give_up_later(run, step, best_step)
    except OSError as error:
        raise WriteError(
            f"--resume {run.config.resume}: {run.folder} cannot be brought back to step {step}: "
            f"{error}. Make sure that its files can be removed and renamed, and resume it again."
        ) from None


def give_up_later(run: Run, step: int, best_step: int | None) -> None:
    """Rename what is of later steps than the checkpoint: another best/, and later checkpoints."""
    best, checkpoints = run.folder / "best", run.folder / "checkpoints"
    was_of = side_file(best).get("step", 0)
    if best.is_dir() and was_of != best_step:
        kept = checkpoint.set_aside(best, was_of)
        run.notes.append(
            f"this run is resumed from step {step}; best/ is from {'the later ' * (was_of > step)}"
            f"step {was_of} and was renamed to {kept.name}/"
        )
    if best_step is not None and not best.is_dir():
        with suppress(FileNotFoundError):
            checkpoint.aside(best, best_step).rename(best)
    for one in (later := checkpoint.later(checkpoints, step)):
        checkpoint.give_up(one)
    if later:
        run.notes.append(
            f"the later checkpoints {first_of([one.name for one in later], 3)} are renamed to "
            f"{checkpoints / checkpoint.GIVEN_UP}step-N, which can be resumed too, and are deleted "
            "once this run has saved a checkpoint"
        )


def bring_back_best(run: Run) -> None:
    """Write best/ again if the checkpoint is of its step; else it may be gone, see forget_best."""
    progress = run.progress
    (there,) = broadcast_object_list([(run.folder / "best").is_dir()])
    if not there and progress.best_step == progress.step:
        save_model(run, "best")
    forget_best(run)


def fit_first(run: Run, limit: str) -> None:
    """Assume a number of steps for a run with `--max-time` until its speed is known.

    Raises:
        OptionError: the time was already used up before the run was resumed.
    """
    progress, settings = run.progress, run.plan.settings
    over = progress.max_steps is not None and progress.step >= progress.max_steps
    if over and as_stored(settings, "max_time", run.folder):
        return  # the run is finished
    if run.clock.before >= seconds(limit):
        raise OptionError(
            f"{settings.where('max_time')}: {limit}: the run has already used "
            f"{clock_text(run.clock.before)}; give more time."
        )
    if over or progress.max_steps is None:
        progress.max_steps = progress.step + FIRST_GUESS
    used = f" ({clock_text(run.clock.before)} used)" if run.clock.before else ""
    run.notes.append(
        f"--max-time {limit}{used}: assuming {progress.max_steps} steps until the speed is known"
    )


def read_state(run: Run, stored: Path) -> None:
    """Load a checkpoint with accelerate.

    Raises:
        OptionError: it is damaged, or could run code.
    """
    random = stored / f"random_states_{run.accelerator.process_index}.pkl"
    try:
        checkpoint.refuse_code(stored)
        run.accelerator.load_state(str(stored))
        if random.is_file():  # accelerate silently skips a file that it cannot read
            load(random)
    except OptionError:
        raise
    except Exception as error:  # torch, pickle and safetensors raise many types for damaged files
        raise OptionError(checkpoint.damaged(stored, f"{type(error).__name__}: {error}")) from None


def load_state(run: Run, stored: Path) -> float:
    """Load weights, optimizer and random state, but keep the optimizer options of this run.

    torch's load_state_dict would replace the groups' learning rates and options with the stored
    ones.

    Returns:
        The stored learning rate of the first group, which is that of the last step.
    """
    groups = run.optimizer.param_groups
    typed = [{key: value for key, value in one.items() if key != "params"} for one in groups]
    on_all(run.accelerator, lambda: read_state(run, stored))
    run.accelerator.step = 0  # counts micro-batches; checkpoints lie between optimizer steps
    lr = float(run.optimizer.param_groups[0]["lr"])
    for group, own in zip(run.optimizer.param_groups, typed, strict=True):
        group.update(own)
    return lr
