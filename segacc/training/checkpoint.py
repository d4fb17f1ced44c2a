"""Checkpoints: atomic save, checksums, find, read, rotate."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import NonNegativeFloat, PositiveInt, TypeAdapter, ValidationError

from segacc.errors import OptionError, expand, first_of
from segacc.evaluation.model_folder import COMPLETE, PROGRESS
from segacc.evaluation.scores import Scores, finite
from segacc.model.checksums import fault_of, read_sums, write_sums
from segacc.settings.secrets import shown
from segacc.training.limits.faults import failure_to_write

DEEPSPEED = {
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
}
"""Classes in DeepSpeed's checkpoints that are safe to unpickle."""


GIVEN_UP = "later-"
"""Prefix of checkpoints that are later than the one from which their run was resumed."""

Count = Annotated[int, Ge(0)]


@dataclass
class Progress:
    """The state of a run, apart from weights and optimizer."""

    step: Count = 0
    """Optimizer steps done."""
    best: float | None = None
    """The best score so far, by `best_by`."""
    best_step: Count | None = None
    early_stop: dict[str, Any] = field(default_factory=dict)
    """State of early stopping: the score, its best value and step, and evaluations since."""
    plateau: dict[str, Any] = field(default_factory=dict)
    """The same for the schedule `plateau`, since the learning rate was reduced."""
    reductions: Count = 0
    """How often `plateau` has reduced the learning rate."""
    evaluated: Count = 0
    """The step of the newest evaluation."""
    saved: Count = 0
    """The step of the newest checkpoint."""
    scores: Scores = field(default_factory=dict)
    """The scores of the newest evaluation."""
    num_images: Count = 0
    """Number of images in the newest evaluation."""
    unreadable: list[str] = field(default_factory=list)
    """Messages about the training files skipped so far; a resumed run keeps counting them."""
    positions: list[Any] = field(default_factory=list)
    """Position of each reader of this process in a streamed training split (None: its start);
    empty if nothing is streamed. A checkpoint holds one such list per process."""
    max_steps: Count | None = None
    """Optimizer steps of the whole run; with `--max-time`, the newest estimate."""
    seconds: NonNegativeFloat = 0.0
    """Seconds that the run took so far, including the parts before it was resumed."""
    skipped: Count = 0
    """Number of steps skipped because the loss or the gradient was not finite."""
    micro_batch: PositiveInt | None = None
    """Images per process and micro-batch, at most, since the memory was full; None if it was not.
    Smaller than `batch_size`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What must be the same in a resumed run: the order and the meaning of the samples."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Settings, versions and file times that change the numbers of a resumed run."""


@dataclass(frozen=True)
class Resume:
    """The checkpoint that a run continues from."""

    folder: Path
    """The run folder."""
    checkpoint: Path
    progress: Progress
    """The stored progress; for a streamed run, with the stream positions of all processes."""


def write_folder(
    folder: Path,
    fill: Callable[[Path], None],
    accelerator: Any,
    last: Callable[[Path], None] = lambda part: None,
) -> None:
    """Write a folder atomically: `fill` writes a temporary folder, which is renamed at the end.

    All processes call `fill`; the main process then calls `last`. An existing folder is replaced. A
    process killed at any moment leaves either the old or the new folder.

    Raises:
        WriteError: on all processes, if one of them could not write, as on a full disk.
        PluginError: on all processes, if a plugin's code failed on one of them.
    """
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")

    def prepare() -> None:
        if old.exists() and not folder.exists():  # killed between the two renames below
            old.rename(folder)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        part.mkdir(parents=True)

    def move() -> None:
        last(part)
        _flush(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)

    main = accelerator.is_main_process
    for act in (prepare if main else None, lambda: fill(part), move if main else None):
        _write(act, part, accelerator)


def _write(act: Callable[[], None] | None, part: Path, accelerator: Any) -> None:
    """Call `act` on this process and wait for all; a failure to write is raised on all."""
    from segacc.training.processes import on_all

    def told() -> None:
        try:
            if act is not None:
                act()
        except Exception as error:
            shutil.rmtree(part, ignore_errors=True)  # frees the space for the next attempt
            folder = part.with_name(part.name[1:].removesuffix(".part"))
            if failed := failure_to_write(error, folder, room):
                raise failed from error
            raise

    on_all(accelerator, told)


def room(folder: Path) -> str:
    """Return how much a folder needs, by one of its kind, how much is free, and what is whole."""
    told = ""
    with suppress(OSError):
        free = shutil.disk_usage(folder.parent).free
        others = complete(folder.parent)
        newest = others[-1] if others else folder if folder.is_dir() else None
        size = sum(one.stat().st_size for one in newest.rglob("*")) if newest else 0
        needs = f", and such a folder takes {size / 1e6:.1f} MB" if newest else ""
        told = f"Its disk has {free / 1e6:.1f} MB free{needs}. "
        runs = others or complete(folder.parent / "checkpoints")
        told += f"The newest complete checkpoint is {runs[-1]}. " if runs else ""
    return told


def _flush(folder: Path) -> None:
    """Flush a folder's files to disk before the rename that makes it complete."""
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def save(folder: Path, progress: Progress, accelerator: Any, *, keep: int, ema: Any = None) -> Path:
    """Save the state of a run as `folder`/step-N, then remove all but the newest `keep`."""
    target = folder / name(progress.step)
    whole = {**asdict(progress), "positions": _of_all(progress.positions)}

    def fill(part: Path) -> None:
        accelerator.save_state(str(part))
        if ema is not None:
            ema.save(part)

    def finish(part: Path) -> None:
        (part / PROGRESS).write_text(json.dumps(finite(whole), indent=1), encoding="utf-8")
        seal(part)

    write_folder(target, fill, accelerator, last=finish)
    if accelerator.is_main_process:
        rotate(folder, keep)
    return target


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and those that were given up.

    What cannot be removed is told in a warning, whatever `--on-save-error` says, as the newest
    checkpoint is complete. The next rotation tries again.
    """
    failed = dict[str, OSError]()
    for old in (*complete(folder)[:-keep], *sorted(folder.glob(f"{GIVEN_UP}step-*"))):
        try:
            remove(old)
        except OSError as error:
            failed |= {old.name: error} if old.exists() else {}  # else someone else has removed it
    if failed:
        reason = next(iter(failed.values()))
        told = f"warning: {folder}: {first_of(failed, 3)} cannot be removed: {reason}. The newest "
        sys.stderr.write(shown(f"{told}checkpoint is complete, and the run goes on.\n"))


def seal(checkpoint: Path) -> None:
    """Write the checksum of every file, which marks the checkpoint as complete."""
    inside = (path for path in checkpoint.rglob("*") if path.name != COMPLETE)
    write_sums(checkpoint / COMPLETE, sorted(path for path in inside if path.is_file()))


def fault(checkpoint: Path) -> str:
    """Return which file is missing or damaged; an empty string if all are intact."""
    try:
        if PROGRESS not in read_sums(checkpoint / COMPLETE):
            return f"{COMPLETE} is incomplete"
    except (OSError, ValueError) as error:
        return f"{COMPLETE}: {error}"
    return fault_of(checkpoint / COMPLETE)


def verify(checkpoint: Path) -> None:
    """Refuse a damaged checkpoint.

    Raises:
        OptionError: a file is missing or has changed; it names the newest intact checkpoint.
    """
    if reason := fault(checkpoint):
        raise OptionError(damaged(checkpoint, reason))


def refuse_code(checkpoint: Path) -> None:
    """Refuse DeepSpeed checkpoints whose pickles refer to other classes than DEEPSPEED.

    DeepSpeed unpickles its files without restrictions, which can run code; accelerate and torch
    read all other files with `weights_only`.

    Raises:
        OptionError: a file refers to a class that is not in DEEPSPEED.
    """
    for path in sorted(checkpoint.rglob("*.pt")):
        from torch.serialization import get_unsafe_globals_in_checkpoint

        if unknown := set(get_unsafe_globals_in_checkpoint(path)) - DEEPSPEED:
            raise OptionError(
                f"--resume: {path} contains {sorted(unknown)[0]}, which could run code, so it is "
                "not loaded. Start a new run from last/ or best/, with --weights FOLDER."
            )


def _of_all(positions: list[Any]) -> list[Any]:
    """Return the stream positions of all processes; an empty list if nothing is streamed."""
    if not positions:
        return []
    from accelerate.utils import gather_object

    gathered: list[Any] = gather_object([positions])
    return gathered


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; its checksums first, so that a partial one counts as incomplete."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def complete(folder: Path) -> list[Path]:
    """List the complete checkpoints in a folder, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{COMPLETE}"))


def find(given: str, output_dir: Path | None) -> Resume | None:
    """Find and read the checkpoint for `--resume`: `auto`, a run folder, or a checkpoint.

    Returns:
        The checkpoint; None for `auto` if no run was saved in output_dir yet.

    Raises:
        OptionError: there is no checkpoint, none with checksums, or it is damaged.
    """
    if given == "auto" and output_dir is None:
        raise OptionError("--resume auto needs --output-dir DIR; or use --resume DIR.")
    path = (output_dir if given == "auto" and output_dir else expand(given, "--resume")).resolve()
    found = (
        [path] if (path / COMPLETE).is_file() else complete(path / "checkpoints") or complete(path)
    )
    if not found:
        _refuse_older(given, path)
        if given == "auto":
            return None
        raise OptionError(f"--resume {given}: no complete checkpoint in {path / 'checkpoints'}.")
    return Resume(found[-1].parents[1], found[-1], read(found[-1]))


def _refuse_older(given: str, folder: Path) -> None:
    """Refuse checkpoints of segacc versions without checksums; their weights can still be used."""
    patterns = PROGRESS, f"step-*/{PROGRESS}", f"checkpoints/step-*/{PROGRESS}"
    for older in (path.parent for pattern in patterns for path in sorted(folder.glob(pattern))):
        run = older.parents[1]
        network = next((one for one in (run / "last", run / "best") if one.is_dir()), None)
        way = f"--weights {network}" if network else "--weights and the run's best/ or last/"
        raise OptionError(
            f"--resume {given}: {older} has no {COMPLETE}: it was partly removed, or written by an "
            "older version of segacc, whose files could run code and cannot be checked for damage. "
            f"Start a new run from its weights: {way}."
        )


def later(folder: Path, step: int) -> list[Path]:
    """List the checkpoints after `step`; a run resumed from there will write them again."""
    return [path for path in complete(folder) if path.name > name(step)]


def set_aside(folder: Path, was_of: int) -> Path:
    """Rename a folder by appending its step, so that a new one can take its name."""
    target = aside(folder, was_of)
    shutil.rmtree(target, ignore_errors=True)
    return folder.rename(target)


def aside(folder: Path, was_of: int) -> Path:
    """Return where `set_aside` keeps a folder of a step."""
    return folder.with_name(f"{folder.name}-{name(was_of)}")


def give_up(checkpoint: Path) -> None:
    """Rename a checkpoint, so that it does not count until the next one is saved."""
    target = checkpoint.with_name(f"{GIVEN_UP}{checkpoint.name}")
    shutil.rmtree(target, ignore_errors=True)
    checkpoint.rename(target)


def recover(run_folder: Path) -> None:
    """Restore folders whose replacement was interrupted between the two renames."""
    for old in run_folder.glob(".*.old"):
        folder = old.with_name(old.name[1:].removesuffix(".old"))
        if not folder.exists():
            old.rename(folder)


def read(checkpoint: Path) -> Progress:
    """Read a checkpoint's progress.

    Raises:
        OptionError: it is damaged.
    """
    path = checkpoint / PROGRESS
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError("not a mapping")
        if isinstance(scores := stored.get("scores"), dict):
            stored["scores"] = {key: _with_nan(value) for key, value in scores.items()}
        progress = Progress(**stored)  # a mapping without other keys
        progress = TypeAdapter(Progress).validate_json(json.dumps(stored), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "its content"
        told = f"{path.name}: {where}: {fault['msg']}"
        raise OptionError(damaged(checkpoint, told)) from None
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(damaged(checkpoint, f"{path.name}: {error}")) from None
    return progress


def _with_nan(score: Any) -> Any:
    """Return a score that JSON holds, or scores by class, with nan again in place of None."""
    if isinstance(score, dict):
        return {key: _with_nan(value) for key, value in score.items()}
    return math.nan if score is None else score


def damaged(checkpoint: Path, reason: str) -> str:
    """Return the message about a damaged checkpoint, with the newest intact one."""
    others = (one for one in reversed(complete(checkpoint.parent)) if one != checkpoint)
    intact = next((one for one in others if not fault(one)), None)
    way = (
        f"Resume from the newest intact one: --resume {intact}."
        if intact
        else "There is no other intact checkpoint; start a new run from last/ or best/, with "
        "--weights FOLDER."
    )
    return f"--resume: {checkpoint} is damaged: {' '.join(reason.split())}. {way}"
