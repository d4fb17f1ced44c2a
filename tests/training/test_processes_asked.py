"""No process trains alone where several were asked for; where one was, none is refused."""

import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils.other import get_free_port

from cli_tools import TINY, Done, Warm, assert_refused, assert_succeeded, assert_untouched, start
from segacc.settings.sources import Layer, merge
from segacc.training.defaults import refuse_accumulation_of_launcher
from segacc.training.limits.exits import resume_command
from segacc.training.limits.launchers import (
    ALONE,
    LAUNCHED,
    accumulation_in,
    launcher_arguments,
)
from segacc.training.processes import cores, processes_asked

pytestmark = pytest.mark.launch
pytest_plugins = ["cli_fixtures"]

USUAL = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
"""What the launcher sets for several processes, and what a shell may well export."""
ON_CPU = "ACCELERATE_USE_CPU=true " if torch.accelerator.is_available() else ""
THREADS = f"{cores()} thread{'s' * (cores() > 1)}"
TOLD = (
    "segacc: accelerate launch: 2 processes were requested, but with these settings it starts only "
    "one, which would train with a smaller total batch size. Use "
    f"`{ON_CPU}accelerate launch --multi_gpu --num_processes 2 -m segacc ...`, which works on a "
    "CPU as well, or request one process."
)
SEVERAL = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
num_machines: 1
num_processes: 2
mixed_precision: "no"
"""


def launched(flags: tuple[str, ...], data: Path, folder: Path, **more: str) -> Done:
    """Train with `accelerate launch FLAGS -m segacc`, of an accelerate without a configuration.

    Nobody chose a number of threads.
    """
    accelerate = str(Path(sys.executable).parent / "accelerate")
    command = ["env", "-u", "OMP_NUM_THREADS", accelerate, "launch", *flags, "-m", "segacc"]
    asked = (*TINY, "--dataset", f"folder:root={data}", "--output-dir", str(folder / "run"))
    return start([*command, *asked], folder, {"HF_HOME": str(folder / "home"), **more})


@pytest.mark.slow
def test_fewer_than_asked_for_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "several.yaml").write_text(SEVERAL)
    done = launched(("--config_file", "several.yaml"), data, tmp_path, **USUAL)
    assert TOLD in done.stderr.splitlines(), done.stderr
    assert done.returncode and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_that_is_told_works(data: Path, hostile: Path) -> None:
    """The user's number of threads is kept, more than a process's share of the cores."""
    flags = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    flags = (*flags, "--num_cpu_threads_per_process", str(cores()))
    done = launched(flags, data, hostile, ACCELERATE_USE_CPU="true")
    assert_untouched(done, hostile)
    assert f"2 processes on cpu ({THREADS} each)" in done.stdout


@pytest.mark.slow
def test_one_process_is_one_process(data: Path, hostile: Path) -> None:
    """Also where the shell says how processes would find each other; it uses all cores."""
    done = launched((), data, hostile, **USUAL)
    assert_untouched(done, hostile)
    on_cpu = f"cpu ({THREADS})"
    assert f"1 process on {'' if torch.accelerator.is_available() else on_cpu}" in done.stdout


def test_without_the_launcher_nothing_is_refused(data: Path, warm: Warm, tmp_path: Path) -> None:
    asked = (*TINY, "--dataset", f"folder:root={data}", "--output-dir", "run")
    more = {**USUAL, "ACCELERATE_USE_CPU": "true"}
    assert "1 process on cpu" in assert_succeeded(warm(*asked, cwd=tmp_path, **more)).stdout


@pytest.mark.slow
def test_processes_of_mpi_know_each_other(data: Path, warm: Warm, tmp_path: Path) -> None:
    """Started as mpirun starts them, with the variables of Open MPI."""
    mpi, port = "OMPI_COMM_WORLD_", str(get_free_port())
    asked = (*TINY, "--dataset", f"folder:root={data}", "--output-dir", "run")
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, f"{mpi}SIZE": "2"}
    ranks = [
        warm.start(
            *asked,
            cwd=tmp_path,
            ACCELERATE_USE_CPU="true",
            **{**common, f"{mpi}RANK": str(rank), f"{mpi}LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    told = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert "2 processes on cpu" in told[0] and not told[1]


def test_the_launchers_command_line_is_found() -> None:
    python, given = "/usr/bin/python3", ["--cpu", "-m", "segacc"]
    for command in (
        [python, "/usr/bin/accelerate", "launch"],
        [python, "-I", "/usr/bin/accelerate", "launch"],
        [python, "/usr/bin/accelerate-launch"],
        [python, "-m", "accelerate.commands.launch"],
        [python, "-m", "accelerate.commands.accelerate_cli", "launch"],
    ):
        assert launcher_arguments([*command, *given]) == given
    for command in ([python, "-m", "segacc", "--output-dir", "accelerate"], ["bash"], []):
        assert launcher_arguments(command) is None
    for count in (1, 2, 3):
        assert processes_asked(["--cpu", "--num_processes", str(count), "-m", "segacc"]) == count


def test_accumulation_steps_of_the_launcher_are_refused(
    data: Path, warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands them on for DeepSpeed alone; segacc would go on with its own."""
    name = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
    assert_refused(
        warm(*TINY, "--dataset", f"folder:root={data}", cwd=tmp_path, **{name: "4"}),
        "accelerate launch: gradient_accumulation_steps: 4 (its flag, its configuration file or "
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS): this run has 1, as segacc has a flag of its own. "
        "Leave that out, and add --gradient-accumulation-steps 4 after `-m segacc`.",
    )
    assert list(tmp_path.iterdir()) == []
    for same in ("4", "auto"):
        monkeypatch.setenv(name, same)
        given = Layer({"gradient_accumulation_steps": "4"}, "command line")
        refuse_accumulation_of_launcher(merge([given]))


def test_accumulation_steps_of_the_launcher_are_not_those_of_segacc() -> None:
    for flags, steps in (
        (["--gradient_accumulation_steps", "4", "-m", "segacc", "--max-steps", "2"], 4),
        (["--gradient-accumulation-steps=4", "-m", "segacc"], 4),
        (["-m", "segacc", "--gradient-accumulation-steps", "4"], None),
        (["--num_processes", "2", "-m", "segacc"], None),
    ):
        assert accumulation_in(flags) == steps


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "segacc train"),
        ({LAUNCHED: "2", "WORLD_SIZE": "2"}, "segacc train --processes 2"),
        ({"WORLD_SIZE": "2"}, "accelerate launch -m segacc"),
    ],
)
def test_a_run_goes_on_as_it_was_started(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str], told: str
) -> None:
    for name in (LAUNCHED, "WORLD_SIZE", ALONE):
        monkeypatch.delenv(name, raising=False)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    assert resume_command(Path("my run")) == f"{told} --resume 'my run'"


def test_a_single_process_of_a_launcher_goes_on_with_it(tmp_path: Path) -> None:
    """The parent process is known by its command line."""
    ask = "from segacc.training.limits.launchers import start_command; print(start_command())"
    (tmp_path / "accelerate").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {ask!r}])\n"
    )
    done = start([sys.executable, "accelerate", "launch"], tmp_path, {})
    assert done.stdout == "accelerate launch -m segacc\n"
