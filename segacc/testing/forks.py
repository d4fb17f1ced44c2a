"""Runs a function on several processes that are forks, since records cannot be pickled."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import patch_environment

PATIENCE = timedelta(seconds=120)
"""How long processes wait for each other."""


@contextmanager
def alone_on_cpu() -> Iterator[None]:
    """Run a block in which accelerate has not been started yet, and starts on the CPU."""
    kinds = (AcceleratorState, PartialState, GradientState)
    before = [dict(kind._shared_state) for kind in kinds]
    for kind in kinds:
        kind._shared_state.clear()
    try:
        with patch_environment(accelerate_use_cpu="yes", accelerate_mixed_precision="no"):
            yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)


def forked(work: Callable[[], dict[str, Any]], folder: Path, count: int) -> list[dict[str, Any]]:
    """Run `work` on so many processes that know of each other, and return what each gave.

    Args:
        work: called on each process; what it returns must be what torch.save can write.
        folder: an empty one, for what the processes leave.
        count: of processes.

    Raises:
        RuntimeError: `work` failed; the text is that of one process.
    """
    multiprocessing: Any = torch.multiprocessing
    try:
        multiprocessing.start_processes(
            part, args=(work, folder, count), nprocs=count, start_method="fork"
        )
    except Exception:
        told = [path.read_text() for path in sorted(folder.glob("*.txt"))]
        raise RuntimeError(told[0] if told else "a process that ended") from None
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def part(rank: int, work: Callable[[], dict[str, Any]], folder: Path, count: int) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)  # a fork of a process with OpenMP threads hangs otherwise
    where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {**where, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    distributed: Any = torch.distributed
    store = distributed.FileStore(str(folder / "meeting"), count)
    try:
        distributed.init_process_group(
            "gloo", rank=rank, world_size=count, store=store, timeout=PATIENCE
        )
        with alone_on_cpu():
            done = work()
        torch.save(done, folder / f"{rank}.pt")
        distributed.destroy_process_group()
    except Exception as error:
        text = " ".join(str(error).split())
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {text}")
        raise
