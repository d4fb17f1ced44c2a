"""Checkpoints that are whole or not there: atomic save, checksums, find, load, rotate."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from segacc.errors import OptionError, WriteError
from segacc.evaluation.scores import Scores

COMPLETE = "SHA256SUMS"
"""Written last; a checkpoint folder without it does not count. `sha256sum -c` reads it as well."""
PROGRESS = "progress.json"
DEEPSPEED = {
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
}
"""What DeepSpeed's checkpoints hold beside tensors: these classes do nothing when they are read."""


@dataclass
class Progress:
    """What a run knows of itself beside weights and optimizer."""

    step: int = 0
    """Optimizer steps done."""
    best: float | None = None
    """The best score so far, by `best_by`."""
    best_step: int | None = None
    early_stop: dict[str, Any] = field(default_factory=dict)
    """The best score by which it is decided, its step, and the evaluations since."""
    evaluated: int = 0
    """The step of the newest evaluation."""
    saved: int = 0
    """The step of the newest checkpoint."""
    scores: Scores = field(default_factory=dict)
    """Of the newest evaluation."""
    num_images: int = 0
    """Images that it scored."""
    unreadable: list[str] = field(default_factory=list)
    """Why files of the training split were passed over so far; they count on in a resumed run."""
    positions: list[Any] = field(default_factory=list)
    """Of a streamed training split, where each reader of this process stands, None at the start;
    empty for any other. A checkpoint holds such a list for each process."""
    max_steps: int | None = None
    """Of the whole run, as they stood; `--max-time` fits them."""
    seconds: float = 0.0
    """That all parts of the run took."""
    skipped: int = 0
    """Steps that were not taken, since loss or gradient were not finite."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the order of samples depends on; a resumed run must agree."""


def write_folder(
    folder: Path,
    fill: Callable[[Path], None],
    accelerator: Any,
    last: Callable[[Path], None] = lambda part: None,
) -> None:
    """Write a folder as a whole: `fill` writes a temporary one on all processes, then it moves.

    A folder of that name is replaced; a process killed at any moment leaves the old or the new one.
    `last` is called on the main process once all have filled it.

    Raises:
        WriteError: one of them could not write, as on a full disk; on all of them.
    """
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")

    def prepare() -> None:
        if old.exists() and not folder.exists():  # cut off between the two renames below
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
    """Act on this process and wait for all; what one of them cannot write is raised on all."""
    from segacc.training.processes import on_all

    def told() -> None:
        try:
            if act is not None:
                act()
        except (OSError, RuntimeError, SafetensorError) as error:  # of a full disk torch raises one
            shutil.rmtree(part, ignore_errors=True)  # its room is needed for the next attempt
            reason = " ".join(str(error).split())
            raise WriteError(
                f"{part.with_name(part.name[1:].removesuffix('.part'))}: it cannot be written: "
                f"{reason}. What was written before it is whole."
            ) from error

    on_all(accelerator, told)


def _flush(folder: Path) -> None:
    """Ask the disk to keep what was written, before the rename says that it is whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step-{step:08d}"


def save(folder: Path, progress: Progress, accelerator: Any, *, keep: int, ema: Any = None) -> Path:
    """Save all that resumes a run as `folder`/step-N, then drop the oldest but `keep`."""
    place = folder / name(progress.step)
    whole = {**asdict(progress), "positions": _of_all(progress.positions)}

    def fill(part: Path) -> None:
        accelerator.save_state(str(part))
        if ema is not None:
            ema.save(part)

    def finish(part: Path) -> None:
        (part / PROGRESS).write_text(json.dumps(whole, indent=1))
        seal(part)

    write_folder(place, fill, accelerator, last=finish)
    if accelerator.is_main_process:
        for old in complete(folder)[:-keep]:
            remove(old)
    return place


def seal(checkpoint: Path) -> None:
    """Write the checksum of every file, which makes the checkpoint count."""
    inside = (path for path in checkpoint.rglob("*") if path.name != COMPLETE)
    files = sorted(path for path in inside if path.is_file())
    lines = [f"{checksum(path)}  {path.relative_to(checkpoint).as_posix()}\n" for path in files]
    (checkpoint / COMPLETE).write_text("".join(lines), encoding="utf-8")


def checksum(path: Path) -> str:
    """Return a file's SHA-256, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault(checkpoint: Path) -> str:
    """Say which file is not the one that was written; nothing where all are."""
    try:
        lines = (checkpoint / COMPLETE).read_text(encoding="utf-8").splitlines()
        wanted = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if PROGRESS not in wanted:
            return f"{COMPLETE} is cut off"
        for name, digest in wanted.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if checksum(checkpoint / name) != digest:
                return f"{name} has another checksum than when it was written"
    except (OSError, ValueError) as error:
        return f"{COMPLETE}: {error}"
    return ""


def verify(checkpoint: Path) -> None:
    """Refuse a checkpoint of which a file is missing or has changed.

    Raises:
        OptionError: so, with the newest one that is intact.
    """
    if reason := fault(checkpoint):
        raise OptionError(damaged(checkpoint, reason))


def refuse_code(checkpoint: Path) -> None:
    """Refuse DeepSpeed's files where they name more than DEEPSPEED: it reads pickles that can run.

    Accelerate and torch read all others with `weights_only`.

    Raises:
        OptionError: so.
    """
    for path in sorted(checkpoint.rglob("*.pt")):
        from torch.serialization import get_unsafe_globals_in_checkpoint

        if unknown := set(get_unsafe_globals_in_checkpoint(path)) - DEEPSPEED:
            raise OptionError(
                f"--resume: {path} is not read: it names {sorted(unknown)[0]}, which could run "
                "code. Start a new run from last/ or best/, with --weights FOLDER."
            )


def _of_all(positions: list[Any]) -> list[Any]:
    """List the positions of all processes; nothing where nothing is streamed."""
    if not positions:
        return []
    from accelerate.utils import gather_object

    gathered: list[Any] = gather_object([positions])
    return gathered


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; one that is removed by half does not count."""
    (checkpoint / COMPLETE).unlink()
    shutil.rmtree(checkpoint)


def complete(folder: Path) -> list[Path]:
    """List the whole checkpoints of a folder, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{COMPLETE}"))


def find(given: str, output_dir: Path | None) -> tuple[Path, Path]:
    """Return (run folder, checkpoint) for `--resume`: `auto`, a run folder, or a checkpoint.

    Raises:
        OptionError: there is none, or none with checksums.
    """
    if given == "auto" and output_dir is None:
        raise OptionError("--resume auto needs --output-dir DIR; or write --resume DIR.")
    place = (output_dir if given == "auto" and output_dir else Path(given)).expanduser().resolve()
    found = (
        [place]
        if (place / COMPLETE).is_file()
        else complete(place / "checkpoints") or complete(place)
    )
    if not found:
        _refuse_older(given, place)
        raise OptionError(f"--resume {given}: no whole checkpoint in {place / 'checkpoints'}.")
    return found[-1].parents[1], found[-1]


def _refuse_older(given: str, place: Path) -> None:
    """Refuse what segacc wrote before it kept checksums, and say how to go on from there."""
    patterns = PROGRESS, f"step-*/{PROGRESS}", f"checkpoints/step-*/{PROGRESS}"
    for older in (path.parent for pattern in patterns for path in sorted(place.glob(pattern))):
        run = older.parents[1]
        network = next((one for one in (run / "last", run / "best") if one.is_dir()), None)
        way = f"--weights {network}" if network else "--weights and the run's best/ or last/"
        raise OptionError(
            f"--resume {given}: {older} has no {COMPLETE}: it was removed by half, or an older "
            "version of segacc wrote it, whose files could run code and cannot be checked for "
            f"damage. Start a new run from the weights of that one: {way}."
        )


def forget_later(folder: Path, step: int) -> int:
    """Remove the checkpoints after `step`: a run that goes on from there will write them again.

    Returns:
        How many there were.
    """
    later = [path for path in complete(folder) if path.name > name(step)]
    for one in later:
        remove(one)
    return len(later)


def set_aside(folder: Path, was_of: int) -> Path:
    """Move a folder out of the way of the next one of its name; its step becomes part of it."""
    place = folder.with_name(f"{folder.name}-{name(was_of)}")
    shutil.rmtree(place, ignore_errors=True)
    return folder.rename(place)


def recover(run_folder: Path) -> None:
    """Put back a folder whose replacement was cut off between two renames."""
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
        progress = Progress(**json.loads(path.read_text()))
        if not all(isinstance(one, int) for one in (progress.step, progress.saved)):
            raise ValueError("its step is no number")
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(damaged(checkpoint, f"{path.name}: {error}")) from None
    return progress


def damaged(checkpoint: Path, reason: str) -> str:
    """Say that a checkpoint cannot be read, and from which one a run can go on."""
    others = (one for one in reversed(complete(checkpoint.parent)) if one != checkpoint)
    intact = next((one for one in others if not fault(one)), None)
    way = (
        f"Go on from the newest one that is intact: --resume {intact}."
        if intact
        else "No other one that is intact is here; a new run can start from last/ or best/, with "
        "--weights FOLDER."
    )
    return f"--resume: {checkpoint} is damaged: {' '.join(reason.split())}. {way}"
