"""A job that is started again and again with one command line, until its run is finished."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.distributed import HashStore, ProcessGroupGloo

from cli_tools import Warm, assert_succeeded
from launches import assert_same, launch, rows, start, start_cold
from segacc.errors import Origin, PluginError, is_peer_lost
from segacc.training.folders import MARK

pytest_plugins = ["cli_fixtures"]

SETTINGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", 64),
    *("--log-every", 1, "--num-pictures", 0, "--batch-size", 2, "--warmup-steps", 0),
)
LONG = ("--max-steps", 100_000, "--eval-every", 100_000, "--save-every", 100_000)


def ended(run: Path) -> dict[str, Any]:
    """Return what exit.json says."""
    found: dict[str, Any] = json.loads((run / "exit.json").read_text())
    return found


def at_step(
    step: int, run: Path, *args: object, processes: int = 0, start: Callable[..., Any] = start
) -> Any:
    """Start a run, and wait until it has logged a step."""
    process = start(*SETTINGS, *args, "--output-dir", run, processes=processes)
    while len(rows(run, "train")) < step:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_one_command_starts_continues_and_ends_a_run(warm: Warm, tmp_path: Path) -> None:
    given = (*SETTINGS, "--num-workers", 0, "--resume", "auto", "--output-dir", "run")
    given = (*given, "--epochs", 0.05, "--eval-every", 1, "--save-every", 3)  # 4 steps
    run = tmp_path / "run"
    first = warm(*given, "--tolerate-nonfinite", 0, "--lr", 1e15, cwd=tmp_path)
    assert first.returncode == 2 and "the loss" in first.stderr, first.stderr
    assert ended(run)["reason"] == "error" and ended(run)["code"] == 2
    (saved,) = (run / "checkpoints").iterdir()
    for path in sorted(saved.rglob("*"), reverse=True):  # as if it was killed before
        path.unlink() if path.is_file() else path.rmdir()
    saved.rmdir()
    best = (run / "best" / "model.safetensors").read_bytes()

    again = assert_succeeded(warm(*given, cwd=tmp_path)).stdout
    assert "there is no checkpoint yet, so --resume auto starts the run" in again
    assert [row["step"] for row in rows(run, "train")] == [1, 2, 3, 4]
    assert (ended(run)["reason"], ended(run)["code"]) == ("finished", 0)
    (aside,) = run.glob("best-step-*")
    assert (aside / "model.safetensors").read_bytes() == best, "no network is ever lost"

    before = (run / "environment.json").read_text()
    third = assert_succeeded(warm(*given, cwd=tmp_path)).stdout
    assert "this run is finished at step 4; nothing is done" in third and ended(run)["code"] == 0
    assert (run / "environment.json").read_text() == before


def test_a_folder_of_something_else_is_not_taken_for_a_run(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    given = (*SETTINGS, "--resume", "auto", "--output-dir", "run", "--max-steps", 1)
    done = warm(*given, cwd=tmp_path)
    assert done.returncode == 2 and "run is not empty." in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_a_missing_process_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    more = ("--num-workers", 0, "--process-timeout", "5s", "--save-every", 2)
    process = at_step(3, run, *LONG[:4], *more, processes=2, start=start_cold)
    lost = int(re.findall(r"process (\d+)", (run / MARK).read_text())[1])
    os.kill(lost, getattr(signal, name))
    begin = time.monotonic()
    told = ""
    assert process.stdout
    for line in process.stdout:  # what follows is the launcher's
        told += line
        if line.startswith("segacc: "):
            break
    assert time.monotonic() - begin < 30, told
    how = "has ended" if name == "SIGKILL" else "is stopped"
    host = os.uname().nodename
    assert told.splitlines()[-1].startswith(
        "segacc: another process of this run has ended, or did not answer within "
        f"--process-timeout. Process {lost} on {host} {how}. The "
    ), told
    assert "continues it." in told.splitlines()[-1]
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.communicate()


def test_each_error_of_a_lost_process_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass exchanges buffers: what gloo raises there is not the architecture's fault."""

    def pair() -> list[ProcessGroupGloo]:
        store, made = HashStore(), list[Future[ProcessGroupGloo]]()
        with ThreadPoolExecutor(2) as pool:
            for rank in range(2):
                patience = timedelta(seconds=0.2)
                made.append(pool.submit(ProcessGroupGloo, store, rank, 2, patience))
        return [one.result() for one in made]

    def error_of(group: ProcessGroupGloo) -> RuntimeError:
        with pytest.raises(RuntimeError) as error, Origin("architecture x").doing("forward()"):
            group.allreduce([torch.ones(1)]).wait()
        return error.value

    monkeypatch.setenv("WORLD_SIZE", "2")
    silent, ended = pair(), pair()
    del ended[1]
    errors = [error_of(group) for group in (silent[0], silent[0], ended[0])]
    assert len({str(error)[-20:] for error in errors}) == 3, "not what this is about"
    assert all(is_peer_lost(error) for error in errors), errors
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(PluginError):
        error_of(silent[0])


@pytest.mark.slow
@pytest.mark.launch
def test_a_killed_data_worker_changes_nothing(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    short = ("--max-steps", 24, "--eval-every", 12, "--save-every", 24, "--num-workers", 2)
    short += ("--eval-split", "validation[:8]")
    process = at_step(5, run, *short)
    workers = psutil.Process(process.pid).children()
    workers[0].kill()
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert f"a data loader worker (process {workers[0].pid}) was killed" in told
    assert len(list((run / "checkpoints").iterdir())) == 2, "one was saved at once"
    launch(*SETTINGS, *short, "--output-dir", other, processes=0)
    assert_same(run, other)
