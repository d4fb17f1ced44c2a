"""`segacc train --processes N`: it starts so many, and ends and complains like one."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from cli_tools import (
    TINY,
    Started,
    assert_refused,
    assert_succeeded,
    metrics,
    segacc,
    warm_segacc,
)
from launches import rows
from segacc.commands.train import to_launch
from segacc.errors import OptionError
from segacc.training.limits.signals import STOPPING
from segacc.training.processes import (
    keep_working_folder_out,
    launcher_settings,
    refuse_more_than_gpus,
    signals_to_forward,
)

pytest_plugins = ["cli_fixtures"]

ON_CPU = {"ACCELERATE_USE_CPU": "true"}
TWO = ("train", "--processes", "2", *TINY)


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_train_as_if_launched(data: Path, tmp_path: Path) -> None:
    given = ("--dataset", f"folder:root={data}", "--output-dir")
    done = assert_succeeded(segacc(*TWO, *given, "two", cwd=tmp_path, **ON_CPU))
    assert "2 processes on cpu" in done.stdout and done.stderr == ""
    assert_succeeded(warm_segacc()(*TINY, *given, "launched", cwd=tmp_path, processes=2))
    two, launched = (metrics(tmp_path / name, "train") for name in ("two", "launched"))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in launched])
    assert (tmp_path / "two" / "best" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.launch
def test_what_only_the_processes_find_is_one_paragraph(data: Path, tmp_path: Path) -> None:
    given = ("--dataset", f"folder:root={data}", "--eval-split", "test")
    assert_refused(
        warm_segacc()(*TWO, *given, cwd=tmp_path, **ON_CPU),
        '--eval-split: the data set has no split "test"; it has train, validation. '
        "--val-fraction 0.2 holds out a part of the training split.",
    )
    assert list(tmp_path.iterdir()) == []


def start_long(data: Path, folder: Path) -> Started:
    """Start a run that ends only when it is told to, in its own group, past three steps."""
    flags = [*TWO[:-6], "--max-steps", "100000", "--batch-size", "2", "--num-workers", "0"]
    flags += ["--log-every", "1", "--eval-every", "100000"]
    flags += ["--dataset", f"folder:root={data}", "--output-dir", "run"]
    process = warm_segacc().start(*flags, cwd=folder, errors=folder / "errors", **ON_CPU)
    end = time.monotonic() + 200
    while len(rows(folder / "run", "train")) < 3:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_ends_all(data: Path, tmp_path: Path, name: str) -> None:
    """Ctrl+C reaches every process of the terminal; the other signal only the first."""
    process, number = start_long(data, tmp_path), getattr(signal, name)
    send = os.killpg if name == "SIGINT" else os.kill
    send(process.pid, number)
    told, _ = process.communicate(timeout=120)
    assert (process.returncode, (tmp_path / "errors").read_text()) == (128 + number, "")
    assert f"stopped by {name} at step " in told
    assert "segacc train --processes 2 --resume run" in told.splitlines()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*/SHA256SUMS"))


@pytest.mark.slow
@pytest.mark.launch
def test_a_killed_process_is_told(data: Path, tmp_path: Path) -> None:
    process = start_long(data, tmp_path)
    os.kill(psutil.Process(process.pid).children()[-1].pid, signal.SIGKILL)
    assert process.wait(timeout=120) == 2
    assert (tmp_path / "errors").read_text().splitlines()[-1] == (
        "segacc: --processes: process 1 was killed by SIGKILL. If the memory was full, use a "
        "smaller --batch-size or fewer --num-workers. --resume continues from the newest "
        "checkpoint."
    )


@pytest.mark.parametrize(
    ("launched", "asked", "start"),
    [("", None, 0), ("", 1, 0), ("", 2, 2), ("1", 3, 3), ("2", None, 0), ("2", 2, 0)],
)
def test_a_process_that_was_started_starts_none(
    monkeypatch: pytest.MonkeyPatch, launched: str, asked: int | None, start: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", launched) if launched else monkeypatch.delenv(
        "WORLD_SIZE", raising=False
    )
    assert to_launch(asked) == start


@pytest.mark.parametrize("asked", [1, 3])
def test_a_launcher_with_another_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError) as error:
        to_launch(asked)
    assert str(error.value) == (
        f"--processes: {asked}: a launcher has already started 2 processes; leave this out."
    )


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    accelerator = torch.accelerator
    monkeypatch.setattr(accelerator, "current_accelerator", lambda **given: torch.device("cuda"))
    monkeypatch.setattr(accelerator, "device_count", lambda: 1)
    refuse_more_than_gpus(1)
    with pytest.raises(OptionError) as error:
        refuse_more_than_gpus(2)
    assert str(error.value) == (
        "--processes: 2: this machine has 1 GPU, and each process needs one. Use --processes 1, or "
        "the CPU with ACCELERATE_USE_CPU=true before the command."
    )
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    refuse_more_than_gpus(2)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment that says nothing of threads and precision."""
    for name in ("OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch


def test_the_launcher_gets_the_flags_and_the_environment(threads: pytest.MonkeyPatch) -> None:
    threads.setattr("segacc.training.processes.cores", lambda: 8)
    given = ["train", "--arch", "segformer", "--processes", "3"]
    settings = launcher_settings(3, given)
    assert (settings.num_processes, settings.multi_gpu, settings.cpu) == (3, True, False)
    assert (settings.num_cpu_threads_per_process, settings.mixed_precision) == (2, "no")
    assert (settings.module, settings.training_script) == (True, "segacc")
    assert settings.training_script_args == given
    threads.setenv("OMP_NUM_THREADS", "5")
    threads.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    settings = launcher_settings(3, given)
    assert (settings.num_cpu_threads_per_process, settings.mixed_precision) == (5, "bf16")


def test_an_ignored_signal_is_not_forwarded() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signals_to_forward() == [name for name in STOPPING if name != "SIGHUP"]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "SIGINT" in signals_to_forward()


def test_the_processes_import_nothing_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    keep_working_folder_out()
    assert os.environ["PYTHONSAFEPATH"] == "1"
    monkeypatch.chdir(Path(__file__).parents[2])  # a clone, which need not be installed
    keep_working_folder_out()
    assert "PYTHONSAFEPATH" not in os.environ
