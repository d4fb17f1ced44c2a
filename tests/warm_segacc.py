"""Runs many `python -m segacc` in processes of their own that share one import of torch.

It reads a JSON line for each run from stdin: `arguments`, `cwd`, `stdout` and `stderr` (files),
`site` (a folder to import from, or null), `processes` (0: no launcher), `more`, environment
variables, and `code`, Python to run instead (or null). It forks, and each child does what
`python -m segacc` does, in the environment that `accelerate launch` gives it; the exit code is
written as one line. With `ended`, a file, the run is left running: the process ids are written as
one line at once, and the exit code into the file when it has ended.
"""

import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

LIMIT = 300.0
"""Seconds after which the processes of a run are killed."""
USUAL = {
    **dict.fromkeys(("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"), signal.SIG_DFL),
    "SIGINT": signal.default_int_handler,
}
"""What a new process does at a signal, unless the one that started it ignored it."""
IMPORTED = (
    *("accelerate", "matplotlib.backends.backend_agg", "matplotlib.figure", "pyarrow.dataset"),
    *("pyarrow.parquet", "torch.utils.serialization", "torchcodec.decoders"),
    "transformers.models.segformer.image_processing_segformer",
    "transformers.models.segformer.modeling_segformer",
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PpmImagePlugin"),
    *("pydantic.dataclasses", "rich.status", "rich._emoji_codes"),
)
"""What a run imports besides segacc, so that it need not."""
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
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import segacc

    own = pkgutil.walk_packages(segacc.__path__, "segacc.")
    for name in (*IMPORTED, *(one.name for one in own if one.name != "segacc.__main__")):
        importlib.import_module(name)
    get_checkpoint_conversion_mapping("segformer")  # what loading and saving make once a process
    segacc.training.tracking.curves.curves([], best_by="mean_iou").savefig(io.BytesIO())
    gc.collect()
    gc.freeze()  # no run looks for garbage among what was imported
    for line in sys.stdin:
        job = json.loads(line)
        told = leave_running(job) if job["ended"] else str(exit_code(fork_all(job)))
        sys.stdout.write(f"{told}\n")
        sys.stdout.flush()


def fork_all(job: dict[str, Any], *, group: bool = False) -> list[int]:
    """Start the processes of a run, in a process group of their own if told."""
    children: list[int] = []
    for environment in environments(job["processes"]):
        child = os.fork()
        if group:
            with suppress(PermissionError, ProcessLookupError):  # it may have ended already
                os.setpgid(child, children[0] if children else child)
        if not child:
            os.environ.update({**environment, **job["more"]})
            os._exit(run(job))
        children.append(child)
    return children


def leave_running(job: dict[str, Any]) -> str:
    """Start a run under a process that waits for it; return the ids of the run's processes."""
    inward, outward = os.pipe()
    if not os.fork():
        if os.fork():
            os._exit(0)  # so that nobody needs to wait for the one that waits
        os.setsid()
        for name, handler in USUAL.items():  # a suite that nohup started ignores SIGHUP
            signal.signal(getattr(signal, name), handler)
        children = fork_all(job, group=True)
        os.write(outward, " ".join(map(str, children)).encode())
        os.close(outward)
        ended = Path(job["ended"])
        ended.with_suffix(".part").write_text(str(exit_code(children)))
        ended.with_suffix(".part").rename(ended)
        os._exit(0)
    told = os.read(inward, 4096).decode()
    os.wait()
    os.close(inward)
    os.close(outward)
    return told


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
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve()
