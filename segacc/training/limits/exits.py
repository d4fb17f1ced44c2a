"""What is said at the end of a start: exit.json, and the command that continues the run."""

import json
import os
import shlex
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from segacc.data.atomic import replacing
from segacc.training.folders import EXIT, MARK
from segacc.training.limits.launchers import start_command
from segacc.training.plan import Plan


def resume_command(folder: Path) -> str:
    """Return the command that continues a run."""
    return f"{start_command()} --resume {shlex.quote(str(folder))}"


def write_exit(folder: Path, content: Mapping[str, Any]) -> None:
    """Write exit.json in a run folder; not on a full disk."""
    with suppress(OSError), replacing(folder / EXIT) as part:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8", errors="replace")


def stopped_at_start(name: str, plan: Plan | None) -> str:
    """Return the line about a signal that came before the first step, and write exit.json.

    Args:
        name: the signal, as `SIGTERM`.
        plan: the run; None if its settings were not checked yet.
    """
    text = f"{name} during the start: no step was taken"
    if plan is None:
        return f"{text}. The same command starts the run."
    step = plan.resume.progress.step if plan.resume else 0
    command = resume_command(plan.folder) if plan.resume else None
    config, mark = plan.settings.config, plan.folder / MARK
    begun = mark.is_file() and f"process {os.getpid()} on" in mark.read_text(encoding="utf-8")
    if begun:
        content = {
            "reason": name,
            "code": 128 + int(signal.Signals[name]),
            "step": step,
            "max_steps": config.max_steps,
            "saved_step": step or None,
            "resume": command,
            "error": None,
        }
        write_exit(plan.folder, content)
    if command:
        return f"{text}. The run is saved at step {step}; `{command}` continues it."
    again = ", with --overwrite" if begun and config.output_dir and not config.overwrite else ""
    return f"{text}. The same command{again} starts the run."
