"""What stops a run after steps were taken leaves a checkpoint of its last whole step."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_tools import Started, Warm, environment, write_data
from launches import ROOT, launch, rows, start, start_cold
from run_tools import build
from segacc.errors import WriteError
from segacc.loop import train
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.checkpoint import complete, read
from segacc.training.events import Evaluated, Saved, StepDone, Stopped
from segacc.training.limits.signals import STOPPING, StopSignal
from segacc.training.plan import make_plan, nothing_left
from segacc.training.run import Run
from segacc.training.tracking.record import Recorder, record

pytest_plugins = ["cli_fixtures"]

STEPS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", 64),
    *("--log-every", 1, "--num-pictures", 0, "--num-workers", 0),
    *("--batch-size", 2, "--warmup-steps", 0, "--max-steps", 100_000),
)
SETTINGS = (*STEPS, "--save-every", 100_000)
RARELY = ("--eval-every", 100_000)


def wait_for(process: "subprocess.Popen[str] | Started", run: Path, step: int) -> None:
    """Wait until a run has logged a step."""
    while len(rows(run, "train")) < step:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.02)


def newest(run: Path) -> int:
    """Return the step of the newest checkpoint, which must be the last that was logged."""
    step = int(sorted((run / "checkpoints").glob("step-*/SHA256SUMS"))[-1].parent.name[5:])
    assert step == rows(run, "train")[-1]["step"]
    return step


@pytest.mark.slow
@pytest.mark.launch
def test_a_hangup_saves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(*SETTINGS, *RARELY, "--output-dir", run)
    wait_for(process, run, 3)
    process.send_signal(signal.SIGHUP)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP, told
    assert f"stopped by SIGHUP at step {newest(run)}/100000" in told
    assert (run / "last" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.launch
def test_under_nohup_a_hangup_is_ignored(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            "nohup",
            sys.executable,
            "-m",
            "segacc",
            *map(str, (*SETTINGS, *RARELY)),
            "--output-dir",
            run,
        ],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(process, run, 3)
    process.send_signal(signal.SIGHUP)
    wait_for(process, run, len(rows(run, "train")) + 5)
    process.terminate()
    told, _ = process.communicate(timeout=60)
    assert "stopped by SIGTERM" in told and newest(run) >= 8


@pytest.mark.parametrize("name", STOPPING)
def test_each_signal_stops(name: str) -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), getattr(signal, name))
        assert stop.name == name


def test_a_platform_may_lack_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGHUP")
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.name == "SIGUSR2" and "SIGHUP" in STOPPING


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("processes", [0, 2])
def test_a_signal_during_an_evaluation_is_heeded(tmp_path: Path, processes: int) -> None:
    """It comes while 3000 images are scored, one by one; the resumed run scores them all."""
    run, data = tmp_path / "run", write_data(tmp_path / "data")
    for kind in ("images", "annotations"):
        files = sorted((data / kind / "validation").iterdir())
        for number in range(3000):
            (data / kind / "validation" / f"x{number}{files[0].suffix}").symlink_to(files[0])
    process = start(
        *(*SETTINGS, "--dataset", f"folder:root={data}", "--eval-every", 2, "--output-dir", run),
        *("--eval-batch-size", 1, "--protocol", "tta:scales=1/1.5/2,flip=true", "--ema", 0.9),
        processes=processes,
    )
    wait_for(process, run, 2)
    time.sleep(1)
    assert rows(run, "train")[-1]["step"] == 2 and not rows(run, "eval")
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20, told
    assert newest(run) == 2 and not rows(run, "eval")
    assert "stopped by SIGTERM" in told


def test_an_evaluation_that_was_missed_is_made_once(tmp_path: Path) -> None:
    """A signal in the last step comes before it, and a kill of the next start right after it."""
    given: dict[str, Any] = {"max_steps": 3, "eval_every": 2, "save_every": 3, "lr": 0.01}

    def begin(end: type[Any], **settings: Any) -> Run:
        run = build(tmp_path, **settings)
        recorder = Recorder(folder=run.folder, names=(), palette=(), best_by="mean_iou")
        for event in record(recorder, train(run)):
            if isinstance(event, end) and event.step == 3:
                if end is not StepDone:
                    break
                os.kill(os.getpid(), signal.SIGTERM)
        run.lock.release()
        return run

    folder = begin(StepDone, **given).folder
    plan = {"output_dir": folder, "resume": str(folder)}
    for end in (Evaluated, Stopped):
        assert read(complete(folder / "checkpoints")[-1]).evaluated == 2
        run = begin(end, **plan)
        assert [row["step"] for row in rows(folder, "eval")] == [2, 3]
    stored, side = read(complete(folder / "checkpoints")[-1]), folder / "best" / "segacc.json"
    assert (stored.evaluated, stored.best) == (3, run.progress.best)
    assert stored.best_step == json.loads(side.read_text())["step"]
    assert "is finished at step 3" in nothing_left(
        make_plan([Layer(plan, "command line")], load_registry())
    )


@pytest.mark.slow
@pytest.mark.launch
def test_a_closed_pipe_saves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_cold(*SETTINGS, *RARELY, "--output-dir", run)
    assert process.stdout
    while "step 3/" not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert newest(run) and (run / "last" / "model.safetensors").is_file()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 24 MB of its own."""
    if os.geteuid():
        pytest.skip("a disk can be mounted by root alone")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; return the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"0" * 512)
    return filler


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("processes", [0, 2])
def test_a_full_disk_behind_the_output_saves(
    tmp_path: Path, disk: Path, warm: Warm, processes: int
) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors"
    given = (*SETTINGS, *RARELY, "--output-dir", run)
    where = {"output": disk / "output", "errors": errors}
    process = warm.start(*given, cwd=ROOT, processes=processes, **where)
    wait_for(process, run, 3)
    fill(disk)
    assert process.wait()
    told = errors.read_text()
    assert (
        "segacc: the console output cannot be written: [Errno 28] No space left on device. The run "
        f"was saved and stopped; continue it with --resume {run}.\n"
    ) in told
    assert newest(run)


def test_a_full_disk_behind_the_output_is_told_in_a_line() -> None:
    with Path("/dev/full").open("w") as full:
        arguments = [sys.executable, "-m", "segacc", "plugins"]
        done = subprocess.run(
            arguments, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "segacc: cannot write to disk: [Errno 28] No space left on device.\n"


@pytest.mark.slow
def test_a_full_disk_is_told_by_every_command(
    warm: Warm, trained: Path, data: Path, disk: Path, tmp_path: Path
) -> None:
    """With the folder; and what was found out is printed before."""
    fill(disk)
    given, images = ("--dataset", f"folder:root={data}"), data / "images" / "train"
    few = ("--arch", "segformer:variant=tiny", "--weights", "none", "--max-steps", 1)
    for words, path, text in (
        (few, "run", ""),
        (("evaluate", trained), "scores/per_image.parquet", "mean_iou"),
        (("predict", trained, images), "masks/train0.png", ""),
        (("check-data",), "report/data_check.png", "no problem found"),
    ):
        place = () if words[0] == "predict" else given
        folder = disk / path.partition("/")[0]
        done = warm(*words, *place, "--output-dir", folder, cwd=tmp_path)
        *before, last = done.stderr.splitlines()
        assert last.startswith("segacc: cannot write to disk: [Errno 28] ") and (
            last.endswith(f"No space left on device: '{disk / path}'.")
        ), last
        assert text in done.stdout + "".join(before) and done.returncode == 2
        assert not list(folder.rglob("*.png")) + list(folder.rglob(".*.part"))


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("processes", [0, 2])
def test_a_full_disk_under_the_metrics_saves(tmp_path: Path, processes: int) -> None:
    run = tmp_path / "run"
    process = start(*SETTINGS, *RARELY, "--output-dir", run, processes=processes)
    wait_for(process, run, 3)
    (run / "metrics.jsonl").rename(run / "kept")
    (run / "metrics.jsonl").symlink_to("/dev/full")
    told, _ = process.communicate(timeout=60)
    assert process.returncode
    assert (
        f"segacc: {run}: metrics or pictures cannot be written: [Errno 28] No space left on device."
    ) in told and "Traceback (most" not in told.split("segacc: ")[0], told
    (run / "metrics.jsonl").unlink()
    (run / "kept").rename(run / "metrics.jsonl")
    (place,) = (run / "checkpoints").glob("step-*/SHA256SUMS")
    step = int(place.parent.name[5:])
    assert step >= rows(run, "train")[-1]["step"]
    launch("--resume", run, "--max-steps", step + 1, processes=processes or 1)


@pytest.mark.slow
@pytest.mark.launch
def test_a_full_disk_is_told_and_what_was_saved_is_whole(disk: Path) -> None:
    run = disk / "run"
    often = ("--save-every", 20, "--keep", 1)
    process = start(*STEPS, *RARELY, *often, "--output-dir", run)
    wait_for(process, run, 21)
    filler = fill(disk)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 2, told
    assert "segacc: " in told and "cannot be written: " in told and "Traceback" not in told, told
    filler.unlink()
    (place,) = (run / "checkpoints").glob("step-*/SHA256SUMS")
    step = int(place.parent.name[5:])
    launch("--resume", run, "--max-steps", step + 2)
    assert rows(run, "train")[-1]["step"] == step + 2


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("processes", [0, 2])
def test_a_file_that_vanishes_saves(tmp_path: Path, processes: int) -> None:
    run, data = tmp_path / "run", write_data(tmp_path / "data")
    process = start(
        *(*SETTINGS, *RARELY, "--dataset", f"folder:root={data}", "--output-dir", run),
        processes=processes,
    )
    wait_for(process, run, 3)
    next((data / "images" / "train").iterdir()).unlink()
    told, _ = process.communicate(timeout=60)
    assert process.returncode and "No such file" in told, told
    assert newest(run) >= 3


def small_run(folder: Path, **settings: Any) -> Run:
    """Build a run of 6 steps that saves every step."""
    steps = {"max_steps": 6, "save_every": 1, "eval_every": 3, "keep": 1, "num_workers": 0}
    return build(folder, **{**steps, "num_pictures": 0, **settings})


def test_a_failed_save_names_the_space_and_the_checkpoint_that_is_whole(disk: Path) -> None:
    run = small_run(disk, eval_every=100)
    events = train(run)
    for event in events:
        if isinstance(event, Saved) and event.step == 2:
            fill(disk)
            break
    with pytest.raises(WriteError) as error:
        list(events)
    checkpoints = disk / "run" / "checkpoints"
    told = str(error.value)
    start = rf"{checkpoints}/step-00000003: cannot be written: .*No space left on device.*\. Its "
    size = r"disk has 0\.0 MB free, and such a folder takes (\d+\.\d) MB\. The newest complete "
    found = re.match(f"{start}{size}checkpoint is {checkpoints}/step-00000002\\. ", told)
    assert found, told
    whole = sum(one.stat().st_size for one in (checkpoints / "step-00000002").iterdir())
    assert abs(float(found[1]) - whole / 1e6) < 0.06
    assert [one.name for one in checkpoints.iterdir()] == ["step-00000002"]


@pytest.mark.slow
def test_with_continue_a_run_survives_a_disk_that_is_full_for_a_while(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(disk, on_save_error="continue")
    saved, steps, filler = [], [], None
    recorder = Recorder(folder=run.folder, names=(), palette=(), best_by="mean_iou")
    for event in record(recorder, train(run), run.signal.ask, patient=True):
        if isinstance(event, Saved):
            saved.append((event.step, event.folder.name))
        if isinstance(event, StepDone):
            steps.append(event.step)
            if event.step == 2:
                filler = fill(disk)
            if event.step == 4 and filler:
                filler.unlink()
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [step for step, name in saved if name.startswith("step-")] == [1, 4, 5, 6]
    assert saved[-1] == (6, "last") and not run.signal.error
    assert [row["step"] for row in rows(run.folder, "train")] == [1, 6]
    assert {row["step"] for row in rows(run.folder, "eval")} == {3, 6}
    lines = capsys.readouterr().err.splitlines()
    assert [one.partition(": cannot")[0].rpartition("/")[2] for one in lines] == [
        *("step-00000002", "best", "step-00000003")
    ]
    assert all("The run goes on (--on-save-error continue)." in one for one in lines)


def test_with_continue_a_run_that_cannot_save_its_end_fails(disk: Path) -> None:
    with pytest.raises(WriteError, match="step-00000006: cannot be written"):
        for event in train(small_run(disk, on_save_error="continue")):
            if isinstance(event, StepDone) and event.step == 2:
                fill(disk)


def test_a_best_that_cannot_be_written_is_not_the_best_of_a_resumed_run(tmp_path: Path) -> None:
    """Else scores between that of best/ and its own would not replace best/."""
    run = small_run(tmp_path, save_every=100, eval_every=1)
    with pytest.raises(WriteError, match=r"/best: cannot be written: .*File exists"):
        for event in train(run):
            if isinstance(event, Saved) and event.folder.name == "best":
                run.progress.best = -1.0  # the next score is better
                (run.folder / ".best.part").write_text("in its way")
    (place,) = complete(run.folder / "checkpoints")
    found = read(place)
    assert (found.step, found.evaluated, found.best, found.best_step) == (2, 2, -1.0, 1)


def test_an_error_while_a_failed_run_is_saved_does_not_replace_the_first(tmp_path: Path) -> None:
    run = small_run(tmp_path, save_every=100, eval_every=1)
    (run.folder / ".best.part").write_text("in its way")

    def fail(*given: object) -> None:
        raise KeyError("odd")

    run.accelerator.register_save_state_pre_hook(fail)
    with pytest.raises(WriteError, match=r"/best: cannot be .* No checkpoint was saved yet\."):
        list(train(run))
    told = json.loads((run.folder / "exit.json").read_text())
    assert (told["code"], told["step"], told["saved_step"]) == (2, 1, None)
    assert "/best: cannot be written" in told["error"]
