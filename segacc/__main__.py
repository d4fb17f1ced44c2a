"""The command line's entry point: a user's mistake is one paragraph and exit code 2."""

import atexit
import errno
import io
import os
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from segacc.errors import SegaccError, is_main, is_memory_full, is_peer_lost
from segacc.settings.secrets import shown

LINGER = 10.0
"""Seconds that other processes wait before exit code 2, so that the main process can print the
error before the launcher ends it."""

FREE_MEMORY = (
    "Training needs less memory with a smaller --batch-size (and, for the same gradient, more "
    "--gradient-accumulation-steps), a smaller --crop-size, --mixed-precision bf16 or "
    "--gradient-checkpointing; an evaluation with --eval-batch-size 1, or with a protocol of "
    "sliding windows."
)
LOST = "another process of this run has ended, or did not answer within --process-timeout."

MPI = {
    "PMI_": "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_": "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_": "MV2_COMM_WORLD_LOCAL_RANK",
}
"""Prefix of each MPI's size and rank variables, and the name of its local-rank variable."""


def main() -> int:
    """Run the command of this process's command line; return the exit code."""
    show_any_character()
    if "_ARGCOMPLETE" in os.environ:  # set by the shell that asks for completions
        from segacc.commands.completion import complete

        complete()
    try:
        from segacc.commands import cli

        return cli.run(sys.argv[1:])
    except SegaccError as error:
        return refuse(str(error))
    except KeyboardInterrupt:  # once training has begun, it handles Ctrl+C itself
        sys.stderr.write("segacc: interrupted.\n" if is_main() else "")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        from segacc.training.limits.faults import fault_of_a_plugin

        told = LOST if is_peer_lost(error) else forbidden(error) or full(error)
        told = told or fault_of_a_plugin(error)
        if not told:
            raise
        return refuse(" ".join([told, *getattr(error, "__notes__", ())]))


def refuse(text: str) -> int:
    """Print the one paragraph of an error; return the exit code."""
    if not is_main():
        time.sleep(LINGER)
    sys.stderr.write(paragraph(shown(f"segacc: {text}")) + "\n")
    return 2


def forbidden(error: Exception) -> str:
    """Return the paragraph about a file or folder without permission; empty for other errors."""
    if not isinstance(error, PermissionError) or error.filename is None:
        return ""
    return (
        f"{os.fsdecode(error.filename)}: {error.strerror}. Give this user the permission to read "
        "it, or to write there, or choose another path."
    )


def full(error: Exception) -> str:
    """Return the paragraph about a full disk or GPU memory; empty if it is another error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write to disk: {error}."
    return f"{' '.join(str(error).split())} {FREE_MEMORY}" if is_memory_full(error) else ""


def take_mpi_names() -> None:
    """Set the variables of torch's launcher in a process that MPI launched."""
    for mpi, local in MPI.items():
        if "WORLD_SIZE" not in os.environ and os.environ.get(f"{mpi}SIZE", "1") != "1":
            names = {"WORLD_SIZE": f"{mpi}SIZE", "RANK": f"{mpi}RANK", "LOCAL_RANK": local}
            given = {ours: os.environ.get(theirs) for ours, theirs in names.items()}
            os.environ.update({ours: value for ours, value in given.items() if value})


def show_any_character() -> None:
    """Make stdout and stderr print a replacement for characters that their encoding lacks.

    Figures draw a box for those that matplotlib's font lacks, without a warning.
    """
    import warnings

    warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from ")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # a read-write stream cannot be reconfigured
                stream.reconfigure(errors="replace")


def open_streams() -> None:
    """Replace a stdout or stderr that was closed from the start, as by `segacc ... >&-`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123


def end_with(call: Callable[[], int]) -> NoReturn:
    """Exit with the code that `call` returns or exits with, or 1 if it raises.

    The process leaves by os._exit before the interpreter is finalized: with torch that takes up to
    a second, and gloo's threads may crash it then. (Other scripts only have the short delay of
    `processes.settle_at_exit`.) Functions registered with atexit after this call still run.
    """
    code = 1

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the reader is gone, or the stream is closed
                stream.flush()
        os._exit(code)

    atexit.register(leave)
    try:
        code = call()
    except SystemExit as end:  # argparse's, after --help
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    sys.exit(code)


def script() -> NoReturn:
    """Run the command line; the entry point of `segacc` and of `python -m segacc`."""
    open_streams()
    take_mpi_names()
    end_with(main)


def paragraph(text: str) -> str:
    """Wrap a text to the terminal's width; leave it on one line if stderr is not a terminal."""
    if not sys.stderr.isatty():
        return text
    columns = os.get_terminal_size(sys.stderr.fileno()).columns
    width = min(100, columns or 100)  # 0: the terminal's size is unknown
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    script()
