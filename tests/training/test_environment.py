"""environment.json and console.log: where, with what and how long a run ran, and what it said."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cli_tools import TINY, Warm, assert_succeeded
from segacc.contracts import VERSION
from segacc.training.tracking.environment import command_line, git_commit

pytest_plugins = ["cli_fixtures"]
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")


def starts(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "environment.json").read_text())
    return found


@pytest.mark.slow
def test_a_run_and_its_resumed_part_are_recorded(warm: Warm, data: Path, tmp_path: Path) -> None:
    for command in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "empty")):
        subprocess.run([*GIT, *command], cwd=tmp_path, check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run")
    first = assert_succeeded(warm(*TINY, *given, cwd=tmp_path))
    run, now = tmp_path / "run", datetime.now(UTC)
    [start] = starts(run)
    assert 0 <= (now - datetime.fromisoformat(start["started"])).total_seconds() < 300
    assert 0 < start["seconds"] < 300
    assert {key: start[key] for key in ("step", "directory", "git_commit", "devices")} == {
        **{"step": 0, "directory": str(tmp_path), "git_commit": head, "devices": ["cpu"]}
    }
    packages = ("torch", "transformers", "accelerate")
    assert {name: start[name] for name in packages} == {name: version(name) for name in packages}
    assert start["segacc"] == VERSION
    assert start["python"] == ".".join(map(str, sys.version_info[:3]))
    header, *lines = (run / "console.log").read_text().splitlines()
    assert lines == first.stdout.splitlines() and any("loss" in line for line in lines)
    assert header.endswith(f"  {start['command']}")

    more = assert_succeeded(warm("--resume", "run", "--max-steps", "3", cwd=tmp_path))
    assert starts(run)[0] == start
    assert [one["step"] for one in starts(run)] == [0, 2]
    log = (run / "console.log").read_text().splitlines()
    assert log[: 1 + len(lines)] == [header, *lines]
    assert log[2 + len(lines) :] == more.stdout.splitlines()

    again = assert_succeeded(warm(*TINY, *given, "--overwrite", cwd=tmp_path))
    assert [one["step"] for one in starts(run)] == [0]
    assert (run / "console.log").read_text().splitlines()[1:] == again.stdout.splitlines()


@pytest.mark.launch
def test_an_error_is_the_last_line_and_each_process_has_its_device(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    given = (*TINY, "--dataset", f"folder:root={data}", "--lr", "1e15", "--epochs", "9")
    flags = [flag for flag in given if flag != "--max-steps"]
    flags.remove("2")  # its value
    done = warm(*flags, "--output-dir", "run", cwd=tmp_path, processes=2)
    assert done.returncode == 2
    error = (tmp_path / "run" / "console.log").read_text().splitlines()[-1]
    assert error.startswith("segacc: step ") and f"{error}\n" in done.stderr
    [start] = starts(tmp_path / "run")
    assert (start["seconds"], start["devices"]) == (None, ["cpu", "cpu"])


def test_no_repository_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None


def test_the_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["python", "-m", "segacc", "--train-split", "train[:50]"]
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert command_line() == "python -m segacc --train-split 'train[:50]'"
