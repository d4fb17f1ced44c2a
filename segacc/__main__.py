"""Parse, plan, build, train; a user's mistake is one paragraph and exit code 2."""

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

from segacc.errors import SegaccError

LINGER = 10.0
"""Seconds that another process waits for the main one to speak; the launcher ends it then."""

MPI = {
    "PMI_": "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_": "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_": "MV2_COMM_WORLD_LOCAL_RANK",
}
"""How MPI's variables of size and rank begin, and the one of the rank on a machine."""


def main() -> int:
    """Run the command line of this process; return the exit code."""
    show_any_character()
    try:
        from segacc.commands import cli

        return cli.run(sys.argv[1:])
    except SegaccError as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(LINGER)
        sys.stderr.write(paragraph(f"segacc: {error}") + "\n")
        return 2
    except KeyboardInterrupt:  # training takes it otherwise, once it has begun
        sys.stderr.write("segacc: interrupted.\n" if os.environ.get("RANK", "0") == "0" else "")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"segacc: something cannot be written: {error}.\n")
        return 2


def take_mpi_names() -> None:
    """Let processes that MPI launched have the variables that torch's launcher sets."""
    for mpi, local in MPI.items():
        if "WORLD_SIZE" not in os.environ and os.environ.get(f"{mpi}SIZE", "1") != "1":
            names = {"WORLD_SIZE": f"{mpi}SIZE", "RANK": f"{mpi}RANK", "LOCAL_RANK": local}
            given = {ours: os.environ.get(theirs) for ours, theirs in names.items()}
            os.environ.update({ours: value for ours, value in given.items() if value})


def show_any_character() -> None:
    """Let a stream whose encoding lacks a character show a replacement instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # one that both reads and writes cannot be changed
                stream.reconfigure(errors="replace")


def end_with(call: Callable[[], int]) -> NoReturn:
    """Exit with the code that a call returns or exits with, or 1 where it raises.

    Of several processes each ends before Python takes itself apart, so that no thread of gloo's
    comes too late (`processes.settle_at_exit` gives them a time; that is what other scripts have).
    What was registered with atexit has run by then, what was registered before this call excepted.
    """
    code = 1

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                stream.flush()
        os._exit(code)

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit.register(leave)
    try:
        code = call()
    except SystemExit as end:  # argparse's, after --help
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    sys.exit(code)


def script() -> NoReturn:
    """Run the command line, as the script `segacc` and as `python -m segacc`."""
    take_mpi_names()
    end_with(main)


def paragraph(text: str) -> str:
    """Wrap a text at the terminal's words; leave it on one line where it goes into a file."""
    if not sys.stderr.isatty():
        return text
    columns = os.get_terminal_size(sys.stderr.fileno()).columns
    width = min(100, columns or 100)  # 0: a terminal that nobody gave a size
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    script()
