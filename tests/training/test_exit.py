"""How a process ends: its code, what still runs, and what no longer does."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli_tools import environment
from warm_segacc import environments

SCRIPT = """
import atexit, sys
from segacc.__main__ import end_with

class Last:
    def __del__(self):
        print("taken apart", flush=True)

def call():
    atexit.register(print, "at exit")
    print("done")
    {ending}

last = Last()
end_with(call)
"""


def ended(ending: str, processes: int) -> "subprocess.CompletedProcess[str]":
    """Run the script as one of so many processes."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{ending}", ending)],
        env=environment(WORLD_SIZE=str(processes)),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_ends_before_python_takes_itself_apart(processes: int) -> None:
    """With torch that takes long, and a thread of gloo's that lets go of a tensor may abort it."""
    done = ended("return 3", processes)
    assert done.stdout.splitlines() == ["done", "at exit"]
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("processes", [1, 2])
def test_what_nobody_expected_is_told_and_ends_with_1(processes: int) -> None:
    done = ended("raise ValueError('odd')", processes)
    assert done.stdout.startswith("done\nat exit\n") and done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("ValueError: odd\n")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("ending", "code"), [("0", 0), ("", 0), ("4", 4), ("'why'", 1)])
def test_an_exit_from_within_keeps_its_code(processes: int, ending: str, code: int) -> None:
    done = ended(f"sys.exit({ending})", processes)
    assert done.stdout.startswith("done\nat exit\n") and done.returncode == code
    assert done.stderr == ("why\n" if ending == "'why'" else "")


@pytest.mark.parametrize("arguments", [["-m", "segacc"], ["script"]], ids="-".join)
def test_both_ways_to_ask_for_the_version_end_well_among_several(arguments: list[str]) -> None:
    script = [str(Path(sys.executable).with_name("segacc"))]
    command = script if arguments == ["script"] else [sys.executable, *arguments]
    done = subprocess.run(
        [*command, "--version"],
        env=environment(WORLD_SIZE="2"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip()


@pytest.mark.parametrize("processes", [1, 2])
def test_output_that_nobody_reads_is_no_error(processes: int) -> None:
    done = ended("sys.stderr.close(); return 1", processes)
    assert (done.returncode, done.stderr) == (1, "")


LATE = """
import threading, time
from accelerate.utils import gather_object
from segacc.training.processes import start_accelerator

def let_go():
    time.sleep(0.02)
    print("late", flush=True)

accelerator = start_accelerator("no")
start_accelerator("no")
gather_object([accelerator.process_index])
threading.Thread(target=let_go, daemon=True).start()
"""


@pytest.mark.slow
@pytest.mark.launch
def test_threads_that_come_late_are_waited_for_in_a_script_of_ones_own(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", LATE],
            env=environment(**more),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for more in environments(2)
    ]
    for process in both:
        told, errors = process.communicate(timeout=120)
        assert (process.returncode, told) == (0, "late\n"), errors[-3000:]
