"""How a process ends: its code, what still runs, and what no longer does among several."""

import subprocess
import sys

import pytest

from launches import environment

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


@pytest.mark.parametrize(("processes", "after"), [(1, ["taken apart"]), (2, [])])
def test_one_of_several_processes_ends_before_python_takes_itself_apart(
    processes: int, after: list[str]
) -> None:
    """A thread of gloo's that lets go of a tensor meanwhile would abort it."""
    done = ended("return 3", processes)
    assert done.stdout.splitlines() == ["done", "at exit", *after]
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("processes", [1, 2])
def test_what_nobody_expected_is_told_and_ends_with_1(processes: int) -> None:
    done = ended("raise ValueError('odd')", processes)
    assert done.stdout.startswith("done\nat exit\n") and done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("ValueError: odd\n")


@pytest.mark.parametrize("processes", [1, 2])
def test_output_that_nobody_reads_is_no_error(processes: int) -> None:
    done = ended("sys.stderr.close(); return 1", processes)
    assert (done.returncode, done.stderr) == (1, "")
