"""One run of benchmarks/exactness.py, on each of the processes that accelerate launched.

    accelerate launch benchmarks/exactness_run.py segacc|usual float32|float64 IN OUT

`segacc` is segacc's own loop. `usual` has the same network, data, order, optimizer and schedule,
and a step as most write it with accelerate: the mean over each micro-batch's labelled pixels, of
which accelerate and DDP take the mean. IN is JSON of settings; OUT gets what came of it, and OUT
with the ending .npy the trained weights before and after. float64 is that of weights, gradients,
optimizer and loss.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc import loop
from segacc.contracts import IGNORE
from segacc.data.items import Batch
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.events import StepDone
from segacc.training.feed import Meter, step_batches
from segacc.training.limits.signals import StopSignal
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run


def segacc_losses(run: Run) -> list[float]:
    """Train and score with segacc's loop; return the loss of each step."""
    return [event.loss for event in loop.train(run) if isinstance(event, StepDone)]


def usual_losses(run: Run) -> list[float]:
    """Train with means of means and score; return what such a loop logs for each step."""
    losses = []
    with StopSignal() as signal:
        for window in step_batches(run, Meter(run), signal):
            mean = usual_step(run, window)
            losses.append(float(run.accelerator.reduce(mean, "mean")))
            run.progress.step += 1
    loop.evaluate(run.scoring)
    run.accelerator.end_training()
    return losses


def usual_step(run: Run, window: list[Batch]) -> Tensor:
    """Take one optimizer step, and return the mean of the micro-batches' means."""
    run.begin_step()
    means = []
    for batch in window:
        with run.accelerator.accumulate(run.model):
            logits = run.model(run.network.normalize(batch.images)).main
            full = F.interpolate(logits, size=batch.labels.shape[-2:], mode="bilinear")
            loss = F.cross_entropy(full, batch.labels, ignore_index=IGNORE)
            run.accelerator.backward(loss)
            if run.accelerator.sync_gradients:
                run.clip_gradients()
            run.optimizer.step()
            run.optimizer.zero_grad()
        means.append(loss.detach())
    return torch.stack(means).mean()


def trained(run: Run) -> Any:
    """Return all trained weights as one row: (P,) of the run's precision."""
    rows = [p.detach().flatten() for p in run.network.parameters() if p.requires_grad]
    return torch.cat(rows).numpy().copy()


@torch.no_grad()
def scored_alone(run: Run) -> Tensor:
    """Count again what the run counted, in this process alone: (K, K) int64, in plain torch."""
    network, source, classes = run.network, run.scoring.data.source, run.facts.num_classes
    total = torch.zeros(classes * classes, dtype=torch.int64)
    for place in range(len(source)):
        image, label = source.read(place)
        logits = network(network.normalize(image[None])).main
        full = F.interpolate(logits, size=label.shape, mode="bilinear")
        counted = label != IGNORE
        cells = label[counted].long() * classes + full[0].argmax(0)[counted]
        total += cells.bincount(minlength=classes * classes)
    return total.view(classes, classes)


def main() -> None:
    """Train, score, write."""
    way, precision, settings, result = *sys.argv[1:3], *map(Path, sys.argv[3:])
    torch.set_default_dtype(getattr(torch, precision))
    layer = Layer(json.loads(settings.read_text()), str(settings))
    run = build_run(make_plan([layer], load_registry()))
    before = trained(run)
    losses = {"segacc": segacc_losses, "usual": usual_losses}[way](run)
    if run.accelerator.is_main_process:
        metric = run.scoring.counted["mean_iou"]
        matrix = metric.state["confusion"].cpu()
        told = {
            "processes": run.accelerator.num_processes,
            "losses": losses,
            "confusion": matrix.tolist(),
            "mean_iou": metric.compute()["mean_iou"],
            "alone": torch.equal(scored_alone(run), matrix),
        }
        result.write_text(json.dumps(told))
        np.save(result.with_suffix(".npy"), np.stack([before, trained(run)]))


if __name__ == "__main__":
    main()
