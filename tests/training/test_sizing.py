"""`--batch-size auto` chooses how a step is cut and changes nothing else."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cli_tools import Warm, assert_refused
from run_tools import FIXED, windows_of
from segacc import loop
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.testing.tools import forked
from segacc.training.limits.sizing import (
    first_batch,
    fit_batch,
    memory_of,
    part_of,
    peak_of_step,
    undone,
)
from segacc.training.plan import make_plan
from segacc.training.processes import launched
from segacc.training.run import Run
from segacc.training.setup import build_run

pytest_plugins = ["cli_fixtures"]

LIMIT = 608_000_000
"""Bytes of a GPU's memory of which 7.6 MB are left for tensors: 3 images of 128x128 pixels."""


def build(folder: Path, memory: int | None = LIMIT, **settings: Any) -> Run:
    """Build a run that draws random numbers in its passes and has an average of the weights."""
    given = FIXED | {"arch": "segformer:variant=tiny", "crop_size": 128, "ema": 0.9, "max_steps": 2}
    given = {} if "resume" in settings else given | {"output_dir": folder}
    layer = Layer({**given, **settings}, "command line")
    fit = partial(fit_batch, step=loop.train_step, device_memory=memory)
    return build_run(make_plan([layer], load_registry()), fit=fit)


def trained(run: Run) -> dict[str, torch.Tensor]:
    """Take the steps of a run; return weights, statistics and their averages."""
    for window in windows_of(run):
        loop.train_step(run, window)
    assert run.ema is not None
    return {**run.network.state_dict(), **{f"{k}~": v for k, v in run.ema.averages.items()}}


@pytest.mark.parametrize("optimizer", ["adamw", "adagrad"])
def test_the_run_is_that_with_the_same_numbers_typed(tmp_path: Path, optimizer: str) -> None:
    auto = {"batch_size": "auto", "total_batch_size": 4, "optimizer": optimizer}
    run = build(tmp_path / "auto", **auto)
    cut = {"batch_size": 2, "gradient_accumulation_steps": 2}
    stored = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert {key: stored[key] for key in cut} == cut and "total_batch_size" not in stored
    told = "batch_size: 2 (auto, at most 3 fit in 7.6 MB (2.0 MB an image))"
    assert told in run.notes
    found = trained(run)
    typed = trained(build(tmp_path / "typed", optimizer=optimizer, **cut))
    assert found.keys() == typed.keys()
    assert all(torch.equal(found[name], typed[name]) for name in typed)


@pytest.mark.parametrize("images", [2, 8])
def test_the_memory_of_other_micro_batches_is_foretold(tmp_path: Path, images: int) -> None:
    """From steps of 1 and 3 images; at once are also weights and the optimizer's state."""
    run = build(tmp_path, arch="mobilenet_v2")
    with undone(run):
        batches = first_batch(run, images)
        memory = memory_of(run, batches, LIMIT, loop.train_step)
        peak = peak_of_step(run, batches, images, loop.train_step)
    held = memory.weights + memory.optimizer
    assert memory.of(images) == pytest.approx(peak + held, rel=0.02)
    assert images * memory.image > memory.weights


def test_a_resumed_run_keeps_its_micro_batch(tmp_path: Path) -> None:
    run = build(tmp_path / "run", batch_size="auto", total_batch_size=4)
    loop.save_checkpoint(run)
    run.lock.release()
    again = build(tmp_path, 700_000_000, resume=str(run.folder), batch_size="auto")
    assert again.config.batch_size == again.config.gradient_accumulation_steps == 2


def test_the_memory_of_this_machine_is_enough_for_four_tiny_images(tmp_path: Path) -> None:
    run = build(tmp_path, None, batch_size="auto", total_batch_size=4)
    assert (run.config.batch_size, run.config.gradient_accumulation_steps) == (4, 1)


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_choose_what_fits_on_both(tmp_path: Path) -> None:
    def chosen() -> dict[str, Any]:
        memory = LIMIT if os.environ["RANK"] == "1" else 700_000_000
        run = build(tmp_path / "run", memory, batch_size="auto", total_batch_size=8)
        return {"cut": (run.config.batch_size, run.config.gradient_accumulation_steps, launched())}

    (tmp_path / "meeting").mkdir()
    assert forked(chosen, tmp_path / "meeting", 2) == [{"cut": (2, 2, 2)}] * 2


@pytest.mark.parametrize(
    ("share", "most", "least", "found"),
    [(8, 5, 1, 4), (8, 99, 1, 8), (8, 0, 1, 1), (8, 1, 2, 2), (9, 8, 2, 3), (7, 6, 1, 1)],
)
def test_micro_batches_divide_the_batch(share: int, most: int, least: int, found: int) -> None:
    assert part_of(share, most, least) == found


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ("--batch-size", "auto", "--gradient-accumulation-steps", "2"),
            "--gradient-accumulation-steps: 2: --batch-size auto chooses this; give the images per "
            "step with --total-batch-size N in place of this.",
        ),
        (
            ("--batch-size", "4", "--total-batch-size", "6", "--arch", "segformer:variant=tiny"),
            "--total-batch-size: 6: not a multiple of 4, for 1 process with 4 images "
            "(--batch-size).",
        ),
        (
            ("--total-batch-size", "8", "--gradient-accumulation-steps", "2"),
            "--gradient-accumulation-steps and --total-batch-size exclude each other; give one.",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(
    warm: Warm, tmp_path: Path, flags: tuple[str, ...], text: str
) -> None:
    assert_refused(warm(*flags, cwd=tmp_path), text)
