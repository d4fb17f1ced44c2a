"""`--compile`: a run is the same with and without it, whatever else is changed in training."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cli_tools import SHORT, Warm, assert_refused
from run_tools import build, windows_of
from segacc import registry
from segacc.evaluation.compiled import FewSizes, compile_network
from segacc.loop import evaluate, train_step
from segacc.training.run import Run

pytest_plugins = ["cli_fixtures"]


UNET = "unet_small:width=4,depth=1"
VIT = {"arch": "linear:backbone=dinov2,size=test,unfreeze=true", "crop_size": 56}
"""A network whose four blocks are compiled as one."""


@pytest.fixture
def unet(example_plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the example plugin in this process, as if it were installed."""
    point = SimpleNamespace(name="main", module="segacc_example", load=lambda: example_plugin)
    offered = [("segacc-example", "1.0", point)]
    monkeypatch.setattr(registry, "installed_plugins", lambda: offered)


def trained(run: Run, micro_batch: int | None = None) -> tuple[list[Tensor], dict[str, Any]]:
    """Take all steps of a run and evaluate it; return losses and scores.

    After the first step, micro-batches have fewer images, as if the memory had been full.
    """
    losses = []
    for window in windows_of(run):
        losses.append(train_step(run, window).losses)
        run.progress.micro_batch = micro_batch
    scores, _ = evaluate(run.scoring)
    return losses, scores


@pytest.mark.parametrize(
    ("changed", "micro_batch", "graphs"),
    [
        # Training, its halved micro-batches, and evaluation.
        ({"arch": UNET, "freeze": ["encoder"], "unfreeze_after": 1}, 2, 3),
        (VIT | {"gradient_checkpointing": True, "ema": 0.5, "mixed_precision": "bf16"}, 2, 3),
    ],
)
def test_a_run_is_the_same(
    unet: None, tmp_path: Path, changed: dict[str, Any], micro_batch: int, graphs: int
) -> None:
    """With the graphs that would be compiled, but not compiled: that takes a minute."""
    settings = {"max_steps": 3, "batch_size": 4, "eval_split": "validation[:1]", **changed}
    losses, scores = trained(build(tmp_path / "plain", **settings), micro_batch)
    run = build(tmp_path / "compiled", **settings)
    compile_network(run.network, "--compile", backend="eager")
    run.scoring.model = FewSizes(run.model, often=1)
    counted = torch._dynamo.utils.counters
    counted.clear()
    found, same = trained(run, micro_batch)
    torch.testing.assert_close(found, losses, rtol=1e-4, atol=1e-5)
    assert same["mean_iou"] == pytest.approx(scores["mean_iou"], abs=0.01)
    assert counted["stats"]["unique_graphs"] == graphs and not counted["graph_break"]


@pytest.mark.slow
def test_a_run_is_really_compiled(unet: None, tmp_path: Path) -> None:
    """One graph for training, with its backward pass; the few images of evaluation run eagerly."""
    settings = {"arch": UNET, "max_steps": 2, "eval_split": "validation[:4]"}
    losses, scores = trained(build(tmp_path / "plain", **settings))
    run = build(tmp_path / "compiled", **settings, compile=True)
    assert "--compile: the network as a whole will be compiled" in "".join(run.notes)
    counted = torch._dynamo.utils.counters
    counted.clear()
    found, same = trained(run)
    torch.testing.assert_close(found, losses, rtol=1e-4, atol=1e-6)
    assert same["mean_iou"] == pytest.approx(scores["mean_iou"], abs=1e-3)
    assert counted["stats"]["unique_graphs"] == 1 and counted["inductor"]
    assert len(run.scoring.model.calls) > 1, "images of several sizes"


def test_accelerates_own_compiling_is_refused_beside_it(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    asked = (*SHORT, "--dataset", f"folder:root={data}", "--compile")
    done = warm(*asked, cwd=tmp_path, ACCELERATE_DYNAMO_BACKEND="EAGER")
    assert_refused(
        done,
        "--compile: accelerate compiles the network already, by --dynamo_backend eager of "
        "`accelerate launch` or `accelerate config`; leave one of them out.",
    )
    assert not (tmp_path / "runs").exists()
