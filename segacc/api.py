"""What a notebook calls: `for event in train(TrainConfig(...))`."""

import dataclasses
from collections.abc import Iterator

from segacc import loop, tracking
from segacc.events import Event
from segacc.parts import build_run
from segacc.plan import gather, make_plan
from segacc.registry import load_registry
from segacc.run import Run
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Layer


def train(config: TrainConfig) -> Iterator[Event]:
    """Train as `python -m segacc` does, and yield what happens; the run folder is written too.

    Raises:
        SegaccError: a setting, the data or the weights are not what they should be.
    """
    fields = dataclasses.fields(TrainConfig)
    typed = {
        f.name: getattr(config, f.name) for f in fields if getattr(config, f.name) != f.default
    }
    settings = gather([Layer(typed, "TrainConfig")])
    yield from events(build_run(make_plan(settings, load_registry())))


def events(run: Run) -> Iterator[Event]:
    """Train a run that is built; the main process writes metrics.jsonl, pictures and trackers."""
    stream = loop.train(run)
    if run.accelerator.is_main_process:
        stream = tracking.record(
            run.folder,
            stream,
            names=run.labels.names,
            palette=run.labels.palette,
            best_by=run.config.best_by,
            log=run.accelerator.log if run.config.trackers else None,
            failed=run.signal.ask,
        )
    try:
        yield from stream
    finally:
        run.lock.release()
