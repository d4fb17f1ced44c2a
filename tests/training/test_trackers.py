"""Experiment trackers get numbers, settings, pictures and a run that is resumed under its id."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.utils import LoggerType

from cli_tools import TINY, Warm, assert_refused, assert_succeeded, start
from segacc.errors import OptionError
from segacc.settings.sources import Layer, merge
from segacc.training.tracking.trackers import TRACKERS, hyperparameters, start_trackers

pytest_plugins = ["cli_fixtures", "other_python"]

READ = """
import json, sys
import mlflow
from trackio.sqlite_storage import SQLiteStorage

told = {"runs": SQLiteStorage.get_runs("segacc")}
told["config"] = SQLiteStorage.get_run_config("segacc", "tracked")
told["rows"] = SQLiteStorage.get_logs("segacc", "tracked")
client = mlflow.tracking.MlflowClient()
[experiment] = [one for one in client.search_experiments() if one.name == "segacc"]
[run] = client.search_runs([experiment.experiment_id])
told["mlflow"] = {
    "name": run.info.run_name, "status": run.info.status, "params": run.data.params,
    "best": run.data.metrics["best/mean_iou"],
    "steps": [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")],
    "pictures": [one.path for one in client.list_artifacts(run.info.run_id, "pictures")],
}
print(json.dumps(told))
"""


def test_the_trackers_are_those_of_accelerate() -> None:
    assert {*TRACKERS, "all"} == {str(one) for one in LoggerType}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "swanlab",
            "swanlab: the package is not installed. Install it with `pip install swanlab`.",
        ),
        (
            "tensorbord",
            'unknown tracker "tensorbord". Did you mean "tensorboard"? Known: aim, clearml, '
            "comet_ml, dvclive, mlflow, swanlab, tensorboard, trackio, wandb.",
        ),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(
    warm: Warm, data: Path, tmp_path: Path, name: str, complaint: str
) -> None:
    given = (*TINY, "--dataset", f"folder:root={data}", "--trackers", name)
    assert_refused(warm(*given, cwd=tmp_path), f"--trackers: {complaint}")
    assert list(tmp_path.iterdir()) == []


def test_hyperparameters_are_numbers_and_text() -> None:
    settings = merge([Layer({"crop_size": (32, 64), "lr": 0.1, "trackers": ["wandb"]}, "test")])
    told = hyperparameters(settings)
    assert (told["crop_size"], told["lr"], told["trackers"]) == ("[32, 64]", 0.1, '["wandb"]')
    assert all(isinstance(one, bool | int | float | str) for one in told.values())
    assert "output_dir" not in told and "protocol" not in told


@pytest.mark.slow
@pytest.mark.launch
def test_trackio_wandb_and_mlflow_resume_one_run(
    other_python: Path, data: Path, tmp_path: Path
) -> None:
    more = {
        **{"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")},
        **{"MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"},
    }
    names = [part for name in ("trackio", "wandb", "mlflow") for part in ("--trackers", name)]
    drawn = dict(zip(TINY[::2], TINY[1::2], strict=True)) | {"--num-pictures": "1"}
    flags = [part for one in drawn.items() for part in one]
    flags += ["--dataset", f"folder:root={data}", "--eval-every", "2", *names]
    segacc = [str(other_python), "-m", "segacc"]
    assert_succeeded(start([*segacc, *flags, "--output-dir", "tracked"], tmp_path, more))
    ids = json.loads((tmp_path / "tracked/trackers.json").read_text())
    again = ["--resume", "tracked", "--max-steps", "4"]
    assert_succeeded(start([*segacc, *again], tmp_path, more))
    assert json.loads((tmp_path / "tracked/trackers.json").read_text()) == ids

    read = start([str(other_python), "-c", READ], tmp_path, more)
    told = json.loads(assert_succeeded(read).stdout.splitlines()[-1])
    assert told["runs"] == ["tracked"] and told["config"]["arch"] == "segformer:variant=tiny"
    steps = [row["step"] for row in told["rows"] if "train/loss" in row]
    assert steps == told["mlflow"]["steps"] == [1, 2, 4]
    pictures = [one["validation"]["file_path"] for one in told["rows"] if "validation" in one]
    assert len(pictures) == 2
    assert len([one for one in told["rows"] if "curves" in one]) == 2

    assert (told["mlflow"]["name"], told["mlflow"]["status"]) == ("tracked", "FINISHED")
    assert told["mlflow"]["params"]["arch"] == "segformer:variant=tiny"
    best = [row["best/mean_iou"] for row in told["rows"] if "best/mean_iou" in row][-1]
    assert told["mlflow"]["best"] == pytest.approx(best)
    files = ["curves", "step-00000002", "step-00000004"]
    assert told["mlflow"]["pictures"] == [f"pictures/{name}.png" for name in files]

    written = sorted((tmp_path / "tracked/wandb").glob(f"offline-run-*-{ids['wandb']}"))
    assert len(written) == 2
    for run in written:
        [store] = run.glob("*.wandb")
        content = store.read_bytes()
        assert b"eval/mean_iou" in content and b"validation" in content
        images = {path.name.partition("_")[0] for path in run.rglob("media/images/*.png")}
        assert images == {"validation", "curves"}


def test_one_that_does_not_start_is_told(tmp_path: Path) -> None:
    (tmp_path / "segacc").write_text("a file where TensorBoard's folder would be")
    settings = merge([Layer({"trackers": ["tensorboard"]}, "command line")])
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path))
    with pytest.raises(OptionError, match=r"^--trackers: a tracker did not start: .*segacc"):
        start_trackers(accelerator, tmp_path, settings, step=None)
    assert not (tmp_path / "trackers.json").exists()
