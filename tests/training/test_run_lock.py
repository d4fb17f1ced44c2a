"""One run at a time in a run folder, known by a lock that dies with its owner."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_tools import Started, warm_segacc
from launches import ROOT, launch, rows, start, start_cold
from segacc.errors import OptionError
from segacc.training.folders import MARK, RunLock

SETTINGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", 64),
    *("--save-every", 2, "--eval-every", 100_000, "--log-every", 1),
    *("--num-pictures", 0, "--num-workers", 2, "--batch-size", 2),
    *("--warmup-steps", 0),
)
LONG = (*SETTINGS, "--max-steps", 100_000)


def started(run: Path) -> Started:
    """Start a run and wait until it has taken three steps."""
    process = start(*LONG, "--output-dir", run)
    while len(rows(run, "train")) < 3:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.05)
    return process


def end(process: Started) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def refused(*args: object) -> str:
    """Run segacc, which must refuse; return its one paragraph."""
    done = warm_segacc()(*args, cwd=ROOT)
    told = done.stdout + done.stderr
    assert done.returncode == 2 and told.count("\n") == 1, told
    return told


@pytest.mark.slow
@pytest.mark.launch
def test_a_living_run_keeps_others_away_and_a_dead_one_does_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started(run)
    wanted = (
        f"segacc: --output-dir: {run} is used by another run: process {process.pid} on "
        f"{socket.gethostname()}. Wait until it ends, stop it, or choose another folder with "
        "--output-dir.\n"
    )
    before = {path.name for path in run.iterdir()}
    for more in (["--overwrite"], []):
        assert refused(*LONG, "--output-dir", run, *more) == wanted
    assert refused("--resume", run) == wanted.replace("--output-dir:", f"--resume {run}:")
    assert before <= {path.name for path in run.iterdir()} and process.poll() is None
    end(process)
    assert not RunLock(run).held(), "its two data workers may live a moment longer"
    done = len(rows(run, "train"))
    launch("--resume", run, "--max-steps", done + 2)
    assert len(rows(run, "train")) == done + 2


@pytest.mark.slow
@pytest.mark.launch
def test_of_two_that_start_together_one_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = (*SETTINGS, "--max-steps", 3, "--output-dir", run)
    both = [start(*short) for _ in range(2)]
    told = [process.communicate(timeout=200)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], told
    (one,) = (text for text in told if "segacc: " in text)
    assert re.search(r"(is used by another run: process \d+ on|another run was started there)", one)
    assert [row["step"] for row in rows(run, "train")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.launch
def test_the_processes_of_a_dead_launcher_hold_it_until_they_have_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = start_cold(*LONG, "--output-dir", run, processes=2)
    while len(rows(run, "train")) < 3:
        assert launcher.poll() is None
        time.sleep(0.05)
    pids = [int(pid) for pid in re.findall(r"process (\d+)", (run / MARK).read_text())]
    assert len(pids) == 2
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        launcher.kill()
        launcher.wait()
        told = refused("--resume", run)
        assert all(f"process {pid} on " in told for pid in pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 60
    while RunLock(run).held():
        assert time.monotonic() < deadline, "the processes train on"
        time.sleep(0.1)
    ended = json.loads((run / "exit.json").read_text())
    assert (ended["reason"], ended["code"]) == ("SIGHUP", 128 + signal.SIGHUP)
    assert ended["saved_step"] == rows(run, "train")[-1]["step"]


def test_each_process_holds_it_alone(tmp_path: Path) -> None:
    main, other, third = RunLock(tmp_path), RunLock(tmp_path), RunLock(tmp_path)
    main.claim()
    other.share()
    with pytest.raises(OptionError, match=f"process {os.getpid()} on"):
        third.claim()
    main.release()
    assert third.held()
    other.release()
    assert not third.held()
    third.claim()
    third.release()


def test_a_mark_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """Not by root either, as it is a folder."""
    (tmp_path / MARK).mkdir()
    with pytest.raises(OptionError) as error:
        RunLock(tmp_path).claim()
    assert str(error.value) == (
        f"{tmp_path / MARK}: cannot be opened to lock the run folder: {os.strerror(errno.EISDIR)}. "
        "Make it a file that you may write, or choose another folder with --output-dir."
    )


def test_a_file_system_without_locks_is_told_and_used(tmp_path: Path) -> None:
    """The kernel's answer is replaced by that of such a file system, as strace does it."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    code = (
        "import sys; from pathlib import Path; from segacc.training.folders import RunLock; "
        f"lock = RunLock(Path({str(tmp_path)!r})); lock.claim(); print(lock.note)"
    )
    strace = ["strace", "-f", "-o", "/dev/null", "-e", "inject=flock:error=ENOLCK"]
    done = subprocess.run(
        [*strace, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        f"{tmp_path} cannot be locked (No locks available), so a second run in it would not be "
        "noticed\n"
    )
