"""Streams that are closed early, or cannot show a character: the work is done all the same."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli_tools import TINY, Done, Warm, assert_succeeded, environment, metrics, segacc, write_data

pytest_plugins = ["cli_fixtures"]

NAMES = ("Straße", "Gebäude", "木")


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("abroad") / "shapes", names=NAMES)


@pytest.fixture(scope="module")
def run(warm: Warm, abroad: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on classes whose names are not ASCII."""
    folder = tmp_path_factory.mktemp("abroad") / "run"
    given = ("--dataset", f"folder:root={abroad}", "--output-dir", folder)
    assert_succeeded(warm(*TINY, *given, cwd=folder.parent))
    return folder


def in_bash(behind: str, *arguments: object, cwd: Path) -> Done:
    """Run segacc in bash, with a text behind its arguments."""
    line = shlex.join([sys.executable, "-m", "segacc", *map(str, arguments)])
    return subprocess.run(
        ["bash", "-c", f"{line} {behind}"],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


def piped(command: str, *arguments: object, cwd: Path) -> tuple[str, list[int], str]:
    """Run segacc into a pipe; return what came out, both exit codes, and stderr."""
    done = in_bash(f'| {command}; echo "${{PIPESTATUS[@]}}"', *arguments, cwd=cwd)
    *shown, codes = done.stdout.splitlines()
    return "\n".join(shown), [int(code) for code in codes.split()], done.stderr


@pytest.mark.slow
def test_evaluate_into_head_leaves_its_scores(
    warm: Warm, run: Path, abroad: Path, tmp_path: Path
) -> None:
    given = ("--dataset", f"folder:root={abroad}", "--num-workers", "0", "--output-dir", "out")
    shown, codes, errors = piped("head -n 1", "evaluate", run, *given, cwd=tmp_path)
    assert shown.startswith("model ") and "\n" not in shown  # the first of the lines before
    assert (codes, errors) == ([0, 0], "")
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    stored = json.loads((run / "best/segacc.json").read_text())["scores"]
    assert found["scores"]["mean_iou"] == pytest.approx(stored["mean_iou"], rel=1e-3)
    given = (*given[:-1], "whole")  # read to its end
    assert_succeeded(warm("evaluate", run / "best", *given, cwd=tmp_path))
    left = [{path.name for path in (tmp_path / name).iterdir()} for name in ("out", "whole")]
    assert left[0] == left[1]


@pytest.mark.slow
def test_a_stream_without_a_character_shows_a_replacement(abroad: Path, tmp_path: Path) -> None:
    given = ("--dataset", f"folder:root={abroad}", "--output-dir", "run")
    done = subprocess.run(
        [sys.executable, "-m", "segacc", *TINY, *given],
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING="ascii", LC_ALL="C"),
        capture_output=True,
        timeout=300,
    )
    out, errors = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert done.returncode == 0, errors
    assert "Geb?ude" in out and "木" not in out
    assert "finished at step 2/2" in out and "Traceback" not in errors
    assert (tmp_path / "run/last/model.safetensors").is_file()
    [row] = metrics(tmp_path / "run", "eval")[-1:]
    assert set(row["per_category_iou"]) == set(NAMES)


@pytest.mark.slow
def test_a_refusal_in_ascii_is_one_paragraph(abroad: Path, tmp_path: Path) -> None:
    done = segacc("--dataset", "folder:root=Gebäude", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "Geb?ude" in done.stderr


@pytest.mark.slow
def test_closed_streams_change_no_exit_code(tmp_path: Path) -> None:
    for command, code in ((("plugins",), 0), (("--archh", "x"), 2)):
        for closed in (">&-", "2>&-"):
            done = in_bash(closed, *command, cwd=tmp_path)
            told = done.stdout + done.stderr
            assert done.returncode == code and "Traceback" not in told, (command, closed, told)


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    drop = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []  # root may read all
    if drop and shutil.which(drop[0]) is None:
        pytest.skip("no setpriv to drop the rights of root")
    line = [*drop, sys.executable, "-m", "segacc", "report", "locked"]
    done = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, timeout=300)
    told = done.stderr.decode()
    assert done.returncode == 2 and told.startswith("segacc: locked"), told
    assert "Permission denied. Give this user the permission" in told and told.count("\n") == 1
