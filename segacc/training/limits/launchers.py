"""Which launcher has started this process: accelerate's, torch's or MPI's; and whether it lives."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from segacc.errors import world_size

if TYPE_CHECKING:
    import psutil

LAUNCHED = "SEGACC_PROCESSES"
"""Environment variable with the number of processes that `--processes` has started."""
ALONE = "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION"
"""Environment variable that only `accelerate launch` sets, also for a single process."""
TORCHRUN = {"torchrun", "torch.distributed.run", "torch.distributed.launch"}
"""Names of torch's launcher in a command line."""
ENDED = 0
"""What `launcher` returns for one that has ended: the number of no process."""


def launcher_arguments(command: list[str]) -> list[str] | None:
    """Return the arguments of `accelerate launch` in a command line; None for other commands."""
    for number, word in enumerate(command[:4]):  # Python and its options may come first
        name, rest = Path(word).name, command[number + 1 :]
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return rest
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and rest[:1] == ["launch"]:
            return rest[1:]
    return None


def starts_processes(command: list[str]) -> bool:
    """Return whether a command line is that of `accelerate launch` or of `torchrun`."""
    names = {Path(word).name for word in command[:4]}
    return launcher_arguments(command) is not None or bool(names & TORCHRUN)


def launchers() -> "Iterator[tuple[psutil.Process, list[str]]]":
    """Yield the launchers above this process, the nearest first, with their command lines."""
    import psutil

    for process in psutil.Process().parents():
        with suppress(psutil.Error, OSError):  # it may have ended, or belong to another user
            if starts_processes(command := process.cmdline()):
                yield process, command


def launcher() -> int | None:
    """Return the number of the launcher's process: the parent, if it is one.

    Returns:
        None if this process was not launched, or by another process than its parent; ENDED if the
        launcher of this only process ended before this function was called.
    """
    parent = os.getppid()
    if world_size() > 1:
        return parent
    if parent in [process.pid for process, _ in launchers()]:
        return parent
    return ENDED if ALONE in os.environ and adopts(parent) else None


def accumulation_asked() -> int | None:
    """Return the accumulation steps that `accelerate launch` was given; None without a number.

    It hands on those of DeepSpeed alone; a flag is otherwise found in its command line only.
    """
    given = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "")
    if given.isdigit():  # or `auto`
        return int(given)
    typed = (accumulation_in(launcher_arguments(command) or []) for _, command in launchers())
    return next((steps for steps in typed if steps is not None), None)


def accumulation_in(arguments: list[str]) -> int | None:
    """Return the accumulation steps in the arguments of `accelerate launch`, not in segacc's."""
    if not any(re.match("--gradient.accumulation.steps", word) for word in arguments):
        return None
    from accelerate.commands.launch import launch_command_parser

    steps: int | None = launch_command_parser().parse_args(arguments).gradient_accumulation_steps
    return steps


def start_command() -> str:
    """Return how this run was started: `segacc train`, or a launcher's command."""
    if count := os.environ.get(LAUNCHED):
        return f"segacc train --processes {count}"
    return "segacc train" if launcher() is None else "accelerate launch -m segacc"


def adopts(parent: int) -> bool:
    """Return whether a process is one that becomes the parent of those whose parent has ended.

    In a container, a script that launches may be process 1 itself.
    """
    import psutil

    try:
        name = psutil.Process(parent).name()
    except psutil.Error:
        return False
    return name == "systemd" or (parent == 1 and not name.startswith("python"))


def set_by_launcher() -> bool:
    """Return whether a launcher chose OMP_NUM_THREADS, and not the user.

    `accelerate launch` and `torchrun` set it, mostly to 1, in the processes that they start; the
    user's own is in the launcher's environment, too.
    """
    import psutil

    for process, command in launchers():
        flag = any(re.match("--num.cpu.threads", word) for word in command)
        with suppress(psutil.Error, OSError):
            return not flag and "OMP_NUM_THREADS" not in process.environ()
    return False
