"""Signals that stop a run after the current step."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that stop a run; a platform may lack some of them."""
SAME = 2.0
"""Seconds in which a launcher may forward a signal that the terminal has already sent."""


class StoppedError(Exception):
    """An evaluation was interrupted by a signal, on all processes."""


class StopSignal:
    """Records the signals in STOPPING during training; a second SIGINT ends the process at once.

    A signal that was ignored before the block, as SIGHUP under nohup, stays ignored, except SIGINT.
    The end of the launcher of several processes counts as SIGHUP, as nobody else would end them.

    Attributes:
        error: the error that stops the run instead of a signal, see `ask`.
    """

    def __init__(self) -> None:
        """Start without a signal."""
        self._name = ""
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._launcher = os.getppid() if several else None
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
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
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
