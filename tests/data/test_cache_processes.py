"""Caches and processes: several that build, one that is killed, those of a launched run."""

import gc
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from cache_tools import LABELS, Refusing, assert_same, kept, rooms, whole
from cli_tools import Warm, assert_succeeded, segacc
from data_tools import random_sample
from segacc.data.batches import Source
from segacc.data.cache import SHARED, Room, sweep
from segacc.data.cache_files import DATA, FEW
from segacc.errors import OptionError
from segacc.hookspecs import Sample
from segacc.training.processes import start_accelerator

pytest_plugins = ["cli_fixtures"]

forks = pytest.mark.skipif(sys.platform == "darwin", reason="a fork without exec is not safe there")
PATIENCE = 3
"""Seconds that torch's own collectives wait for a process."""
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is Linux's")


class Noted(Sequence[Sample]):
    """Samples that note by process which of them is asked for; slow while a file is there."""

    def __init__(self, samples: Sequence[Sample], folder: Path) -> None:
        self.samples, self.folder = samples, folder

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.samples[index]
        with (self.folder / f"seen-{os.getpid()}").open("a") as file:
            file.write(f"{index}\n")
        if (self.folder / "slow").exists():
            time.sleep(0.02)
        return self.samples[index]


def noted(count: int, folder: Path, *, slow: bool = True) -> Source:
    """Return a split of noted samples."""
    if slow:
        (folder / "slow").touch()
    return Source(Noted([random_sample(number) for number in range(count)], folder), LABELS)


def seen(folder: Path) -> list[int]:
    """Count for each process how often it asked for a sample, fewest first."""
    return sorted(len(path.read_text().split()) for path in folder.glob("seen-*"))


def forked(job: Callable[..., None], *arguments: Any) -> Any:
    """Start a process that does a job."""
    process = multiprocessing.get_context("fork").Process(target=job, args=arguments)
    process.start()
    return process


def assert_ends_well(*processes: Any) -> None:
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def wait_for(found: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not found():
        assert time.monotonic() < end
        time.sleep(0.005)


def build(source: Source, folder: Path) -> None:
    torch.set_num_threads(1)
    assert_same(kept(source, folder), source)


# ------------------------------------------------------------------------------ several processes


@forks
def test_two_processes_at_once_build_it_once(tmp_path: Path) -> None:
    source, cache = noted(7, tmp_path), tmp_path / "cache"
    assert_ends_well(*[forked(build, source, cache) for _ in range(2)])
    # The key, the estimate of the size and the comparison ask for each sample once; only building
    # does more.
    fewest, most = seen(tmp_path)
    assert fewest == 21 < most
    assert len(whole(cache)) == 2  # the training split, and the one that is scored
    assert list(cache.glob(".*.part")) == []


@forks
@pytest.mark.parametrize("count", [12, FEW])
def test_a_builder_that_is_killed_leaves_nothing_that_counts(count: int, tmp_path: Path) -> None:
    source, cache = noted(count, tmp_path), tmp_path / "cache"
    process = forked(build, source, cache)
    wait_for(lambda: any(path.stat().st_size for path in cache.glob(f".*.part/{DATA}")))
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert whole(cache) == []
    assert len(list(cache.glob(".*.part"))) == 1 == len(list(cache.glob(".*.lock")))
    (tmp_path / "slow").unlink()
    assert_same(kept(source, cache), source)
    assert list(cache.glob(".*.part")) == []


@forks
def test_what_a_killed_builder_left_is_removed_by_one_of_another_key(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    alive = forked(build, noted(12, tmp_path), cache)
    wait_for(lambda: list(cache.glob(".*.part")))
    left, other = cache / f".{'0123' * 8}.part", cache / ".0123.part"
    for folder in (left, other):
        folder.mkdir()
        (folder / DATA).write_bytes(b"left")
    kept(Source([random_sample(3)], LABELS), cache)
    assert not left.exists() and other.exists()  # the name of a cache, and of somebody else's
    assert_ends_well(alive)  # nobody removed what it was building


# --------------------------------------------------------------------- processes that were launched


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def as_launched(rank: int, port: int, job: Callable[[Any], None], machines: int) -> None:
    """Do a job as one of two processes that a launcher started."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank // machines, "WORLD_SIZE": 2}
    ranks["LOCAL_WORLD_SIZE"] = 2 // machines
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    seconds = InitProcessGroupKwargs(timeout=timedelta(seconds=PATIENCE))
    accelerator = start_accelerator(None, kwargs_handlers=[seconds])
    assert accelerator.num_processes == 2
    job(accelerator)
    accelerator.end_training()


def launch_two(job: Callable[[Any], None], machines: int = 1) -> None:
    port = free_port()
    assert_ends_well(*[forked(as_launched, rank, port, job, machines) for rank in range(2)])


@forks
@pytest.mark.parametrize("given", ["ram", "cache"])
def test_processes_of_one_run_share_what_one_of_them_builds(given: str, tmp_path: Path) -> None:
    source = noted(5, tmp_path, slow=False)
    place = given if given == "ram" else tmp_path / given

    def job(accelerator: Any) -> None:
        cache = kept(source, place, accelerator)
        (tmp_path / f"folder-{accelerator.process_index}").write_text(str(cache.folder))
        accelerator.wait_for_everyone()
        assert_same(cache, source)
        accelerator.wait_for_everyone()

    launch_two(job)
    assert seen(tmp_path)[0] == 5  # the comparison
    first, second = ((tmp_path / f"folder-{rank}").read_text() for rank in range(2))
    assert first == second
    assert Path(first).is_dir() == (given == "cache")


@forks
@pytest.mark.slow
def test_machines_with_a_disk_each_wait_for_the_last_one(tmp_path: Path) -> None:
    """One has the samples from an earlier run; the other decodes for longer than torch waits."""
    source = noted(FEW - 1, tmp_path, slow=False)
    disks = [tmp_path / "disk-0", tmp_path / "disk-1"]
    forked(kept, source, disks[1]).join()
    (tmp_path / "slow").touch()
    times = []

    def job(accelerator: Any) -> None:
        start = time.monotonic()
        cache = kept(source, disks[accelerator.process_index], accelerator)
        times.append(time.monotonic() - start)
        accelerator.wait_for_everyone()
        assert cache.folder.parent == disks[accelerator.process_index]
        assert times[0] > PATIENCE
        (tmp_path / "slow").unlink(missing_ok=True)
        assert_same(cache, source)

    launch_two(job, machines=2)
    assert [len(whole(disk)) for disk in disks] == [2, 2]


@forks
def test_processes_of_one_run_stop_together_at_bad_data(tmp_path: Path) -> None:
    source = Source(Refusing([random_sample(0)] * 2), LABELS)

    def job(accelerator: Any) -> None:
        with pytest.raises(OptionError, match=r"^the sample is not given$"):
            kept(source, tmp_path / "cache", accelerator)

    launch_two(job)
    assert not list(tmp_path.glob("cache/*"))


# ------------------------------------------------------------------------------------------ memory


@needs_shared
def test_a_cache_in_memory_goes_with_its_last_user() -> None:
    before = rooms()
    source: Any = kept(Source([random_sample(0)], LABELS), "ram")
    room = source.folder.parent
    assert rooms() - before == {room}
    assert room.name.startswith(f"segacc-{os.getuid()}-{os.getpid()}-")
    assert room.stat().st_mode & 0o777 == 0o700
    source = replace(source, samples=source.samples)
    gc.collect()
    assert room.exists()
    del source
    gc.collect()
    assert not room.exists()


@forks
@needs_shared
def test_what_a_killed_run_left_in_memory_is_removed_by_the_next(tmp_path: Path) -> None:
    def killed() -> None:
        source = kept(Source([random_sample(0)], LABELS), "ram")
        (tmp_path / "room").write_text(str(source.folder.parent))
        os.kill(os.getpid(), signal.SIGKILL)

    process = forked(killed)
    process.join(30)
    left = Path((tmp_path / "room").read_text())
    assert process.exitcode == -signal.SIGKILL and left.is_dir()
    alive = Room(SHARED)
    sweep(SHARED)
    assert not left.exists() and alive.folder.is_dir()


# -------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
def test_a_run_with_a_cache_comes_to_the_same_weights(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    given: tuple[object, ...] = (
        *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "48x64"),
        *("--max-steps", "3", "--batch-size", "2", "--dataset", f"folder:root={data}"),
    )
    runs = {"plain": (), "built": ("--cache", "cache"), "ram": ("--cache", "ram")}
    before = rooms()
    for name, more in runs.items():
        start = segacc if name == "ram" else warm  # memory is given back as a process ends
        done = start(*given, *more, "--num-workers", "0", "--output-dir", name, cwd=tmp_path)
        assert_succeeded(done)
        size = "#"
        told = f"cache: decoding 7 samples, about {size} MB, into "
        lines = [re.sub(r"[\d.]+ MB", f"{size} MB", line) for line in done.stderr.splitlines()]
        assert [line.startswith(told) for line in lines] == [True] * bool(more), "once"
    found = {(tmp_path / name / "last" / "model.safetensors").read_bytes() for name in runs}
    assert len(found) == 1
    assert len(whole(tmp_path / "cache")) == 2
    assert rooms() == before
