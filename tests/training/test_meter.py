"""`data_wait`: what the data take is told as waiting, what the network takes is not."""

import time
from pathlib import Path
from typing import Any

from run_tools import build
from segacc.data.batches import Source
from segacc.loop import train
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
