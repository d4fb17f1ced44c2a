"""`data_wait`: what the data take is told as waiting, what the network takes is not; and `mfu`."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from run_tools import build
from segacc.data.batches import Source
from segacc.loop import train
from segacc.model import arithmetic
from segacc.training.events import StepDone

STEPS, BATCH = 3, 2
READ, COMPUTE = 0.05, 0.3


class Slow(Source):
    """A split on a slow disk."""

    def read(self, index: int) -> Any:
        time.sleep(READ)
        return super().read(index)


def test_only_the_data_are_waited_for(tmp_path: Path) -> None:
    run = build(tmp_path, max_steps=STEPS, log_every=STEPS, batch_size=BATCH)
    data: Any = run.train_data
    source = data.source
    data.source = Slow(source.samples, source.labels, source.num_channels)
    run.network.register_forward_pre_hook(
        lambda network, _: time.sleep(COMPUTE) if network.training else None
    )
    logged = [one for one in train(run) if isinstance(one, StepDone) and one.logged]
    assert [one.step for one in logged] == [1, STEPS]
    for event, steps in zip(logged, (1, STEPS - 1), strict=True):  # since the last logged step
        seconds = steps * BATCH / event.images_per_second
        waited = event.data_wait * seconds
        assert waited >= steps * BATCH * READ
        assert seconds - waited >= steps * COMPUTE


def test_the_share_of_the_peak_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device of a known peak; the operations are those of the run's own passes."""
    monkeypatch.setitem(arithmetic.PEAKS, "cpu", 2.0)
    run = build(tmp_path, max_steps=STEPS, log_every=1, mixed_precision="bf16", batch_size=BATCH)
    counter: Any = FlopCounterMode
    with counter(display=False) as mode:
        run.network(torch.rand(BATCH, 3, *run.facts.crop_size)).main.sum().backward()
    run.network.zero_grad()
    image = mode.get_total_flops() / BATCH
    steps = [one for one in train(run) if isinstance(one, StepDone)]
    assert len(steps) == STEPS
    for step in steps:
        assert step.mfu == pytest.approx(image * step.images_per_second / 2e12)
