"""A run on CPUs uses all cores, unless the user chose another number of threads.

test_processes_asked.py starts `accelerate launch` with and without such a choice.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from run_tools import build
from segacc.loop import train
from segacc.settings.machine import cores
from segacc.training.limits.launchers import starts_processes
from segacc.training.processes import idle_cores, share_cores
from segacc.training.tracking.identity import ROUNDING, numbers_changed


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore torch's number of threads after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def on(device: str, processes: int = 1) -> Any:
    return SimpleNamespace(device=torch.device(device), num_processes=processes)


def test_idle_cores_are_told_with_the_cure(threads: None) -> None:
    torch.set_num_threads(1)
    told = idle_cores(on("cpu"))
    torch.set_num_threads(cores())
    assert idle_cores(on("cpu")) == []
    if cores() > 1:
        advice = f"set OMP_NUM_THREADS={cores()} to use all of them"
        assert told == [f"1 of {cores()} CPU cores are used; {advice}"]


def test_processes_without_a_launcher_divide_the_cores(
    threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that SLURM starts; a GPU run, a single process and the user's own stay."""
    monkeypatch.setattr("segacc.training.processes.cores", lambda: 8)
    monkeypatch.setattr("segacc.training.processes.quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    for device, processes in (("cuda", 2), ("cpu", 1)):
        share_cores(on(device, processes))
        assert torch.get_num_threads() == 3
    share_cores(on("cpu", 2))
    assert torch.get_num_threads() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # of 32 on four machines
    share_cores(on("cpu", 32))
    assert torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    share_cores(on("cpu", 2))
    assert torch.get_num_threads() == 1


def test_a_process_has_no_more_threads_than_its_quota_unless_the_user_chose_them(
    threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segacc.training.processes.cores", lambda: 2)
    monkeypatch.setattr("segacc.training.processes.quota", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for before, after in ((3, 2), (1, 1)):
        torch.set_num_threads(before)
        share_cores(on("cpu"))
        assert torch.get_num_threads() == after
    torch.set_num_threads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    share_cores(on("cpu"))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python /usr/bin/torchrun --nproc-per-node 2 -m segacc", True),
        ("python -m torch.distributed.run -m segacc", True),
        ("python /usr/bin/accelerate launch -m segacc", True),
        ("python -m segacc --output-dir torchrun", False),
        ("bash train.sh", False),
    ],
)
def test_launchers_are_known_by_their_command_lines(command: str, expected: bool) -> None:
    assert starts_processes(command.split()) == expected


def test_resuming_with_another_number_is_told(
    tmp_path: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segacc.training.processes.quota", lambda: None)
    torch.set_num_threads(1)
    first = build(tmp_path, max_steps=1)
    list(train(first))
    first.lock.release()
    assert "1 process on cpu (1 thread), " in "\n".join(first.notes)
    torch.set_num_threads(2)
    again = build(tmp_path, resume=str(tmp_path / "run"), max_steps=2)
    again.lock.release()
    assert f"threads was 1, now 2: {ROUNDING}" in again.notes


def test_what_a_checkpoint_does_not_know_is_not_compared() -> None:
    now = {"torch": "2.14", "threads": 2, "compile": False}
    assert numbers_changed({"torch": "2.14"}, now) == []
