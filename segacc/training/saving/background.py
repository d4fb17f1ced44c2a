"""`--push-to-hub`: upload each new best/ during a run, in a process of its own."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from segacc.training.events import Event, Saved
from segacc.training.saving.upload import PREFIX, SUFFIX, keep

OUTPUT = ".push.log"
"""File in the folder of an upload with its output; hidden files are not uploaded."""
PATIENCE = 10.0
"""Seconds in which an upload that was told to stop must end."""


class Uploads:
    """Uploads the versions of a run's best/ one after the other; only the newest one waits.

    The run never waits for them, but at its end, and a failure is one warning.
    """

    def __init__(self, repo: str, folder: Path, say: Callable[[str], None]) -> None:
        """Prepare the uploads of a run.

        Args:
            repo: the repository.
            folder: the run folder.
            say: prints a line.
        """
        self.repo, self.best, self.say = repo, folder / "best", say
        self.failed, self.done = "", ""
        self._waiting: tuple[int, tempfile.TemporaryDirectory[str]] | None = None
        self._running: tuple[int, tempfile.TemporaryDirectory[str]] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, step: int) -> None:
        """Upload best/ as it is now, once the upload that runs has ended."""
        if self._waiting:
            self._waiting[1].cleanup()
            self._waiting = None
        try:
            self._waiting = step, keep(self.best)
        except OSError as error:  # as on a full disk
            self._fail(step, f"it cannot be kept: {error}")

    def look(self) -> None:
        """Note the end of an upload, and start the one that waits; takes no time."""
        if self._process and self._process.poll() is not None:
            self._end()
        if self._waiting and not self._process:
            self._running, self._waiting = self._waiting, None
            step, kept = self._running
            try:
                self._process = self._started(kept.name)
            except OSError as error:  # as on a full disk, or without memory for a process
                self._running = None
                kept.cleanup()
                self._fail(step, f"its process did not start: {error}")

    def finish(self) -> None:
        """Wait for the last upload; Ctrl-C ends this."""
        self.look()
        try:
            while self._process and self._running:
                self.say(
                    f"waiting for the upload of best/ of step {self._running[0]} to {self.repo} "
                    "(Ctrl-C ends this)"
                )
                self._process.wait()
                self.look()
        except KeyboardInterrupt:
            self.stop()
        self.tell()

    def tell(self) -> None:
        """Print what became of the newest upload."""
        if self.failed:
            command = f"segacc push {shlex.quote(str(self.best))} {self.repo}"
            self.say(f"{self.failed} Upload it with: {command}")
        elif self.done:
            self.say(self.done)

    def stop(self) -> None:
        """End the upload that runs, and forget the one that waits."""
        newest = self._waiting or self._running
        if self._process and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
            self._process.kill()
            self._process.wait()
        for one in filter(None, (self._waiting, self._running)):
            one[1].cleanup()
        self.clear()
        self._waiting = self._running = self._process = None
        if newest:
            step = newest[0]
            self.failed = f"warning: best/ of step {step} is not uploaded to {self.repo}: ended."

    def clear(self) -> None:
        """Delete what uploads that were killed have left in the run folder."""
        for old in self.best.parent.glob(f"{PREFIX}*{SUFFIX}"):
            shutil.rmtree(old, ignore_errors=True)

    def _started(self, folder: str) -> "subprocess.Popen[bytes]":
        """Start `segacc push`; Ctrl-C in the terminal does not reach it."""
        own = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "RANK": "0", "WORLD_SIZE": "1"}
        with Path(folder, OUTPUT).open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "segacc", "push", folder, self.repo],
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self) -> None:
        assert self._process and self._running
        (step, kept), code = self._running, self._process.returncode
        told = Path(kept.name, OUTPUT).read_text(encoding="utf-8", errors="replace")
        lines = told.strip().splitlines() or [""]
        kept.cleanup()
        self._process = self._running = None
        if code:
            self._fail(step, lines[-1].removeprefix("segacc: "))
        else:
            url = lines[0].rpartition(" to ")[2]
            self.failed, self.done = "", f"best/ of step {step} was uploaded to {url}"

    def _fail(self, step: int, reason: str) -> None:
        text = f"warning: best/ of step {step} was not uploaded: {reason}"
        self.failed = text if text.endswith(".") else f"{text}."
        self.say(self.failed)


def publishing(uploads: Uploads, events: Iterator[Event]) -> Iterator[Event]:
    """Yield the events of a run, and upload each new best/; on the main process only."""
    uploads.clear()  # what is left of a run that was killed
    try:
        for event in events:
            if isinstance(event, Saved) and event.folder.name == "best":
                uploads.add(event.step)
            uploads.look()
            yield event
    except BaseException:
        uploads.stop()
        uploads.tell()
        raise
    uploads.finish()
