"""Flags, YAML, Python and a resumed run: the same settings give the same run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_tools import TINY, Warm, assert_refused, assert_succeeded, metrics, python
from segacc.data.samples import digest
from segacc.training.checkpoint import seal

pytest_plugins = ["cli_fixtures"]


def comments(path: Path) -> dict[str, str]:
    """Read where each value of config.yaml came from."""
    lines = [line.split(": ", 1) for line in path.read_text().splitlines()[1:]]
    return {key: rest.split(" # ")[1] for key, rest in lines}


def losses(folder: Path) -> list[Any]:
    return [(row["loss"], row["grad_norm"], row["lr"]) for row in metrics(folder, "train")]


@pytest.mark.slow
def test_flags_over_yaml_and_the_same_run_again_from_config_yaml(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    given = {
        "arch": {"name": "segformer", "variant": "tiny"},
        "dataset": {"name": "folder", "root": str(data)},
        "aug": "flip",
        "num-workers": 0,
        "max_steps": 9,
        "batch-size": 2,
        "weights": "none",
        "seed": 3,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    flags = ["--crop_size=48x64", "--max-steps=3", "--log_every", "1", "--keep=1"]
    first = assert_succeeded(
        warm("--config", "run.yaml", *flags, "--output-dir", "first", cwd=tmp_path)
    )
    assert "step 3/3" in first.stdout
    assert list((tmp_path / "first" / "checkpoints").iterdir()) == [
        tmp_path / "first" / "checkpoints" / "step-00000003"
    ]
    written = tmp_path / "first" / "config.yaml"
    where = comments(written)
    assert where["crop_size"] == "--crop-size"
    assert where["max_steps"] == "--max-steps"
    assert where["batch_size"] == "run.yaml: batch_size"
    assert where["aug"] == "run.yaml: aug"
    assert where["schedule"] == "default"
    assert where["lr"] == "chosen: weights are random"
    assert where["eval_every"] == "chosen: a fifth of the run"
    values = yaml.safe_load(written.read_text())
    assert values["arch"] == {"name": "segformer", "variant": "tiny"}
    assert (values["aug"], values["crop_size"], values["seed"]) == (["flip"], [48, 64], 3)

    again = warm("--config", "first/config.yaml", "--output-dir", "again", cwd=tmp_path)
    assert_succeeded(again)
    assert losses(tmp_path / "again") == losses(tmp_path / "first") != []
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text()) == values


def test_a_run_goes_on_with_its_own_settings(warm: Warm, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = yaml.safe_load((run / "config.yaml").read_text())
    done = assert_succeeded(warm("--resume=run", "--max_steps=41", "--log-every=1", cwd=tmp_path))
    assert "step 41/41" in done.stdout
    lr = [row["lr"] for row in metrics(run, "train")][-2:]
    assert (
        "the run had 40 steps and now has 41; the schedule is fitted to 41 steps: the learning "
        f"rate goes from {lr[0]:.1e} in step 40 to {lr[1]:.1e} in step 41\n"
    ) in done.stdout
    after = yaml.safe_load((run / "config.yaml").read_text())
    assert after == {**before, "max_steps": 41, "log_every": 1}
    assert comments(run / "config.yaml")["max_steps"] == "--max-steps"
    assert [row["step"] for row in metrics(run, "train")] == [1, 20, 40, 41]


def test_a_finished_run_says_so_before_torch_is_loaded(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = contents(run)
    script = "import sys; from segacc.__main__ import main; code = main(); "
    script += "sys.exit(code or 'torch' in sys.modules)"
    done = assert_succeeded(python("-c", script, "--resume", "run", cwd=tmp_path))
    assert done.stdout == (
        f"{run}: this run is finished at step 40; nothing is done. To continue it, give "
        "--max-steps N, the steps of the whole run, N > 40.\n"
    )
    assert contents(run) == before


def test_a_run_without_its_last_folder_is_ended_again(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    weights = (run / "last" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "last")  # killed after the last checkpoint
    done = assert_succeeded(warm("--resume", "run", cwd=tmp_path))
    assert "finished at step 40/40" in done.stdout
    assert (run / "last" / "model.safetensors").read_bytes() == weights


def test_a_resume_that_is_refused_changes_nothing(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = contents(run)
    assert_refused(
        warm("--resume", "run", "--batch-size", "2", "--max-steps", "50", cwd=tmp_path),
        "--resume run: the settings differ from those of the checkpoint: total_batch_size was 4, "
        "now 2. Use the same data, and a number of processes, batch size and accumulation steps "
        "with the same product.",
    )
    assert_refused(
        warm("--resume", "run", "--max-steps", "2", cwd=tmp_path),
        f"--max-steps: 2: {run}/checkpoints/step-00000040 is already at step 40; give more with "
        "--max-steps or --epochs.",
    )
    shorter = warm("--resume", "run", "--epochs", "5", cwd=tmp_path)
    assert_refused(
        shorter,
        f"chosen: 5 epochs of 4 images, 4 per step: 5: {run}/checkpoints/step-00000040 is already "
        "at step 40; give more with --max-steps or --epochs.",
    )
    assert contents(run) == before


def contents(run: Path) -> dict[Path, bytes]:
    """Read all files but the mark, which names the process that held the folder last."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".segacc_run")
    return {path: path.read_bytes() for path in files}


@pytest.mark.slow
def test_other_samples_in_equal_number_would_not_be_the_same_run(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    split = ("--train-split", "train[:2]", "--output-dir", "run")
    assert_succeeded(warm(*TINY, "--dataset", f"folder:root={data}", *split, cwd=tmp_path))
    stored = tmp_path / "run/checkpoints/step-00000002/progress.json"
    progress = json.loads(stored.read_text())
    was, now = (digest([f"train{k}" for k in some]) for some in ((0, 1), (2, 3)))
    assert progress["settings"]["sample_digest"] == was
    other = ("--train-split", "train[2:]", "--max-steps", "3")
    told = warm("--resume", "run", *other, cwd=tmp_path).stderr
    start = "segacc: --resume run: the settings differ from those of the checkpoint: "
    assert told.startswith(f"{start}sample_digest was {was}, now {now}"), told
    assert "If they were changed on purpose, add --resume-anyway;" in told
    moved = shutil.copytree(data, tmp_path / "elsewhere")
    there = ("--dataset", f"folder:root={moved}", "--max-steps", "3")
    assert_succeeded(warm("--resume", "run", *there, cwd=tmp_path))

    del progress["settings"]["sample_digest"]
    stored.write_text(json.dumps(progress))
    seal(stored.parent)
    assert_refused(
        warm("--resume", stored.parent, "--max-steps", "3", cwd=tmp_path),
        f"--resume {stored.parent}: an older version of segacc wrote this checkpoint, without "
        "sample_digest, so it cannot be checked whether the data are the same. Resume with that "
        "version, or start a new run from its weights with --weights FOLDER.",
    )


PYTHON = """
import sys
import segacc
assert segacc.__version__ and "torch" not in sys.modules
from segacc import TrainConfig, train
assert isinstance(TrainConfig(), TrainConfig)
from segacc.errors import OptionError
wrong = [
    dict(batch_size="four"), dict(lr=-1.0), dict(arch="segfromer"), dict(aug=("flp",)),
    dict(epochs=1, max_steps=2), dict(keep=True),
]
for values in wrong:
    try:
        next(train(TrainConfig(**values)))
    except OptionError as error:
        print(error)
    except segacc.errors.PluginError as error:
        print(error)
config = TrainConfig(
    arch="segformer:variant=tiny", weights="none", dataset={"name": "folder", "root": sys.argv[1]},
    crop_size=(48, 64), max_steps=2, batch_size=2, num_workers=0, log_every=1, output_dir="run",
)
for event in train(config):
    print(type(event).__name__)
"""


@pytest.mark.slow
def test_in_python_events_come_and_wrong_values_are_refused(data: Path, tmp_path: Path) -> None:
    done = assert_succeeded(python("-c", PYTHON, data, cwd=tmp_path))
    lines = done.stdout.splitlines()
    complaints = [
        "TrainConfig: batch_size: expected an integer > 0 or auto; found 'four'.",
        "TrainConfig: lr: expected a number > 0; found -1.0.",
        'TrainConfig: arch: unknown architecture "segfromer". Did you mean "segformer"? ',
        'TrainConfig: aug: unknown augmentation "flp". Did you mean "flip"? ',
        "TrainConfig: epochs and TrainConfig: max_steps exclude each other; give one.",
        "TrainConfig: keep: expected an integer > 0; found true.",
    ]
    for line, complaint in zip(lines, complaints, strict=False):
        assert line.startswith(complaint)
    assert lines[6:] == [
        *("Started", "StepDone", "Evaluated", "Saved", "Saved"),
        *("StepDone", "Evaluated", *(["Saved"] * (len(lines) - 14)), "Stopped"),
    ]
    assert comments(tmp_path / "run" / "config.yaml")["batch_size"] == "TrainConfig: batch_size"
    assert [row["step"] for row in metrics(tmp_path / "run", "train")] == [1, 2]
