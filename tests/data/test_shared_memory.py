"""Workers with too little shared memory: one paragraph names it, its size and the way out."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import Dataset

from cli_tools import environment
from segacc.data.atomic import shared_memory
from segacc.data.batches import load
from segacc.errors import WriteError

READ = """
import os, subprocess, sys
import torch
from segacc.data.batches import load
from segacc.errors import WriteError

class Zeros(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.zeros(3, 400, 400)

def read(**more):
    try:
        print(len(list(load(Zeros(), 2, batch_size=2, **more))), flush=True)
    except WriteError as error:
        print(error, flush=True)

for size in sys.argv[1:]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", "/dev/shm"], check=True)
    child = os.fork()
    if not child:
        read()
        read(collate_fn=list)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, size
"""


@pytest.mark.slow
def test_a_tiny_shared_memory_is_named() -> None:
    """Of no size: the semaphores do not fit; of 1 MB: the batches do not.

    torch puts its own batches in the shared memory, the worker's queue does so with lists.
    """
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a disk can be mounted by root alone")
    sizes = ("nr_blocks=1", "size=64k", "size=1m")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", READ, *sizes],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    size_of_it = r"\(\d+\.\d MB, of which \d+\.\d MB are free\)"
    start = f"--num-workers 2: the shared memory /dev/shm {size_of_it} is full, through which data"
    told = done.stdout.splitlines()
    assert len(told) == 2 * len(sizes)
    for line in told:
        assert re.match(start, line), line
        assert line.endswith("or load in the training process, --num-workers 0.")


class Some(Dataset[torch.Tensor]):
    """Three numbers."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def test_loaders_load_and_other_errors_pass() -> None:
    for workers in (0, 1):
        loader = load(Some(), workers, batch_size=2)
        assert [one.tolist() for one in loader] == [[0, 1], [2]]
        assert isinstance(iter(loader), Iterator)
    with pytest.raises(RuntimeError, match="other"), shared_memory(2):
        raise RuntimeError("other")
    with pytest.raises(OSError, match="No space"), shared_memory(0):
        raise OSError(28, "No space left on device")
    with pytest.raises(WriteError, match="Make it larger"), shared_memory(1):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")
