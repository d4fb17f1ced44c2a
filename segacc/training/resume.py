"""The run folder at the start of a run: made, config.yaml written, a checkpoint loaded."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list, load

from segacc.data.samples import digest, ids_of
from segacc.data.streams import TrainStream
from segacc.errors import OptionError
from segacc.evaluation.model_folder import side_file
from segacc.settings.sources import ABOUT_THE_PLACE, Settings, to_yaml
from segacc.settings.units import clock_text, seconds
from segacc.training import checkpoint
from segacc.training.folders import NETWORK, clear
from segacc.training.limits.budget import FIRST_GUESS
from segacc.training.optim import groups as parameter_groups
from segacc.training.plan import as_stored
from segacc.training.processes import on_all

if TYPE_CHECKING:
    from segacc.training.run import Run

SAME_BATCH = (
    "Start as many processes, batch size and accumulation that make the same product, on the same "
    "data."
)
SAME_READERS = (
    "What is streamed goes on exactly with the same number of processes, --num-workers and "
    "--batch-size, on the same shards."
)


def lock_folder(run: "Run") -> None:
    """Keep other runs out of the run folder while this one lasts.

    Raises:
        OptionError: another run holds it; or one began there, and has ended since this one's plan.
    """
    accelerator, lock = run.accelerator, run.lock

    def claim() -> None:
        lock.claim()
        run.notes += [lock.note] if lock.note else []
        if (run.folder / "config.yaml").exists() and not (run.plan.resume or run.config.overwrite):
            raise OptionError(
                f"{run.folder}: another run was started there at the same time, and has ended. "
                "Choose another folder with --output-dir."
            )

    on_all(accelerator, claim if accelerator.is_main_process else lambda: None)
    if not accelerator.is_main_process:
        lock.share()


def prepare_folder(run: "Run", settings: Settings) -> None:
    """Make the run folder and write what is known of the run, on the main process."""
    if run.accelerator.is_main_process:
        if run.config.overwrite and not run.plan.resume and run.folder.exists():
            clear(run.folder)
        (run.folder / "pictures").mkdir(parents=True, exist_ok=True)
        if not run.plan.resume:
            (run.folder / NETWORK).mkdir(exist_ok=True)
            run.network.save_settings(run.folder / NETWORK)
        if not (run.plan.resume and unchanged(settings, run.folder / "config.yaml")):
            (run.folder / "config.yaml").write_text(to_yaml(settings))
        run.balance.write(run.folder)
        parameter_groups.write(run.groups, run.folder)
    run.accelerator.wait_for_everyone()
    if run.config.trackers:
        run.accelerator.init_trackers("segacc")


def unchanged(settings: Settings, stored: Path) -> bool:
    """Tell whether all settings are those that config.yaml holds, which also says their sources."""
    typed = {key: where for key, where in settings.origins.items() if key not in ABOUT_THE_PLACE}
    return all(where == f"{stored}: {key}" for key, where in typed.items())


def resume(run: "Run") -> None:
    """Load the checkpoint of the plan, if any.

    Raises:
        OptionError: the data or the batch are not those of the run that wrote it; or, of a stream,
            the processes or workers.
    """
    now, streamed = order_settings(run), isinstance(run.train_data, TrainStream)
    run.progress.positions = [None] * max(1, run.config.num_workers) if streamed else []
    if run.plan.resume:
        stored = verified(run, run.plan.resume)
        was = stored.settings
        missing = [key for key in now if key not in was]
        if missing and streamed == ("shards" in was):
            raise OptionError(
                f"--resume {run.config.resume}: an older version of segacc wrote this checkpoint, "
                f"without {', '.join(missing)}, so that nobody can tell whether the data are still "
                "the same. Go on with that version, or start a new run from its weights with "
                "--weights FOLDER."
            )
        different = [
            f"{key} was {was.get(key)}, now {now.get(key)}"
            for key in {**now, **was}
            if was.get(key) != now.get(key)
        ]
        if different:
            raise OptionError(
                f"--resume {run.config.resume}: this would not be the same run: "
                f"{'; '.join(different)}. {SAME_READERS if streamed else SAME_BATCH}"
            )
        last = run.config.max_steps
        if last is not None and stored.step > last:
            where = f"--resume {run.config.resume}"
            raise OptionError(f"{where}: step {stored.step} of {last} is done already.")
        load_state(run, run.plan.resume)
        run.unreadable.update(stored.unreadable)
        if run.ema:
            ema, place = run.ema, run.plan.resume
            on_all(run.accelerator, lambda: ema.load(place))
        if streamed:
            stored.positions = stored.positions[run.accelerator.process_index]
        run.progress, run.clock.before = stored, stored.seconds
        run.scoring.num_images = stored.num_images
        if run.early_stop and run.early_stop.reason(stored):
            run.notes.append("this run stopped early; --early-stop with more patience goes on")
        if run.accelerator.is_main_process:
            checkpoint.recover(run.folder)
            give_up_later(run, stored.step)
        forget_best(run)
    run.progress.settings = now
    if run.config.max_time is not None:
        fit_first(run, run.config.max_time)


def verified(run: "Run", place: Path) -> checkpoint.Progress:
    """Read a checkpoint's progress, once its files are seen to be those that were written."""
    main = run.accelerator.is_main_process
    on_all(run.accelerator, lambda: checkpoint.verify(place) if main else None)
    return on_all(run.accelerator, lambda: checkpoint.read(place))


def give_up_later(run: "Run", step: int) -> None:
    """Clear the way of a run that goes on from an older checkpoint than its newest."""
    best = run.folder / "best"
    was_of = side_file(best).get("step", 0)
    if checkpoint.forget_later(run.folder / "checkpoints", step) and was_of > step:
        kept = checkpoint.set_aside(best, was_of)
        run.notes.append(
            f"best/ was of step {was_of}, after the step {step} that this run goes on from; it is "
            f"{kept.name}/ now"
        )


def forget_best(run: "Run") -> None:
    """Let the next evaluation be the best so far where the best network is not there any more."""
    (there,) = broadcast_object_list([(run.folder / "best").is_dir()])
    if run.progress.best is not None and not there:
        run.progress.best = run.progress.best_step = None
        run.notes.append("there is no best/ any more: the next evaluation counts as the best")


def fit_first(run: "Run", limit: str) -> None:
    """Let a run with `--max-time` have some number of steps until its speed is known.

    Raises:
        OptionError: the time was used up before this part of the run.
    """
    progress, settings = run.progress, run.plan.settings
    over = progress.max_steps is not None and progress.step >= progress.max_steps
    if over and as_stored(settings, "max_time", run.folder):
        return  # it has ended in time
    if run.clock.before >= seconds(limit):
        raise OptionError(
            f"{settings.where('max_time')}: {limit}: the run has taken "
            f"{clock_text(run.clock.before)} already; give it more."
        )
    if over or progress.max_steps is None:
        progress.max_steps = progress.step + FIRST_GUESS
    used = f"{clock_text(run.clock.before)} of it used" if run.clock.before else "in all"
    run.notes.append(f"{limit} {used}: {progress.max_steps} steps until the speed is known")


def read_state(run: "Run", stored: Path) -> None:
    """Let accelerate read a checkpoint.

    Raises:
        OptionError: it is damaged.
    """
    random = stored / f"random_states_{run.accelerator.process_index}.pkl"
    try:
        checkpoint.refuse_code(stored)
        run.accelerator.load_state(str(stored))
        if random.is_file():  # accelerate passes over one that it cannot read
            load(random)
    except OptionError:
        raise
    except Exception as error:  # of a damaged file torch, pickle and safetensors raise anything
        raise OptionError(checkpoint.damaged(stored, f"{type(error).__name__}: {error}")) from None


def load_state(run: "Run", stored: Path) -> None:
    """Load weights, optimizer and random state; what was typed anew of the optimizer stays.

    torch puts the stored learning rates and options in the place of the groups' own.
    """
    groups = run.optimizer.param_groups
    typed = [{key: value for key, value in one.items() if key != "params"} for one in groups]
    on_all(run.accelerator, lambda: read_state(run, stored))
    run.accelerator.step = 0  # a step begins here, of however many micro-batches
    for group, own in zip(run.optimizer.param_groups, typed, strict=True):
        group.update(own)


def order_settings(run: "Run") -> dict[str, Any]:
    """Collect what the order of the training samples depends on.

    Samples are known by their ids, not by their files, which may lie elsewhere now.
    """
    config, data = run.config, run.train_data
    mapped = {key: one for key, one in run.labels.to_dict().items() if key != "palette"}
    found: dict[str, Any] = {
        "seed": config.seed,
        "total_batch_size": run.total_batch_size,
        "training_images": data.num_samples,
        "class_names": list(run.labels.names),
        "label_map": digest([json.dumps(mapped, sort_keys=True, default=str)]),
    }
    if isinstance(data, TrainStream):
        found |= {
            "processes": run.accelerator.num_processes,
            "num_workers": config.num_workers,
            "batch_size": config.batch_size,
            "shards": len(data.stream.shards),
            "shard_digest": digest([name.rpartition("/")[2] for name in data.stream.shards]),
            "buffer": data.stream.buffer,
        }
    else:
        found["sample_digest"] = digest(ids_of(data.source.samples), data.order.chances)
    return found
