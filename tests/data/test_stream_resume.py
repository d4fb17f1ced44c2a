"""A run on a stream that was stopped goes on with the next sample; real runs, real processes."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli_tools import Warm, assert_refused, assert_succeeded, draw
from data_tools import encode
from launches import ROOT, assert_same, column, rows
from run_tools import build, windows_of
from segacc.data.samples import digest
from segacc.hookspecs import Sample
from segacc.loop import train_step
from segacc.training.limits.sizing import fit_batch
from stream_tools import write_samples

pytest_plugins = ["cli_fixtures"]

SETTINGS = (
    *("--arch", "segformer:variant=tiny,drop_path=0.2,dropout=0.2", "--weights", "none"),
    *("--crop-size", 32, "--max-steps", 24, "--log-every", 1, "--eval-every", 12),
    *("--save-every", 5, "--num-pictures", 2, "--batch-size", 4),
)
TRAINING, SCORED = (7, 9, 5), (3, 4)
"""Samples in each shard."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write shards of discs and bars."""
    folder = tmp_path_factory.mktemp("shards")
    for split, counts in (("train", TRAINING), ("validation", SCORED)):
        for shard, count in enumerate(counts):
            pairs = [draw((100 + len(split) + shard, k), (40, 48)) for k in range(count)]
            samples = [
                Sample(encode(image, "JPEG"), encode(label), f"{shard}{k}")
                for k, (image, label) in enumerate(pairs)
            ]
            write_samples(folder / f"{split}-{shard}.tar", samples)
    (folder / "classes.txt").write_text("background\ndisc\nbar\n")
    return folder


def typed(shards: Path, last: int = 2) -> tuple[str, str]:
    validation = f"validation={shards}/validation-*.tar"
    return ("--dataset", f"shards:train={shards}/train-{{0..{last}}}.tar,{validation},buffer=10")


@pytest.fixture(scope="module")
def uninterrupted(
    warm: Warm, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """Return what gives the run that was never stopped, by workers."""
    runs: dict[int, Path] = {}

    def run(workers: int) -> Path:
        if workers not in runs:
            folder = tmp_path_factory.mktemp("uninterrupted") / "run"
            given = ("--num-workers", workers, "--output-dir", folder)
            assert_succeeded(warm(*SETTINGS, *typed(shards), *given, cwd=folder.parent))
            runs[workers] = folder
        return runs[workers]

    return run


def stopped(warm: Warm, number: int, step: int, *args: object, run: Path) -> int:
    """Start a run and send its process a signal once it has logged `step`; return its code."""
    process = warm.start(*args, "--output-dir", run, cwd=run.parent)
    while not any(row["step"] >= step for row in rows(run, "train")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    code = process.wait()
    for worker in workers:  # of a process that was killed
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    return code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "step", "number"),
    [(0, 13, signal.SIGKILL), (2, 8, signal.SIGKILL), (2, 16, signal.SIGTERM)],
)
def test_a_run_that_was_stopped_goes_on_with_the_next_sample(
    uninterrupted: Callable[[int], Path],
    warm: Warm,
    shards: Path,
    tmp_path: Path,
    workers: int,
    step: int,
    number: int,
) -> None:
    whole, run = uninterrupted(workers), tmp_path / "run"
    given = (*SETTINGS, *typed(shards), "--num-workers", workers)
    code = stopped(warm, number, step, *given, run=run)
    killed = number == signal.SIGKILL
    assert code == (-number if killed else 128 + number)
    if killed:
        assert not (run / "last").exists()
    newest = sorted((run / "checkpoints").glob("step-*/progress.json"))[-1]
    progress = json.loads(newest.read_text())
    assert progress["step"] % 5 == 0 or not killed
    (own,) = progress["positions"]
    assert len(own) == max(1, workers) and all(own)

    assert_succeeded(warm("--resume", run, cwd=tmp_path))
    assert rows(run, "train")[-1]["step"] == 24
    assert_same(run, whole)
    assert len(rows(run, "eval")) == 2


@pytest.mark.slow
def test_the_workers_decide_the_order(uninterrupted: Callable[[int], Path]) -> None:
    """So that they must stay as they were; and the comparison above can fail."""
    assert column(uninterrupted(0), "loss") != column(uninterrupted(2), "loss")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--num-workers", 0), "num_workers was 2, now 0"),
        (
            ("--batch-size", 2, "--gradient-accumulation-steps", 2),
            "batch_size was 4, now 2",
        ),
        (("--batch-size", 2), "total_batch_size was 4, now 2; batch_size was 4, now 2"),
    ],
)
def test_other_readers_would_not_be_the_same_run(
    uninterrupted: Callable[[int], Path], warm: Warm, changed: tuple[object, ...], told: str
) -> None:
    run = uninterrupted(2)
    done = warm("--resume", run, "--max-steps", 100, *changed, cwd=run.parent)
    assert_refused(done, refusal(run, told))


def test_other_shards_would_not_be_the_same_run(
    uninterrupted: Callable[[int], Path], warm: Warm, shards: Path
) -> None:
    run = uninterrupted(2)
    done = warm("--resume", run, "--max-steps", 100, *typed(shards, 1), cwd=run.parent)
    was, now = (digest([f"train-{k}.tar" for k in range(count)]) for count in (3, 2))
    start, end = refusal(run, "|").split("|")
    told = f"{start}shards was 3, now 2; shard_digest was {was}, now {now}; file_sizes was "
    assert done.returncode == 2 and done.stderr.startswith(f"segacc: {told}"), done.stderr
    assert done.stderr.endswith(f"{end}\n"), done.stderr


def refusal(run: Path, told: str) -> str:
    return (
        f"--resume {run}: the settings differ from those of the checkpoint: {told}. A streamed run "
        "can only be resumed with the same number of processes, --num-workers, --batch-size and "
        "shards."
    )


def test_a_measured_run_begins_at_the_start_of_its_stream(shards: Path, tmp_path: Path) -> None:
    """What `--batch-size auto` reads and trains before the run leaves no trace in it."""
    _, dataset = typed(shards)
    given = {"dataset": dataset, "eval_split": "validation", "crop_size": 32, "max_steps": 3}
    seen = []
    for name, batch in (("auto", {"total_batch_size": 4}), ("typed", {})):
        size = {"batch_size": 4 if name == "typed" else name, **batch}
        fit = partial(fit_batch, step=train_step, device_memory=2**31)
        run = build(tmp_path / name, fit, **given, **size)
        assert run.progress.positions == [None] and run.config.micro_batch_size == 4
        seen.append([window[0].ids for window in windows_of(run)])
    assert seen[0] == seen[1] and len(seen[0]) == 3


def test_a_dry_run_reads_a_stream(warm: Warm, shards: Path, tmp_path: Path) -> None:
    given = (*SETTINGS, *typed(shards), "--num-workers", 0, "--dry-run", "--device-memory", "2GB")
    done = assert_succeeded(warm(*given, cwd=tmp_path))
    assert done.stdout.splitlines()[-1].startswith("micro-batch  ")


# ------------------------------------------------------------------------------ several processes


def told_by(processes: int, warm: Warm, shards: Path) -> dict[str, Any]:
    """Run stream_processes.py and read what it prints."""
    code = (ROOT / "tests" / "stream_processes.py").read_text()
    done = assert_succeeded(warm.code(code, shards, cwd=ROOT, processes=processes))
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["processes"] == processes
    return told


@pytest.mark.slow
@pytest.mark.launch
def test_processes_share_a_stream_and_score_it_as_one_does(warm: Warm, shards: Path) -> None:
    alone, three = told_by(1, warm, shards), told_by(3, warm, shards)
    assert len(three["train"]) == 3
    for told in (alone, three):
        count = len(told["train"])
        for process in told["train"]:
            assert (process["again"], process["own"], process["stored"]) == (True, True, count)
        seen = Counter(tuple(one) for process in told["train"] for one in process["seen"])
        assert max(seen.values()) == 1  # nobody sees what another one has seen
        first = [name for epoch, name in seen if epoch == 0]
        wanted = [f"train-{k}/{k}{n}" for k, count in enumerate(TRAINING) for n in range(count)]
        assert sorted(first) == wanted
    scores = [told[way] for told in (alone, three) for way in ("stream", "list")]
    assert scores[0] == scores[1] == scores[2] == scores[3]
    assert scores[0]["images"] == sum(SCORED)
    assert sum(scores[0]["scores"].values()) == sum(SCORED) * 40 * 48
