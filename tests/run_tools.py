"""Builds a run in this process, and its steps one by one."""

from collections.abc import Iterator
from pathlib import Path

from segacc.data.items import Batch
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.feed import Meter, step_batches
from segacc.training.limits.signals import StopSignal
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import Fit, build_run

FIXED = {
    "arch": "segformer:variant=tiny,drop_path=0,dropout=0",
    "weights": "none",
    "num_workers": 0,
    "crop_size": 64,
    "batch_size": 2,
    "num_pictures": 0,
    "eval_split": "validation[:2]",
}


def build(folder: Path, fit: Fit | None = None, **settings: object) -> Run:
    """Build a run of a tiny network as the command line does, in `folder`/run, or resume it."""
    fixed = {} if "resume" in settings else FIXED
    values = {**fixed, "output_dir": folder / "run", **settings}
    return build_run(make_plan([Layer(values, "command line")], load_registry()), fit=fit)


def windows_of(run: Run) -> Iterator[list[Batch]]:
    """Yield each step's micro-batches; whoever asks for the next one has taken a step."""
    with StopSignal() as signal:
        for window in step_batches(run, Meter(run), signal):
            yield window
            run.progress.step += 1
            run.read_up_to(window)
