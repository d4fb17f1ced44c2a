"""A process uses the cores and the memory that its container gives it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cli_tools import TINY
from segacc.settings import machine

HERE = Path("/sys/fs/cgroup")
LIMIT = 2 * 2**30
WITHIN = "from segacc.settings.machine import *; print(cores(), whole_memory(), available_memory())"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the control groups be those of the files in a folder."""
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    return tmp_path


def write(folder: Path, **lines: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lines.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")


def test_without_a_limit_it_is_the_machine(files: Path) -> None:
    total = psutil.virtual_memory().total
    assert (machine.quota(), machine.whole_memory()) == (None, total)  # as where there is no file
    (files / "own").write_text("0::/\n")
    write(files, cpu_max="max 100000", memory_max="max", memory_current="1", memory_stat="")
    assert (machine.quota(), machine.whole_memory()) == (None, total)
    (files / "own").write_text("4:memory:/\n3:cpu,cpuacct:/\n")
    write(files / "cpu", **{"cpu_cfs_quota_us": "-1", "cpu_cfs_period_us": "100000"})
    assert machine.quota() is None and machine.processors() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("given", "cores"), [("50000 100000", 1), ("150000 100000", 2), ("800000 100000", 8)]
)
def test_a_quota_is_rounded_up(files: Path, given: str, cores: int) -> None:
    (files / "own").write_text("0::/\n")
    write(files, cpu_max=given)
    assert machine.quota() == cores
    assert machine.processors() == min(cores, len(os.sched_getaffinity(0)))


def test_the_strictest_group_counts(files: Path) -> None:
    """Of a process and of all above it; in a container only the last is there, as the first."""
    (files / "own").write_text("0::/job/step\n")
    write(files / "job", cpu_max="100000 100000", memory_max="3000", memory_current="2500")
    write(files / "job", memory_stat="anon 7\ninactive_file 600")
    write(files / "job" / "step", cpu_max="400000 100000", memory_max="max", memory_current="9")
    assert machine.quota() == 1
    assert (machine.whole_memory(), machine.available_memory()) == (3000, 1100)
    (files / "own").write_text("0::/docker/0123\n")
    assert machine.quota() is None
    write(files, cpu_max="300000 100000")
    assert machine.quota() == 3
    (files / "own").write_text("0::/docker/0123/nested\n")
    write(files / "nested", cpu_max="200000 100000")
    assert machine.quota() == 2


def test_a_limit_counts_where_its_use_is_not_told(files: Path) -> None:
    (files / "own").write_text("4:memory:/\n")
    write(files / "memory", memory_limit_in_bytes="3000")
    assert (machine.whole_memory(), machine.available_memory()) == (3000, 3000)
    write(files / "memory", memory_usage_in_bytes="2500", memory_stat="cache 10")
    assert machine.available_memory() == 500


@pytest.fixture
def limited() -> Iterator[tuple[str, ...]]:
    """Make real control groups of one core and 2 GiB; yield what a command in them begins with."""
    names = [HERE / kind / f"segacc-{os.getpid()}" for kind in ("cpu", "memory")]
    limits = {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 100_000}
    limits |= {"memory.limit_in_bytes": LIMIT}
    try:
        for name in names:
            name.mkdir()
        for name, value in limits.items():
            (HERE / name.partition(".")[0] / names[0].name / name).write_text(str(value))
    except OSError as error:
        pytest.skip(f"no control groups of version 1 can be made here: {error}")
    else:
        join = " && ".join(f"echo $$ > {name}/cgroup.procs" for name in names)
        yield ("sh", "-c", f'{join} && exec "$@"', "sh", sys.executable)
    finally:
        for name in names:
            with suppress(OSError):
                name.rmdir()


def test_a_real_limit_is_heeded(limited: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*limited, "-c", WITHIN], capture_output=True, text=True, timeout=120, check=True
    )
    cores, whole, available = map(int, done.stdout.split())
    assert (cores, whole) == (1, LIMIT)
    assert LIMIT - 2**30 < available < LIMIT


@pytest.mark.slow
def test_a_run_has_no_more_threads_than_the_quota(limited: tuple[str, ...], tmp_path: Path) -> None:
    """On a machine of one core it would not have more either."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [*limited, "-m", "segacc", "train", *TINY, "--output-dir", "run"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "1 process on cpu (1 thread), " in done.stdout
