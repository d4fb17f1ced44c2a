"""When a run is over, and what is said then."""

import shlex
from typing import TYPE_CHECKING

from segacc.events import Stopped

if TYPE_CHECKING:
    from segacc.run import Run


def reason(run: "Run") -> str:
    """Say why no step is left to take; nothing while there is one."""
    if run.progress.step >= run.max_steps:
        return "finished"
    return run.early_stop.reason(run.progress) if run.early_stop else ""


def stopped(run: "Run", signal: str) -> Stopped:
    """Make the last event: the run is over, or this signal came (perhaps to another process)."""
    step, why = run.progress.step, reason(run)
    if why and not run.evaluation_due():  # a signal may have come before the last evaluation
        return Stopped(step=step, reason=why)
    resume = f"accelerate launch -m segacc --resume {shlex.quote(str(run.folder))}"
    return Stopped(step=step, reason=signal or "SIGTERM", resume=resume)
