"""Runs many `python -m segacc` in processes of their own that share one import of torch.

It reads a JSON line for each run from stdin: `arguments`, `cwd`, `stdout` and `stderr` (files),
`site` (a folder to import from, or null). It forks, and the child does what `python -m segacc`
does; the exit code is written as one line.
"""

import json
import os
import sys
import traceback
from typing import Any


def serve() -> None:
    """Answer until stdin ends."""
    import accelerate  # noqa: F401
    import transformers.models.segformer  # noqa: F401

    import segacc.commands.evaluate.score
    import segacc.training.setup  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(run(json.loads(line)))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def run(job: dict[str, Any]) -> int:
    """Become `python -m segacc`: folder, streams and arguments of its own."""
    os.chdir(job["cwd"])
    for number, path, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["stdout"], os.O_WRONLY),
        (2, job["stderr"], os.O_WRONLY),
    ):
        os.dup2(os.open(path, mode), number)
    sys.argv = ["segacc", *job["arguments"]]
    sys.path[:0] = [job["site"]] if job["site"] else []
    from segacc.__main__ import main

    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve()
