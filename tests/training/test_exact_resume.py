"""Promise 3: a run that was stopped anywhere goes on as if it had not been, bit for bit."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from cli_tools import Started, Warm
from launches import assert_same, launch, rows, start, start_cold

pytest_plugins = ["cli_fixtures"]

# Dropout and drop path draw from the global random state; augmentations from each sample's own.
ENDLESS = (
    *("--arch", "segformer:variant=tiny,drop_path=0.2,dropout=0.2", "--weights", "none"),
    *("--crop-size", 64, "--log-every", 1, "--eval-every", 12, "--eval-split", "validation[:12]"),
    *("--save-every", 7, "--num-pictures", 0, "--batch-size", 4, "--ema", "0.9"),
    *("--early-stop", "mean_iou:patience=50", "--schedule", "cosine:floor=0.01"),
    *("--warmup-steps", 4, "--encoder-warmup-steps", 4),
)
STEPS = 32
SETTINGS = (*ENDLESS, "--max-steps", STEPS)


def finish(*args: object) -> str:
    """Run to the end and return what was printed."""
    return launch(*args, processes=0).stdout


def stop_at(step: int, number: int, *args: object, run: Path) -> Started:
    """Start a run and send its process a signal once it has logged `step`."""
    process = start(*args, "--output-dir", run)
    while not any(row["step"] >= step for row in rows(run, "train")):
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.002)
    os.kill(process.pid, number)
    return process


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(*SETTINGS, "--num-workers", 0, "--output-dir", run)
    return run


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_a_random_step(uninterrupted: Path, tmp_path: Path, workers: int) -> None:
    run, step = tmp_path / "run", random.randint(8, 22)
    process = stop_at(step, signal.SIGKILL, *SETTINGS, "--num-workers", workers, run=run)
    assert process.wait(timeout=60) == -signal.SIGKILL, f"not killed at step {step}"
    os.killpg(process.pid, signal.SIGKILL) if workers else None
    assert not (run / "last").exists()

    settings = (run / "config.yaml").read_text()
    output = finish("--resume", run)
    assert f"finished at step {STEPS}/{STEPS}" in output
    assert (run / "config.yaml").read_text() == settings  # it still tells what was typed at first
    assert_same(run, uninterrupted)
    ended = [
        json.loads((one / f"checkpoints/step-{STEPS:08d}/progress.json").read_text())
        for one in (run, uninterrupted)
    ]
    assert ended[0]["early_stop"] == ended[1]["early_stop"] != {}


@pytest.mark.slow
@pytest.mark.launch
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = stop_at(13, signal.SIGTERM, *SETTINGS, "--num-workers", 2, run=run)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"segacc train --resume {run}" in output.splitlines()
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())[-1]
    assert saved == f"step-{rows(run, 'train')[-1]['step']:08d}"

    finish("--resume", "auto", "--output-dir", run)
    assert_same(run, uninterrupted)


@pytest.mark.slow
@pytest.mark.launch
def test_a_better_network_of_a_future_that_is_given_up_is_put_aside(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    oldest = min((run / "checkpoints").iterdir())
    side = json.loads((run / "best" / "segacc.json").read_text())
    step, was_of = int(oldest.name.removeprefix("step-")), STEPS
    assert step < STEPS
    # As if it had been the best at the end.
    (run / "best" / "segacc.json").write_text(json.dumps({**side, "step": was_of}))
    output = finish("--resume", oldest)
    kept = run / f"best-step-{STEPS:08}"
    assert (
        f"this run is resumed from step {step}; best/ is from the later step {STEPS} and was "
        f"renamed to {kept.name}/" in " ".join(output.split())
    )
    assert json.loads((kept / "segacc.json").read_text())["step"] == STEPS
    progress = json.loads((max((run / "checkpoints").iterdir()) / "progress.json").read_text())
    if (run / "best").exists():
        now = json.loads((run / "best" / "segacc.json").read_text())
        assert step < now["step"] == progress["best_step"]


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file: of tensors, where it holds tensors."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CHANGED = " does not match its checksum. "
DAMAGE = {
    "cut progress": (
        "progress.json",
        lambda path: path.write_text("{"),
        ": Expecting property name",
    ),
    "edited progress": (
        "progress.json",
        lambda path: path.write_text(path.read_text().replace('"evaluated": ', '"evaluated": 1')),
        CHANGED,
    ),
    "cut model": ("model.safetensors", lambda path: os.truncate(path, 1000), CHANGED),
    "flipped model": ("model.safetensors", flip, CHANGED),
    "flipped optimizer": ("optimizer.bin", flip, CHANGED),
    "flipped EMA": ("ema/averages.safetensors", flip, CHANGED),
    "no optimizer": ("optimizer.bin", lambda path: path.unlink(), " is missing. "),
    "cut random": ("random_states_0.pkl", lambda path: os.truncate(path, 1000), CHANGED),
    "no random": ("random_states_0.pkl", lambda path: path.unlink(), " is missing. "),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_names_the_newest_intact_one(
    uninterrupted: Path, tmp_path: Path, warm: Warm, damage: str
) -> None:
    name, spoil, told = DAMAGE[damage]
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    *_, before, newest = sorted((run / "checkpoints").iterdir())
    spoil(newest / name)
    done = warm("--resume", newest, "--max-steps", STEPS + 1, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"segacc: --resume: {newest} is damaged: {name}{told}")
    assert done.stderr.endswith(f"Resume from the newest intact one: --resume {before}.\n")


def test_a_damaged_line_of_the_metrics_is_named(
    uninterrupted: Path, tmp_path: Path, warm: Warm
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    path = run / "metrics.jsonl"
    path.write_text("{}}\n" + path.read_text())
    done = warm("--resume", min((run / "checkpoints").iterdir()), cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.endswith(
        f"segacc: {path}: line 1 is not JSON: Extra data: line 1 column 3 (char 2). Remove it.\n"
    )


@pytest.mark.slow
@pytest.mark.launch
def test_the_next_evaluation_is_the_best_where_best_is_gone(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    shutil.rmtree(run / "best")
    oldest = min((run / "checkpoints").iterdir())
    assert json.loads((oldest / "progress.json").read_text())["best"] is not None
    output = finish("--resume", oldest)
    assert "best/ was removed, so the next evaluation counts as the best" in output
    assert (run / "best" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.launch
def test_ctrl_c_on_two_processes_saves_once(tmp_path: Path) -> None:
    """The terminal sends SIGINT to all, and the launcher sends it on to its processes again."""
    run = tmp_path / "run"
    given = (*ENDLESS, "--max-steps", 999, "--num-workers", 2, "--output-dir", run)
    process = start_cold(*given, processes=2)
    while len(rows(run, "train")) < 9:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    resume = f"accelerate launch -m segacc --resume {run}"
    assert output.count(resume) == 1, output[-4000:]
    last = rows(run, "train")[-1]["step"]
    assert 9 <= last < 999
    ended = json.loads((run / "exit.json").read_text())  # the launcher's own exit code is 1
    assert (ended["reason"], ended["code"], ended["resume"]) == ("SIGINT", 130, resume)
    assert (ended["step"], ended["saved_step"], ended["max_steps"]) == (last, last, 999)
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())[-1]
    assert saved == f"step-{last:08d}"
    assert (run / "last" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_begin_and_one_goes_on(tmp_path: Path) -> None:
    """A window of two micro-batches takes the place of two processes, after an odd step."""
    run = tmp_path / "run"
    still = ("--arch", "segformer:variant=tiny,dropout=0,drop_path=0", "--weights", "none")
    size = (*still, "--crop-size", 64, "--batch-size", 2, "--max-steps", 6, "--lr", 0.01)
    often = ("--log-every", 1, "--save-every", 3, "--num-pictures", 0, "--num-workers", 0)
    often += ("--eval-split", "validation[:12]")
    launch(*size, *often, "--ema", 0.9, "--output-dir", run, processes=2)
    whole = [row["loss"] for row in rows(run, "train")]
    scored = [row["mean_iou"] for row in rows(run, "eval")][-2:]

    checkpoint = run / "checkpoints" / "step-00000003"
    launch("--resume", checkpoint, "--gradient-accumulation-steps", 2)
    again = [row["loss"] for row in rows(run, "train")]
    assert len(whole) == len(again) == 6
    assert again == pytest.approx(whole, rel=1e-4) and again[3] == pytest.approx(whole[3], rel=1e-6)
    assert [row["mean_iou"] for row in rows(run, "eval")][-2:] == pytest.approx(scored, abs=0.05)


@pytest.mark.slow
def test_another_batch_would_not_be_the_same_run(warm: Warm, uninterrupted: Path) -> None:
    more = ("--max-steps", STEPS + 1, "--batch-size", 2)
    done = warm("--resume", uninterrupted, *more, cwd=uninterrupted)
    assert done.returncode == 2
    assert "total_batch_size was 4, now 2" in done.stderr


OTHER_CLASSES = {
    "swapped": ("background\nbar\ndisc\n", "", "class_names was "),
    "mapped": ("background\ndisc\nbar\n", ",ignore=2", "label_map was "),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", OTHER_CLASSES)
def test_other_classes_would_not_be_the_same_run(
    trained: Path, data: Path, tmp_path: Path, warm: Warm, change: str
) -> None:
    """Weights would go on, but what they tell apart would be called something else."""
    names, ignore, told = OTHER_CLASSES[change]
    run, other = (
        shutil.copytree(trained, tmp_path / "run"),
        shutil.copytree(data, tmp_path / "data"),
    )
    more = ("--resume", run, "--max-steps", 41)
    same = warm(*more, "--dataset", f"folder:root={other}", cwd=tmp_path)
    assert same.returncode == 0, same.stderr
    (other / "classes.txt").write_text(names)
    more = ("--resume", run, "--max-steps", 42)
    done = warm(*more, "--dataset", f"folder:root={other}{ignore}", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    start = f"segacc: --resume {run}: the settings differ from those of the checkpoint: {told}"
    assert done.stderr.startswith(start), done.stderr
    if change != "mapped":
        after = names.split()
        assert f"{told}['background', 'disc', 'bar'], now {after}" in done.stderr
