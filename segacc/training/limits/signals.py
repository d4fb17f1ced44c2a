"""A signal asks for the end; the loop finishes its step first."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that ask for the end; a platform may lack some of them."""
SAME = 2.0
"""Seconds in which a launcher may hand on a signal that the terminal has already sent."""


class StoppedError(Exception):
    """An evaluation was ended by a signal, on all processes."""


class StopSignal:
    """Notes the signals of STOPPING while a run trains; a later SIGINT ends the process at once.

    One of the others that was ignored before the block, as SIGHUP under nohup, stays ignored.

    Attributes:
        name: of the first signal that came, as `SIGTERM`; empty before.
        error: what was asked with in the place of a signal, see `ask`.
    """

    def __init__(self) -> None:
        """Start unasked."""
        self.name = ""
        self.error: Exception | None = None
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        """Listen; Python allows that in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def ask(self, error: Exception) -> None:
        """Ask for the end as SIGTERM does, for an error after which all is saved; keep the first.

        So a run ends in the same order on all its processes when the main one alone cannot write.
        """
        self.error = self.error or error
        self.name = self.name or "SIGTERM"

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.name:
            self.name, self._when = signal.Signals(number).name, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._when > SAME:
            raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
