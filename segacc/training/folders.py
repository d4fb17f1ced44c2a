"""Run folders: choose, check, clear and lock the folder of a run."""

import os
import shutil
import socket
import time
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from segacc.errors import OptionError, expand, is_main
from segacc.evaluation.model_folder import NETWORK, SETTINGS, Model
from segacc.hookspecs import Chosen
from segacc.settings.sources import Settings

BALANCE = "class_balance.json"
"""File in the run folder: the class weights and label counts of the run."""
ENVIRONMENT = "environment.json"
"""File in the run folder: versions, command, devices and times of each start of the run."""
CONSOLE_LOG = "console.log"
"""File in the run folder: the console output of each start, as plain lines."""
EXIT = "exit.json"
"""File in the run folder: why the last start of the run ended, and how to go on."""
MODELS = ("best", "best-step-*", "last")
"""Folders with the network."""
WRITTEN = (
    SETTINGS,
    "metrics.jsonl",
    ENVIRONMENT,
    CONSOLE_LOG,
    BALANCE,
    "parameter_groups.json",
    NETWORK,
    "pictures",
    "checkpoints",
    *MODELS,
    EXIT,
    "segacc",
    "wandb",
    "trackers.json",
    ".*.part",
    ".*.old",
)
"""Files and folders that a run writes (`segacc` and `wandb` are folders of trackers); only these
are ever deleted. MARK stays, as the next run locks it."""
TRIAL = ".segacc-"
"""Prefix of the temporary folder that is created to test whether a folder is writable."""

MARK = ".segacc_run"
"""Name of the file in a run folder that the run locks and that lists its processes. Nothing is
deleted in a folder without it."""

_open: "weakref.WeakSet[IO[str]]" = weakref.WeakSet()

ENDED = {"dead": "has ended", "zombie": "has ended", "stopped": "is stopped"}
"""What is said of a process in a state of psutil, if it takes part in nothing."""
NO_LOCKS = "{} cannot be locked ({}), so a second run in it would not be noticed"


def run_folder(settings: Settings, arch: Chosen, dataset: Chosen) -> Path:
    """Return the run folder: `--output-dir`, or a new one named after architecture and data set.

    Raises:
        OptionError: it is in use, has other content, or cannot be written.
    """
    config = settings.config
    if config.output_dir is None:
        if config.overwrite:
            raise OptionError(
                f"{settings.where('overwrite')}: needs --output-dir DIR, the run folder to "
                "overwrite."
            )
        base = Path("runs") / f"{arch.name}-{dataset.name}"
        folder = next(path for path in _numbered(base) if not path.exists())
        return writable(folder, "--output-dir is not given")
    folder = writable(config.output_dir, settings.where("output_dir"))
    # Another process may be testing at the same time whether it can write there.
    inside = folder.iterdir() if folder.is_dir() else ()
    occupied = any(path.name != MARK and not path.name.startswith(TRIAL) for path in inside)
    if is_main():
        given = f"--resume {config.resume}" if config.resume else settings.where("output_dir")
        refuse_used(folder, given)
    if occupied and not (config.resume or config.overwrite):
        raise OptionError(
            f"{settings.where('output_dir')}: {folder} is not empty. Choose another folder, "
            f"continue the run with --resume {folder}, or replace it with --overwrite."
        )
    if config.overwrite and folder.is_symlink():
        raise OptionError(
            f"{settings.where('overwrite')}: {folder} is a symbolic link, and the files it points "
            "to are not deleted. Give the path of the folder itself."
        )
    if occupied and config.overwrite and not (folder / MARK).is_file():
        raise OptionError(
            f"{settings.where('overwrite')}: {folder} does not look like a run folder (it has no "
            f"{MARK}), so nothing in it is deleted. Remove it yourself, or choose another folder."
        )
    if occupied and config.overwrite:
        refuse_inputs(settings, dataset)
    return folder


def refuse_used(folder: Path, where: str) -> None:
    """Refuse a folder that another run has locked, or whose MARK cannot be opened.

    Raises:
        OptionError: the message begins with `where` the folder was given.
    """
    try:
        if RunLock(folder).held():
            raise OptionError(in_use(folder))
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def writable(folder: Path, where: str) -> Path:
    """Return a folder that can be written, or created and written.

    Raises:
        OptionError: it or one of its parents is a file, or is not writable.
    """
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise OptionError(f"{where}: cannot create {folder}: {above} is a file.")
    try:  # permissions are not enough: the file system may be read-only
        TemporaryDirectory(prefix=TRIAL, dir=above).cleanup()
    except OSError as error:
        why = error.strerror
        raise OptionError(f"{where}: {folder}: cannot write in {above}: {why}.") from None
    return folder


def seed_folders(folder: Path) -> list[Path]:
    """Return the run folders of a group that `--seeds` has trained, by seed; empty for others."""
    found = [path.parent for path in folder.glob(f"seed-*/{SETTINGS}")]
    numbers = {path: path.name.removeprefix("seed-") for path in found}
    grouped = not (folder / SETTINGS).is_file() and all(map(str.isdecimal, numbers.values()))
    return sorted(found, key=lambda path: int(numbers[path])) if grouped else []


def evaluation_folder(model: Model, given: Path | None) -> Path:
    """Return the output folder of an evaluation.

    Raises:
        OptionError: it is not writable.
    """
    if given is not None:
        return writable(given, "--output-dir")
    if model.on_hub:
        return writable(Path("evaluation") / Path(model.name).name, "MODEL")
    folder = model.folder / "evaluation"
    if model.exported:
        folder = model.folder.with_name(f"{model.folder.name}.evaluation")
    try:
        return writable(folder, "MODEL")
    except OptionError as error:
        raise OptionError(f"{error} Give another folder with --output-dir DIR.") from None


def _numbered(base: Path) -> Iterator[Path]:
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1


def clear(folder: Path, *, keep: Collection[str] = ()) -> None:
    """Delete the files in WRITTEN from a run folder, and nothing else; links are not followed."""
    patterns = [pattern for pattern in WRITTEN if pattern not in keep]
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def refuse_inputs(settings: Settings, dataset: Chosen) -> None:
    """Refuse to overwrite a folder that contains the data, a settings file or the working folder.

    Raises:
        OptionError: the run folder contains one of them.
    """
    sources = {where.rpartition(": ")[0] for where in settings.origins.values()}
    weights = settings.config.class_weights or ""
    for needed in [*_texts(dataset), *sorted(sources), weights]:
        if needed and expand(needed).exists():
            refuse_own(settings, needed)
    folder = settings.config.output_dir
    if folder and Path.cwd() != folder.resolve():
        refuse_own(settings, str(Path.cwd()))


def _texts(dataset: Chosen) -> Iterator[str]:
    """Yield the option values of a data set and its parts that may be paths."""
    for value in (*vars(dataset.options).values(), dataset.common.map):
        many = value if isinstance(value, tuple | list) else (value,)
        yield from (str(one) for one in many if isinstance(one, str | Path))
    for part in dataset.parts:
        yield from _texts(part)


def refuse_own(settings: Settings, needed: str) -> None:
    """Refuse `--overwrite` if the run folder contains a path that the run needs.

    Raises:
        OptionError: the run folder contains it.
    """
    config = settings.config
    run, path = config.output_dir, expand(needed).resolve()
    if config.overwrite and run and path.is_relative_to(run.resolve()):
        raise OptionError(
            f"{settings.where('overwrite')}: {needed} is inside {run}, which would be "
            "deleted. Choose another --output-dir."
        )


def _close_all() -> None:
    """Close the lock files in a forked child, which would otherwise outlive its parent's locks."""
    for file in list(_open):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)


class RunLock:
    """Locks a run folder until the process ends or `release` is called.

    The main process takes the lock (`claim`); then all processes share it (`share`), so that a
    process that outlives the launcher still keeps other runs out.

    Attributes:
        note: a warning if the folder cannot be locked; else empty.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare the lock of a folder without taking it."""
        self.mark, self.note = folder / MARK, ""
        self._file: IO[str] | None = None

    def claim(self) -> None:
        """Create the folder and lock it, on the main process.

        Raises:
            OptionError: another run has locked it, or MARK cannot be opened.
        """
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        self._file = file = self._opened()
        if not self._lock(file, exclusive=True):
            self.release()
            raise OptionError(in_use(self.mark.parent))
        file.truncate(0)
        self.share()

    def share(self) -> None:
        """Share the lock of the main process, if this process sees the same folder.

        Raises:
            OptionError: MARK cannot be opened.
        """
        if self._file is None and self.mark.is_file():
            self._file = self._opened()
        if self._file is not None:
            self._lock(self._file, exclusive=False)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def held(self) -> bool:
        """Return whether a run has locked the folder now.

        Raises:
            OptionError: MARK cannot be opened.
        """
        if not self.mark.is_file():
            return False
        with self._opened() as file:
            return not self._lock(file, exclusive=True)

    def missing(self, patience: float = 2.0) -> list[str]:
        """List the processes of the run on this machine that have ended or are stopped.

        If there is none yet, look again for `patience` seconds: the connections of a process that
        is killed are closed before its memory is returned and its state changes.
        """
        until = time.monotonic() + patience
        while not (found := self._missing()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def _missing(self) -> list[str]:
        import psutil

        found = []
        lines = self.mark.read_text(encoding="utf-8").splitlines() if self.mark.is_file() else []
        for line in dict.fromkeys(lines):
            _, pid, _, host = line.split(" ", 3)
            try:
                state = psutil.Process(int(pid)).status()
            except psutil.Error:
                state = psutil.STATUS_DEAD
            if host == socket.gethostname() and state in ENDED:
                found.append(f"P{line[1:]} {ENDED[state]}.")
        return found

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> IO[str]:
        try:
            file = self.mark.open("a+", encoding="utf-8")
        except OSError as error:
            raise OptionError(
                f"{self.mark}: cannot be opened to lock the run folder: {error.strerror}. Make it "
                "a file that you may write, or choose another folder with --output-dir."
            ) from None
        _open.add(file)
        return file

    def _lock(self, file: IO[str], *, exclusive: bool) -> bool:
        """Try to lock without waiting; return False if another run has the lock.

        Returns True, with a note, if the system or the file system has no locks.
        """
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            self.note = NO_LOCKS.format(self.mark.parent, "this operating system has no flock")
            return True
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            self.note = NO_LOCKS.format(self.mark.parent, error.strerror)
        return True


def in_use(folder: Path) -> str:
    """Return the message about a folder that another run has locked."""
    text = (folder / MARK).read_text(encoding="utf-8", errors="replace")
    owners = ", ".join(dict.fromkeys(text.splitlines())) or "a process that is starting"
    return (
        f"{folder} is used by another run: {owners}. Wait until it ends, stop it, or choose "
        "another folder with --output-dir."
    )
