"""Parse, plan, build, train; a user's mistake is one paragraph and exit code 2."""

import atexit
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


def main() -> int:
    """Run the command line of this process; return the exit code."""
    show_any_character()
    try:
        from segacc import cli

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
