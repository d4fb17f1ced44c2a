"""Runs many `python -m segacc` in processes of their own that share one import of torch.

It reads a JSON line for each run from stdin: `arguments`, `cwd`, `stdout` and `stderr` (files),
`site` (a folder to import from, or null), `processes` (0: no launcher), `more`, environment
variables, and `code`, Python to run instead (or null). It forks, and each child does what
`python -m segacc` does, in the environment that `accelerate launch` gives it; the exit code is
written as one line.
"""

import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any

LIMIT = 300.0
"""Seconds after which the processes of a run are killed."""
IMPORTED = (
    *("accelerate", "matplotlib.backends.backend_agg", "matplotlib.figure", "pyarrow.dataset"),
    *("pyarrow.parquet", "torch.utils.serialization", "torchcodec.decoders"),
    "transformers.models.segformer.image_processing_segformer",
    "transformers.models.segformer.modeling_segformer",
    *("segacc.commands.evaluate.score", "segacc.commands.progress", "segacc.commands.tables"),
    *("segacc.commands.train", "segacc.model.networks.linear", "segacc.model.transformers_model"),
    *("segacc.plugins", "segacc.training.setup"),
)
"""What a run imports, so that it need not."""
LAUNCHED = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
}
"""What `accelerate launch` sets with the configurations for CPUs."""


def serve() -> None:
    """Answer until stdin ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        children = []
        for environment in environments(job["processes"]):
            child = os.fork()
            if not child:
                os.environ.update({**environment, **job["more"]})
                os._exit(run(job))
            children.append(child)
        sys.stdout.write(f"{exit_code(children)}\n")
        sys.stdout.flush()


def environments(processes: int) -> list[dict[str, str]]:
    """Return what a launcher adds to the environment of each process."""
    if processes < 2:
        return [{**LAUNCHED, "ACCELERATE_USE_CPU": "True"} if processes else {}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    count = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    common = {**LAUNCHED, **count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = map(str, range(processes))
    return [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in ranks]


def exit_code(children: list[int]) -> int:
    """Wait for the processes; one that fails stops the others, as a launcher does."""
    code, end = 0, time.monotonic() + LIMIT
    while children:
        for child in list(children):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                children.remove(child)
                code = code or os.waitstatus_to_exitcode(status)
                if code:
                    stop(children, signal.SIGTERM)
        if children and time.monotonic() > end:
            stop(children, signal.SIGKILL)
        time.sleep(0.002)
    return code


def stop(children: list[int], number: int) -> None:
    """Send a signal to all processes of a run."""
    for child in children:
        os.kill(child, number)


def run(job: dict[str, Any]) -> int:
    """Become `python -m segacc`: folder, streams and arguments of its own."""
    os.chdir(job["cwd"])
    for number, path, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["stdout"], os.O_WRONLY),
        (2, job["stderr"], os.O_WRONLY),
    ):
        os.dup2(os.open(path, mode | os.O_APPEND), number)
    sys.argv = ["segacc", *job["arguments"]]
    sys.path[:0] = [job["site"]] if job["site"] else []
    from segacc.__main__ import main

    try:
        if job["code"] is None:
            return main()
        exec(compile(job["code"], "code", "exec"), {"__name__": "__main__"})
        return 0
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
