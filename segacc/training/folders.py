"""Run folders: where a run writes, what may be deleted there, and one run at a time."""

import os
import shutil
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from segacc.errors import OptionError
from segacc.hookspecs import Chosen
from segacc.settings.sources import Settings

NETWORK = "network"
"""Folder in the run folder: what weights decided of the network beside tensors."""
BALANCE = "class_balance.json"
"""File in the run folder: what class balance was found, and stays."""
WRITTEN = (
    "config.yaml",
    "metrics.jsonl",
    ".metrics.jsonl.tmp",
    ".config.yaml.tmp",
    BALANCE,
    "parameter_groups.json",
    NETWORK,
    "pictures",
    "checkpoints",
    "best",
    "best-step-*",
    "last",
    "segacc",
    ".*.part",
    ".*.old",
)
"""What a run writes into its folder, `segacc` being its trackers'; all that is ever deleted. The
mark stays: the run that comes next holds it."""
TRIAL = ".segacc-"
"""How the name of a folder begins that is there for a moment, to see whether that is possible."""

MARK = ".segacc_run"
"""File that every run writes into its folder and locks. It names the run's processes, and without
it nothing is ever deleted there."""

_open: "weakref.WeakSet[IO[str]]" = weakref.WeakSet()

NO_LOCKS = "{} cannot be locked ({}): nothing keeps a second run out of it"


def model_folder(given: str, where: str) -> Path:
    """Return a folder with a saved network.

    Raises:
        OptionError: it is not there or holds none.
    """
    folder = Path(given).expanduser()
    if (folder / "config.json").is_file():
        return folder
    hint = f" Did you mean {Path(given) / 'best'}?" if (folder / "best").is_dir() else ""
    why = "it holds no config.json" if folder.is_dir() else "there is no such folder"
    raise OptionError(f"{where}: {given} is no folder of a saved network: {why}.{hint}")


def run_folder(settings: Settings, arch: Chosen, dataset: Chosen) -> Path:
    """Return the folder that the run will write, named after what it trains unless it was typed.

    Raises:
        OptionError: it is in use, holds something else, or cannot be written.
    """
    config = settings.config
    if config.output_dir is None:
        if config.overwrite:
            raise OptionError(
                f"{settings.where('overwrite')}: needs --output-dir DIR, the run folder to delete."
            )
        base = Path("runs") / f"{arch.name}-{dataset.name}"
        folder = next(path for path in _numbered(base) if not path.exists())
        return writable(folder, "--output-dir is not given")
    folder = writable(config.output_dir.expanduser(), settings.where("output_dir"))
    # Another process may be trying just now whether it can write there.
    inside = folder.iterdir() if folder.is_dir() else ()
    occupied = any(path.name != MARK and not path.name.startswith(TRIAL) for path in inside)
    if os.environ.get("RANK", "0") == "0" and RunLock(folder).held():
        where = f"--resume {config.resume}" if config.resume else settings.where("output_dir")
        raise OptionError(f"{where}: {in_use(folder)}")
    if occupied and not (config.resume or config.overwrite):
        raise OptionError(
            f"{settings.where('output_dir')}: {folder} is in use. Choose another folder, go on "
            "with "
            f"`--resume {folder}`, or delete what that run wrote with --overwrite."
        )
    if config.overwrite and folder.is_symlink():
        raise OptionError(
            f"{settings.where('overwrite')}: {folder} is a symbolic link, which is not followed "
            "to delete what it points to. Name the folder itself."
        )
    if occupied and config.overwrite and not (folder / MARK).is_file():
        raise OptionError(
            f"{settings.where('overwrite')}: {folder} does not look like a run folder (it has no "
            f"{MARK}), "
            "so it is not deleted. Remove it yourself, or choose another folder."
        )
    if occupied and config.overwrite:
        refuse_inputs(settings, dataset)
    return folder


def writable(folder: Path, where: str) -> Path:
    """Return a folder that is there or can be made.

    Raises:
        OptionError: a file is in its place or above it, or nobody may write there.
    """
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise OptionError(f"{where}: {folder}: {above} is a file.")
    try:  # rights alone do not tell: a file system may refuse all the same
        TemporaryDirectory(prefix=TRIAL, dir=above).cleanup()
    except OSError as error:
        why = error.strerror
        raise OptionError(f"{where}: {folder}: nothing can be written in {above}: {why}.") from None
    return folder


def evaluation_folder(model: Path, given: Path | None) -> Path:
    """Return the folder that an evaluation goes into.

    Raises:
        OptionError: nothing can be written there.
    """
    if given is not None:
        return writable(given.expanduser(), "--output-dir")
    try:
        return writable(model / "evaluation", "MODEL_FOLDER")
    except OptionError as error:
        raise OptionError(f"{error} Give --output-dir DIR, another place for the scores.") from None


def _numbered(base: Path) -> Iterator[Path]:
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1


def clear(folder: Path) -> None:
    """Delete what a run wrote into its folder, by name; all else stays, links are not followed."""
    for path in [path for pattern in WRITTEN for path in folder.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def refuse_inputs(settings: Settings, dataset: Chosen) -> None:
    """Refuse to delete a folder that holds the data, a file of settings or the working folder.

    Raises:
        OptionError: so.
    """
    sources = {where.rpartition(": ")[0] for where in settings.origins.values()}
    weights = settings.config.class_weights or ""
    for needed in [*_texts(dataset), *sorted(sources), weights]:
        if needed and Path(needed).expanduser().exists():
            refuse_own(settings, needed)
    place = settings.config.output_dir
    if place and Path.cwd() != place.expanduser().resolve():
        refuse_own(settings, str(Path.cwd()))


def _texts(dataset: Chosen) -> Iterator[str]:
    """Yield what may name a file or a folder among the options of a data set and of its parts."""
    for value in vars(dataset.options).values():
        many = value if isinstance(value, tuple | list) else (value,)
        yield from (str(one) for one in many if isinstance(one, str | Path))
    for part in dataset.parts:
        yield from _texts(part)


def refuse_own(settings: Settings, needed: str) -> None:
    """Refuse to delete with `--overwrite` a folder that the run needs."""
    config = settings.config
    place, folder = config.output_dir, Path(needed).expanduser().resolve()
    if config.overwrite and place and folder.is_relative_to(place.expanduser().resolve()):
        raise OptionError(
            f"{settings.where('overwrite')}: {needed} lies in {place}, which would be "
            "deleted. Choose another --output-dir."
        )


def _close_all() -> None:
    """Let go of the locks in a child that was forked: it would hold them after its parent."""
    for file in list(_open):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)


class RunLock:
    """Holds a run folder for as long as this process lives, or until `release`.

    The main process asks for it alone (`claim`); all of them then share it (`share`), so that a
    process that outlives the launcher keeps other runs away as well.

    Attributes:
        note: what the user should know, where the folder cannot be locked; else empty.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is locked yet."""
        self.mark, self.note = folder / MARK, ""
        self._file: IO[str] | None = None

    def claim(self) -> None:
        """Make the folder and lock it, on the main process.

        Raises:
            OptionError: another run holds it.
        """
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        self._file = file = self._opened()
        if not self._lock(file, exclusive=True):
            self.release()
            raise OptionError(in_use(self.mark.parent))
        file.truncate(0)
        self.share()

    def share(self) -> None:
        """Hold the lock together with the main process, where this one sees the same folder."""
        if self._file is None and self.mark.is_file():
            self._file = self._opened()
        if self._file is not None:
            self._lock(self._file, exclusive=False)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def held(self) -> bool:
        """Tell whether a run holds the folder at this moment."""
        if not self.mark.is_file():
            return False
        with self._opened() as file:
            return not self._lock(file, exclusive=True)

    def release(self) -> None:
        """Let another run have the folder."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> IO[str]:
        file = self.mark.open("a+", encoding="utf-8")
        _open.add(file)
        return file

    def _lock(self, file: IO[str], *, exclusive: bool) -> bool:
        """Lock at once; return whether no other run has it. Without locks nobody can tell."""
        try:
            import fcntl
        except ImportError:  # no POSIX system
            self.note = NO_LOCKS.format(self.mark.parent, "this operating system has no such locks")
            return True
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            self.note = NO_LOCKS.format(self.mark.parent, error.strerror)
        return True


def in_use(folder: Path) -> str:
    """Say which processes hold a folder, and what can be done."""
    text = (folder / MARK).read_text(encoding="utf-8", errors="replace")
    owners = ", ".join(dict.fromkeys(text.splitlines())) or "a process that is just starting"
    return (
        f"{folder}: another run is writing there: {owners}. Wait for its end or stop it, or choose "
        "another folder with --output-dir."
    )
