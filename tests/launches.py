"""Starts segacc as a user does, in real processes, and reads what it left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "accelerate_configs"
TINY = ("--arch", "segformer:variant=tiny", "--weights", "none")


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which results do not depend on the machine's number of cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def launch(*args: object, processes: int = 1, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run `accelerate launch -m segacc ...` on so many CPU processes; it must succeed."""
    name = "cpu" if processes == 1 else "cpu_2_processes"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(CONFIGS / f"{name}.yaml"), "--num_processes", str(processes)]
    command += ["--main_process_port", "0", "-m", "segacc", *map(str, args)]
    done = subprocess.run(
        command, env=environment(**more), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def start(*args: object) -> "subprocess.Popen[str]":
    """Start `python -m segacc ...` and leave it running, as the leader of its own group."""
    return subprocess.Popen(
        [sys.executable, "-m", "segacc", *map(str, args)],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """Read the lines of one kind from metrics.jsonl; a line that is being written is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def column(run: Path, key: str) -> Sequence[float]:
    """Return one number of all training lines."""
    return [row[key] for row in rows(run, "train")]
