"""`segacc info`, and completion in a real shell."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from accelerate.commands.config import config_args

from cli_tools import Warm, assert_succeeded, environment
from segacc.commands.completion import components
from segacc.commands.info import launched

pytest_plugins = ["cli_fixtures"]

ASK = """
eval "$(register-python-argcomplete segacc)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete segacc "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Completes a command line as bash does when a user presses Tab."""


def completions(line: str) -> list[str]:
    bash = shutil.which("bash")
    assert bash, "the completion is for a shell"
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", ASK, "bash", line],
        env=environment(PATH=paths),
        capture_output=True,
        text=True,
        check=True,
    )
    return [word.strip() for word in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("segacc pre", ["predict"]),
        ("segacc train --arch segf", ["segformer"]),
        ("segacc --mixed-precision ", ["auto", "no", "bf16", "fp16", "fp8"]),
    ],
)
def test_the_shell_completes(line: str, expected: list[str]) -> None:
    assert completions(line) == expected


def test_components_are_completed_by_name_then_by_option(tmp_path: Path) -> None:
    assert "upernet" in components("arch", "")
    assert components("loss", "dice:") == ["dice:weight="]
    assert "segformer:variant=b0,dropout=" in components("arch", "segformer:variant=b0,")
    assert "mmseg-ade20k" in components("protocol", "")
    (tmp_path / "photos").mkdir()
    assert f"{tmp_path}/photos/" in components("dataset", f"{tmp_path}/ph")


def test_info_says_what_a_report_of_a_problem_needs(warm: Warm, tmp_path: Path) -> None:
    found = json.loads(assert_succeeded(warm("info", "--json", cwd=tmp_path)).stdout)
    assert found["libraries"]["torch"] == version("torch")
    assert found["segacc train"] == "1 process on cpu, mixed precision no"
    assert found["extras"]["mask"] == f"installed: scipy {version('scipy')}"


def test_info_reads_the_configuration_of_accelerate_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "default_config.yaml"
    monkeypatch.setattr(config_args, "default_config_file", str(path))
    assert launched().startswith("no configuration")
    path.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\nmixed_precision: bf16\n")
    assert launched() == f"2 processes, MULTI_CPU, mixed precision bf16 ({path})"
    path.write_text("num_processes: [")
    assert launched().startswith(f"{path} cannot be read: ")


def test_info_prints_a_row_for_each_fact(warm: Warm, tmp_path: Path) -> None:
    lines = assert_succeeded(warm("info", cwd=tmp_path)).stdout.splitlines()
    assert lines[0].split() == ["segacc", version("segacc")]
    assert [line.split()[-1] for line in lines if line.startswith("plugins")]
