"""Signals: before training they end the process at once, then they stop it after a step."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

from segacc.errors import is_main
from segacc.training.limits.launchers import ENDED, launcher

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that stop a run; a platform may lack some of them."""
SAME = 2.0
"""Seconds in which a launcher may forward a signal that the terminal has already sent."""

HEARD = 1.0
"""Seconds that other processes wait, so that the main process can print its line first."""
CLEARED = "\r\x1b[2K\x1b[?25h"
"""Clears the line of a spinner on a terminal, and shows the cursor again."""


def heeded() -> list[signal.Signals]:
    """Return the signals in STOPPING that this process heeds: SIGINT, and those not ignored."""
    there = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    return [
        number
        for number in there
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    ]


class Starting:
    """Until training begins, lets a signal in STOPPING end the process at once, after one line.

    Python runs a signal's handler once the C function that is running returns, which may take
    minutes while processes are joined or libraries are loaded; so a thread ends the process. A
    launcher that ended before its only process began counts as SIGHUP.

    Attributes:
        tell: called with the signal's name; returns the line that the main process prints.
    """

    current: "Starting | None" = None
    """The one that is active in this process."""
    launcher: int | None = None
    """What `launcher` returned at the start; the launcher may have ended since."""

    def __init__(self, tell: Callable[[str], str]) -> None:
        """Install the handlers, on the main thread of a process; ignored signals stay ignored."""
        self.tell = tell
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        Starting.current, Starting.launcher = self, launcher()
        self._before = {number: signal.signal(number, self._wake) for number in heeded()}
        threading.Thread(target=self._wait, daemon=True).start()
        if Starting.launcher == ENDED:
            self._end(signal.SIGHUP)

    def finish(self) -> None:
        """Restore the handlers from before."""
        Starting.current = None
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._wake:
                signal.signal(number, handler)
        os.close(self._write)

    def _wake(self, number: int, frame: FrameType | None) -> None:
        """Do nothing; a signal with a handler of Python's wakes the thread."""

    def _wait(self) -> None:
        while heard := os.read(self._read, 1):
            if signal.getsignal(heard[0]) == self._wake:
                self._end(heard[0])
        os.close(self._read)

    def _end(self, number: int) -> NoReturn:
        try:
            if is_main():
                text = self.tell(signal.Signals(number).name)
                sys.stderr.write(f"{CLEARED * sys.stderr.isatty()}segacc: {text}\n")
                sys.stderr.flush()
            else:
                time.sleep(HEARD)
        finally:
            os._exit(128 + number)


def _forget_start() -> None:
    """Let a forked child end by signals as usual, and not wake its parent's thread."""
    if Starting.current:
        with suppress(ValueError):  # the fork of another thread than the main one
            Starting.current.finish()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_start)


class StoppedError(Exception):
    """An evaluation was interrupted by a signal, on all processes."""


class StopSignal:
    """Records the signals in STOPPING during training; a second SIGINT ends the process at once.

    A signal that was ignored before the block, as SIGHUP under nohup, stays ignored, except SIGINT.
    The end of the launcher counts as SIGHUP, as nobody else would end the processes.

    Attributes:
        error: the error that stops the run instead of a signal, see `ask`.
    """

    def __init__(self) -> None:
        """Start without a signal."""
        self._name = ""
        self._launcher = launcher() if Starting.launcher is None else Starting.launcher
        self.error: Exception | None = None
        self._when = 0.0
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The first signal received, as `SIGTERM`; empty before."""
        if not self._name and self._launcher not in (None, os.getppid()):
            self._name = "SIGHUP"
        return self._name

    def __enter__(self) -> "StopSignal":
        """Install the signal handlers, which Python allows in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            if Starting.current:
                Starting.current.finish()
            for number in heeded():
                self._before[number] = signal.signal(number, self._note)
        return self

    def ask(self, error: Exception) -> None:
        """Stop the run as SIGTERM does, with an error to raise once it is saved; keep the first.

        All processes then stop in the same way, even if only the main process cannot write.
        """
        self.error = self.error or error
        self._name = self._name or "SIGTERM"

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._name:
            self._name, self._when = signal.Signals(number).name, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._when > SAME:
            raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
