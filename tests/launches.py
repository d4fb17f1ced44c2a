"""Starts segacc as a user does, in real processes, and reads what it left behind."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli_tools import ROOT, Started, environment, launcher, warm_segacc

TINY = ("--arch", "segformer:variant=tiny", "--weights", "none")


def command(*args: object, processes: int) -> list[str]:
    """Return `accelerate launch -m segacc ...` for so many CPU processes; for 0 no launcher."""
    return [*launcher(processes), *map(str, args)]


def launch(*args: object, processes: int = 1) -> "subprocess.CompletedProcess[str]":
    """Run segacc to its end on so many processes; it must succeed.

    They are forks of a process that has imported torch, in the environment of `accelerate launch`.
    Tests of the launcher itself and of imports run `command`.
    """
    done = warm_segacc()(*args, cwd=ROOT, processes=processes)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def start(*args: object, processes: int = 0) -> Started:
    """Start segacc in such forks and leave it running, in a process group of its own."""
    return warm_segacc().start(*args, cwd=ROOT, processes=processes)


def start_cold(*args: object, processes: int = 0) -> "subprocess.Popen[str]":
    """Start segacc, without a launcher unless told, and leave it running in its own session."""
    return subprocess.Popen(
        command(*args, processes=processes),
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


def assert_same(run: Path, other: Path) -> None:
    """Assert that two runs left the same weights, losses and scores."""
    for name in ("last", "best"):
        mine, theirs = (place / name / "model.safetensors" for place in (run, other))
        assert mine.read_bytes() == theirs.read_bytes(), f"{name}/ differs"
    for key in ("step", "loss", "lr", "grad_norm"):
        assert column(run, key) == column(other, key)
    scores = [
        [(row["step"], row["weights"], row["mean_iou"]) for row in rows(one, "eval")]
        for one in (run, other)
    ]
    assert scores[0] == scores[1]
