"""No accumulation window is ever partial: an endless row of epochs is cut into full ones."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cli_tools import write_data
from segacc.loop import train_step
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.feed import Meter, step_batches
from segacc.training.limits.signals import StopSignal
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run

COUNT, BATCH, ACCUMULATION, STEPS = 5, 2, 2, 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training images; in each another number of rows is ignored."""
    root = tmp_path_factory.mktemp("five") / "data"
    write_data(root, counts={"train": COUNT, "validation": 1})
    for number in range(COUNT):
        path = root / "annotations" / "train" / f"train{number}.png"
        label = np.array(Image.open(path))
        label[: 9 * number] = 255
        Image.fromarray(label).save(path)
    return root


def build(folder: Path, data: Path, **more: Any) -> Run:
    values = {
        **{"arch": "segformer:variant=tiny,drop_path=0,dropout=0", "weights": "none"},
        **{"dataset": f"folder:root={data}", "crop_size": (48, 64), "num_workers": 0},
        **{"batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATION, "aug": ("none",)},
        **{"max_steps": STEPS, "freeze_batchnorm": True, "max_grad_norm": 1e9, "lr": 1e-3},
        **{"output_dir": folder / "run", **more},
    }
    return build_run(make_plan([Layer(values, "test")], load_registry()))


def plain_gradients(run: Run, window: Any) -> dict[str, torch.Tensor]:
    """Take the gradient in one pass over the whole window, mean over its valid pixels."""
    images = torch.cat([run.network.normalize(batch.images) for batch in window])
    labels = torch.cat([batch.labels for batch in window])
    run.network.train()
    logits = F.interpolate(run.network(images).main, size=labels.shape[-2:], mode="bilinear")
    loss = F.cross_entropy(logits, labels, ignore_index=255)
    trained = {name: p for name, p in run.network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()))
    return dict(zip(trained, found, strict=True))


def test_each_step_has_the_whole_effective_batch_and_its_plain_gradient(
    data: Path, tmp_path: Path
) -> None:
    run = build(tmp_path, data)
    named, seen, found = dict(run.network.named_parameters()), [], {}

    def keep(*_: Any) -> None:
        found.update({name: one.grad for name, one in named.items() if one.requires_grad})

    run.optimizer.optimizer.register_step_pre_hook(keep)
    with StopSignal() as signal:
        for window in step_batches(run, Meter(run), signal):
            ids = [name for batch in window for name in batch.ids]
            assert [len(batch.ids) for batch in window] == [BATCH] * ACCUMULATION
            wanted = plain_gradients(run, window)
            valid = train_step(run, window).valid
            run.progress.step += 1
            rows = [48 - 9 * int(name.removeprefix("train")) for name in ids]
            assert valid.item() == 64 * sum(rows)
            assert set(found) == set(wanted)
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-6)
            seen += ids
    # 10 steps of 4 are 8 epochs of 5, though 5 is no multiple of 4: windows reach over their ends
    assert len(seen) == STEPS * BATCH * ACCUMULATION
    assert set(Counter(seen).values()) == {STEPS * BATCH * ACCUMULATION // COUNT}
    for start in range(0, len(seen), COUNT):
        assert len(set(seen[start : start + COUNT])) == COUNT
