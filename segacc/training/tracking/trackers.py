"""Experiment trackers: packages, name and id of the run, settings and pictures."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.data.atomic import replacing
from segacc.errors import OptionError, cut, unknown
from segacc.settings.sources import Settings, plain_values

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

PROJECT = "segacc"
"""The project (mlflow: experiment) of all runs. In the run folder, TensorBoard's files are in a
folder of this name."""
IDS = "trackers.json"
"""Name of the file in the run folder with the run's id in each tracker, to resume it."""
TRACKERS = (
    *("aim", "clearml", "comet_ml", "dvclive", "mlflow"),
    *("swanlab", "tensorboard", "trackio", "wandb"),
)
"""The trackers of Accelerate; each is also the name of its package."""


def check_trackers(settings: Settings) -> None:
    """Check that the trackers exist and that their packages are installed.

    Raises:
        OptionError: one is unknown, or its package is missing.
    """
    where = settings.where("trackers")
    for name in settings.config.trackers:
        if name == "all":
            continue
        if name not in TRACKERS:
            raise OptionError(f"{where}: {unknown('tracker', name, TRACKERS)}.")
        if find_spec(name) is None:
            raise OptionError(
                f"{where}: {name}: the package is not installed. Install it with `pip install "
                f"{name}`."
            )


def start_trackers(
    accelerator: "Accelerator", folder: Path, settings: Settings, *, step: int | None
) -> None:
    """Start the trackers of `--trackers` with the name of the run folder and the settings.

    A resumed run continues under its id; its settings stay as logged first, but with trackio.

    Args:
        accelerator: logs with the trackers.
        folder: the run folder.
        settings: logged as hyperparameters.
        step: steps of the checkpoint; None if the run is not resumed.

    Raises:
        OptionError: one cannot be started, for example because nobody is logged in.
    """
    path = folder / IDS
    resumed = step is not None and path.is_file()
    ids = json.loads(path.read_text(encoding="utf-8")) if resumed else {}
    config = hyperparameters(settings)
    mlflow, trackio, wandb = (ids.get(name) for name in ("mlflow", "trackio", "wandb"))
    more: dict[str, dict[str, Any]] = {
        "mlflow": {"run_name": folder.name, "run_id": mlflow},
        "tensorboard": {"purge_step": step + 1} if step is not None else {},
        "trackio": {
            **{"name": trackio or folder.name, "resume": "allow" if trackio else "never"},
            "config": config,  # stored at the start only, so what accelerate adds is lost
        },
        "wandb": {"name": folder.name, "dir": str(folder), "id": wandb, "resume": "allow"},
    }
    try:
        accelerator.init_trackers(PROJECT, config=None if resumed else config, init_kwargs=more)
    except Exception as error:  # each tracker raises errors of its own
        where = settings.where("trackers")
        raise OptionError(f"{where}: a tracker did not start: {cut(str(error), 500)}") from error
    if accelerator.is_main_process:
        ids = {one.name: run_id(one) for one in accelerator.trackers}
        with replacing(path) as part:
            part.write_text(json.dumps(ids, indent=1) + "\n", encoding="utf-8")


def run_id(tracker: "GeneralTracker") -> str | None:
    """Return what a tracker calls this run; None for those that segacc cannot resume."""
    if tracker.name == "mlflow":
        return str(tracker.tracker.info.run_id)
    if tracker.name == "wandb":
        return str(tracker.tracker.id)
    return str(tracker.tracker.name) if tracker.name == "trackio" else None


def hyperparameters(settings: Settings) -> dict[str, Any]:
    """Return the settings that are set, as numbers and text without secrets."""
    return {
        key: json.dumps(value) if isinstance(value, list | dict) else value
        for key, value in plain_values(settings).items()
        if value not in (None, [])
    }


def log_picture(accelerator: "Accelerator", name: str, path: Path, step: int) -> None:
    """Log a picture, a file, with TensorBoard, wandb, trackio and mlflow."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({name: [pixels]}, step=step)
        elif tracker.name == "mlflow":
            tracker.log_artifact(str(path), "pictures")
        elif tracker.name == "trackio":
            image = import_module("trackio").Image  # it is no dependency
            tracker.log({name: image(pixels)}, step=step)
