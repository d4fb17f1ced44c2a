"""One run at a time in a run folder: a lock that dies with the processes that hold it."""

import os
import socket
import weakref
from pathlib import Path
from typing import IO

from segacc.errors import OptionError

MARK = ".segacc_run"
"""File that every run writes into its folder and locks. It names the run's processes, and without
it nothing is ever deleted there."""

_open: "weakref.WeakSet[IO[str]]" = weakref.WeakSet()


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


NO_LOCKS = "{} cannot be locked ({}): nothing keeps a second run out of it"


def in_use(folder: Path) -> str:
    """Say which processes hold a folder, and what can be done."""
    text = (folder / MARK).read_text(encoding="utf-8", errors="replace")
    owners = ", ".join(dict.fromkeys(text.splitlines())) or "a process that is just starting"
    return (
        f"{folder}: another run is writing there: {owners}. Wait for its end or stop it, or choose "
        "another folder with --output-dir."
    )
