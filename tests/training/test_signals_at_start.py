"""Signals that come while a run is prepared, before its first step."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cli_tools import environment
from launches import ROOT, start_cold
from run_tools import FIXED
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.folders import RunLock
from segacc.training.limits.exits import stopped_at_start
from segacc.training.plan import make_plan

TINY = ("--arch", "segformer:variant=tiny", "--weights", "none", "--num-workers", 0)
LINE = "segacc: {} during the start: no step was taken. "


def test_exit_json_is_written_in_the_folder_of_this_start_only(tmp_path: Path) -> None:
    values = {**FIXED, "output_dir": tmp_path / "run", "max_steps": 7}
    plan = make_plan([Layer(values, "command line")], load_registry())
    line = "SIGUSR1 during the start: no step was taken. The same command{} starts the run."
    told = [stopped_at_start("SIGUSR1", one) for one in (None, plan)]
    assert told == [line.format("")] * 2
    assert not (tmp_path / "run").exists()

    lock = RunLock(tmp_path / "run")
    lock.claim()
    assert stopped_at_start("SIGUSR1", plan) == line.format(", with --overwrite")
    written = json.loads((tmp_path / "run" / "exit.json").read_text())
    expected = {"reason": "SIGUSR1", "code": 128 + signal.SIGUSR1, "step": 0, "saved_step": None}
    assert {key: written[key] for key in expected} == expected
    assert written["resume"] is None and written["max_steps"] == 7
    lock.release()


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_a_signal_while_libraries_are_loaded(tmp_path: Path, name: str) -> None:
    process = start_cold(
        *TINY, "--max-steps", 100_000, "--output-dir", tmp_path / "run", processes=0
    )
    loaded = psutil.Process(process.pid)
    while not any("libtorch" in mapped.path for mapped in loaded.memory_maps()):
        time.sleep(0.01)
    os.killpg(process.pid, getattr(signal, name))
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + getattr(signal, name), told
    assert told == LINE.format(name) + "The same command starts the run.\n"


@pytest.mark.slow
@pytest.mark.launch
def test_a_signal_while_other_processes_are_waited_for(tmp_path: Path) -> None:
    """The main process of two alone waits in a C function, where Python hears no signals."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "segacc", *map(str, TINY), "--output-dir", "run"]
    process = subprocess.Popen(
        command,
        env={**environment(), **alone, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    waiting = psutil.Process(process.pid)
    while not any(one.status == "LISTEN" for one in waiting.net_connections()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1)
    begin = time.monotonic()
    process.terminate()
    _, told = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert process.returncode == 128 + signal.SIGTERM
    assert told == LINE.format("SIGTERM") + "The same command starts the run.\n"


def is_training(process: psutil.Process) -> bool:
    """Return whether it is segacc's process, and not another that the launcher starts."""
    with suppress(psutil.Error):
        command = process.cmdline()
        return "--max-steps" in command and "launch" not in command
    return False


@pytest.mark.slow
@pytest.mark.launch
def test_a_launcher_that_is_killed_before_its_process_begins(tmp_path: Path) -> None:
    """Nobody else would ever end that process."""
    run = tmp_path / "run"
    launcher = start_cold(*TINY, "--max-steps", 100_000, "--output-dir", run, processes=1)
    while not any(is_training(one) for one in psutil.Process(launcher.pid).children()):
        time.sleep(0.01)
    launcher.kill()
    told, _ = launcher.communicate(timeout=60)  # until nobody writes there any more
    assert told.endswith(LINE.format("SIGHUP") + "The same command starts the run.\n"), told
    assert not run.exists()
