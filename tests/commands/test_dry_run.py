"""`segacc train --dry-run` tells what a run needs, as the run itself shows, and leaves nothing."""

import re
import signal
import time
from pathlib import Path

import pytest
import torch

from cli_tools import TINY, Warm, assert_refused, assert_succeeded, metrics, write_data
from segacc.commands import dry_run
from segacc.errors import OptionError
from segacc.model.live_tensors import LiveTensors
from segacc.settings.units import bytes_of, gpu_memory
from segacc.training.limits.budget import Pace, Rhythm

pytest_plugins = ["cli_fixtures"]

RUN = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "128"),
    *("--num-workers", "0", "--max-steps", "60", "--eval-every", "30", "--num-pictures", "0"),
    *("--batch-size", "4", "--eval-split", "validation[:8]"),
)
UNITS = {"MB": 1e6, "GB": 1e9}


def amounts(line: str) -> list[float]:
    """Return the amounts of memory in a line, in bytes."""
    return [float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (MB|GB)", line)]


def told(text: str) -> dict[str, str]:
    """Return the lines by their first word."""
    return {line.split()[0]: line for line in text.splitlines()}


@pytest.mark.slow
def test_what_it_tells_is_what_the_run_shows(warm: Warm, tmp_path: Path) -> None:
    """Generously, as other work on the machine changes the times."""
    given = (*RUN, "--protocol", "whole:short_side=1024")
    lines = told(assert_succeeded(warm(*given, "--dry-run", cwd=tmp_path)).stdout)
    assert list(tmp_path.iterdir()) == []
    done = assert_succeeded(warm(*given, "--output-dir", "run", cwd=tmp_path))
    peak = metrics(tmp_path / "run", "train")[-1]["peak_memory"]
    assert ", for evaluation (micro-batches of 4: " in lines["memory"]
    assert amounts(lines["memory"])[0] == pytest.approx(peak, rel=0.1)
    size = sum(one.stat().st_size for one in (tmp_path / "run").rglob("*") if one.is_file())
    assert amounts(lines["disk"])[0] == pytest.approx(size, rel=0.5)  # pictures are left out
    minutes, rest = re.findall(r"take (\d+):(\d+)", lines["time"])[0]
    took = re.findall(r"after (\d+):(\d+)", done.stdout)[0]
    seconds = 60 * int(took[0]) + int(took[1])
    assert 0.4 * seconds - 2 < 60 * int(minutes) + int(rest) < 2.5 * seconds + 4


def test_a_gpu_s_memory_need_not_be_there(warm: Warm, tmp_path: Path) -> None:
    flags = (*RUN, "--dry-run", "--output-dir", "runs/new")
    found = {}
    for memory in ("1GB", "2GB"):
        done = assert_succeeded(warm(*flags, "--device-memory", memory, cwd=tmp_path))
        lines = told(done.stdout)
        assert "time" not in lines and list(tmp_path.iterdir()) == []
        found[memory] = int(lines["micro-batch"].split()[1])
    image = amounts(lines["weights"])[3]
    added = found["2GB"] - found["1GB"]
    rounded = 0.05e6 / image  # the memory of an image is printed with one decimal
    assert added == pytest.approx(0.95e9 / image, rel=rounded + 0.005) and found["1GB"] > 10


def test_a_gpu_takes_logits_at_full_size(warm: Warm, tmp_path: Path) -> None:
    """In training those of an image and their gradient; in an evaluation those of 8 images."""
    names = [f"class {number}" for number in range(40)]
    counts = {"train": 4, "validation": 8}
    data = write_data(tmp_path / "data", counts=counts, names=names, size=(256, 256))
    flags = (*RUN, "--dry-run", "--device-memory", "8GB", "--dataset", f"folder:root={data}")
    lines = told(assert_succeeded(warm(*flags, cwd=tmp_path)).stdout)
    assert amounts(lines["weights"])[3] > 2 * 40 * 128 * 128 * 4
    assert ", for evaluation (micro-batches of 4: " in lines["memory"]
    assert 8 * 40 * 256 * 256 * 4 < amounts(lines["memory"])[0] < 4 * 8 * 40 * 256 * 256 * 4


def test_an_evaluation_takes_memory_of_a_gpu_that_is_not_there(warm: Warm, tmp_path: Path) -> None:
    """Four times as much for four times the pixels, beside the weights and their statistics."""
    flags = (*RUN, "--dry-run", "--device-memory", "8GB", "--protocol")
    found = []
    for side in (512, 1024):
        done = assert_succeeded(warm(*flags, f"whole:short_side={side}", cwd=tmp_path))
        line = told(done.stdout)["memory"]
        assert ", for evaluation (micro-batches of 4: " in line
        found.append(amounts(line)[0])
    assert found[1] / found[0] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_and_nothing_stays(
    warm: Warm, data: Path, tmp_path: Path, name: str
) -> None:
    given = ("--dataset", f"folder:root={data}", "--output-dir", "new/run", "--dry-run")
    process = warm.start("train", *TINY, *given, cwd=tmp_path, output=tmp_path / "output")
    while not (tmp_path / "new" / ".run.dry-run" / "config.yaml").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(getattr(signal, name))
    told, _ = process.communicate()
    assert told == f"segacc: {name}: the dry run was stopped.\n"
    assert process.returncode == 128 + getattr(signal, name)
    assert [one.name for one in tmp_path.iterdir()] == ["output"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_loses_can_be_sent_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that a launcher forwards is the same; a later one ends the block."""

    class Finalized:
        def __del__(self) -> None:  # whose exceptions Python ignores
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(dry_run, "SAME", 0.2)
    before, reached = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as ended, dry_run.ended_by_signals():
        Finalized()
        signal.raise_signal(signal.SIGINT)
        reached.append("forwarded")
        time.sleep(0.3)
        signal.raise_signal(signal.SIGTERM)
        reached.append("later")
    assert (ended.value.code, reached) == (128 + signal.SIGTERM, ["forwarded"])
    assert capsys.readouterr().err == "segacc: SIGTERM: the dry run was stopped.\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_does_not_fit_together_is_refused(warm: Warm, tmp_path: Path) -> None:
    assert_refused(
        warm("--device-memory", "24GB", cwd=tmp_path),
        "--device-memory: only used with --dry-run; add it.",
    )
    assert_refused(
        warm("--dry-run", "--device-memory", "600MB", cwd=tmp_path),
        "--device-memory: 600MB: CUDA and its libraries alone take 0.6 GB; give the whole memory "
        "of the GPU, such as 24GB.",
    )
    assert gpu_memory("601MB", "") == 601_000_000
    with pytest.raises(OptionError) as error:
        bytes_of("24", "--device-memory")
    assert str(error.value) == "--device-memory: 24: expected an amount of memory, such as 24GB."
    assert (bytes_of("24GB", ""), bytes_of("1.5 gib", "")) == (24 * 10**9, 3 * 2**29)


def test_a_time_in_which_no_step_fits_is_refused() -> None:
    """A step, its evaluation, its checkpoint and the end take 7 seconds, after a start of 12."""
    pace = Pace(step=0.5, evaluation=2.0, checkpoint=1.5, end=3.0)
    rhythms = (Rhythm(last=0, every=0.2), Rhythm(last=0, every=0.2))
    assert dry_run.fitting("19s", "--max-time", 12.0, pace, *rhythms) == 1
    for limit in ("18s", "10s"):
        with pytest.raises(OptionError) as error:
            dry_run.fitting(limit, "--max-time", 12.0, pace, *rhythms)
        assert str(error.value) == (
            f"--max-time: {limit}: not even one step fits: the run begins after 12 s, and a step, "
            "an evaluation and saving take 7 s. Give more time than 19 s."
        )


def test_live_tensors_are_counted_once_and_until_they_are_freed() -> None:
    given = torch.ones(1000)
    with LiveTensors() as live:
        first = given * 2
        first.view(10, 100).add_(1)  # nothing new
        assert (live.now, live.peak) == (4000, 4000)
        second = torch.zeros(500)
        del first
        third = torch.zeros(100)
        assert (live.now, live.peak) == (2400, 6000)
        del second, third
    assert live.now == 0


def test_what_the_backward_pass_needs_is_alive() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with LiveTensors() as live:
        result = (weight * 2).exp()
        assert live.now == 8000 - 4000  # the product is not needed again, its exponential is
        result.sum().backward()
    assert live.peak >= 8000
