"""A signal asks for the end; the loop finishes its step first."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """Notes SIGINT and SIGTERM while the block runs; a second one ends the process at once.

    Attributes:
        name: `SIGINT` or `SIGTERM` once one came, else empty.
    """

    def __init__(self) -> None:
        """Start unasked."""
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        """Listen; Python allows that in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._restore()
