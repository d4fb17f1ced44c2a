"""Parse, plan, build, train; a user's mistake is one paragraph and exit code 2."""

import os
import sys
import textwrap
import time

from segacc.errors import SegaccError

LINGER = 10.0
"""Seconds that another process waits for the main one to speak; the launcher ends it then."""


def main() -> int:
    """Run the command line of this process; return the exit code."""
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


def paragraph(text: str) -> str:
    """Wrap a text at the terminal's words; leave it on one line where it goes into a file."""
    if not sys.stderr.isatty():
        return text
    width = min(100, os.get_terminal_size(sys.stderr.fileno()).columns)
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
