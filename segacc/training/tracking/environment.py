"""environment.json: versions, command, devices and duration of each start of a run."""

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segacc.contracts import VERSION
from segacc.data.atomic import replacing
from segacc.settings.secrets import without_secrets


def note_start(path: Path, *, step: int, devices: Sequence[str], started: float) -> None:
    """Add a start of the run to environment.json.

    Args:
        path: the file, a list with one entry for each start.
        step: optimizer steps already done.
        devices: the device of each process.
        started: when the process started, as a value of time.monotonic, in seconds.
    """
    earlier = (
        json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        if path.is_file()
        else []
    )
    begin = datetime.now(UTC) - timedelta(seconds=time.monotonic() - started)
    start = {
        "started": begin.isoformat(timespec="seconds"),
        "seconds": None,
        "step": step,
        "command": command_line(),
        "directory": str(Path.cwd()),
        "git_commit": git_commit(),
        "segacc": VERSION,
        **{name: version(name) for name in ("torch", "transformers", "accelerate")},
        "python": platform.python_version(),
        "devices": list(devices),
    }
    _write_json(path, [*earlier, start])


def note_end(path: Path) -> None:
    """Add the duration in seconds to the newest start in environment.json, if it is still there."""
    if path.is_file():
        *earlier, start = read_starts(path)
        taken = datetime.now(UTC) - datetime.fromisoformat(start["started"])
        _write_json(path, [*earlier, {**start, "seconds": round(taken.total_seconds(), 1)}])


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Read the starts of a run from environment.json."""
    starts: list[dict[str, Any]] = json.loads(path.read_text("utf-8", "surrogateescape"))
    return starts


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as part:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8", errors="surrogateescape")  # for paths


def command_line() -> str:
    """Return the command that started this process, as a shell reads it, without secrets."""
    return without_secrets(shlex.join(sys.orig_argv))


def git_commit() -> str | None:
    """Return the commit of the working directory; None if it is in no repository or git is absent.

    Changes that are not committed are not looked for.
    """
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
