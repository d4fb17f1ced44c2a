"""The moving average of the weights: its definition, and what a run does with it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cli_tools import Warm, assert_succeeded, metrics
from segacc import Segmenter, loop
from segacc.errors import OptionError
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.events import Evaluated, StepDone
from segacc.training.optim.ema import Ema
from segacc.training.plan import make_plan
from segacc.training.saving.model import build_ema
from segacc.training.setup import build_run

pytest_plugins = ["cli_fixtures"]

TINY = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--aug", "flip"),
    *("--crop-size", "48x64", "--batch-size", "2", "--num-workers", "0", "--num-pictures", "1"),
    *("--log-every", "1"),
)


class Small(nn.Module):
    """A network with batch norm, a frozen layer, a buffer of its own, and a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.frozen.weight
        self.register_buffer("progress", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tied(self.frozen(self.norm(self.conv(images)).mean((2, 3))))


def train_a_bit(model: Small, steps: int) -> Any:
    """Yield the network after each step."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        model(torch.randn(4, 3, 8, 8) + step).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.progress.fill_(step)
        yield step


def test_it_is_torchs_average_with_a_warm_up() -> None:
    model = Small()
    ema, theirs = Ema(model, 0.4), AveragedModel(model, use_buffers=True)
    theirs.n_averaged.fill_(1)  # its first update would be a copy
    for step in train_a_bit(model, 9):
        decay = min(0.4, (1 + step) / (10 + step))
        theirs.avg_fn = lambda mean, now, _, decay=decay: decay * mean + (1 - decay) * now
        theirs.update_parameters(model)
        ema.update(model)
    wanted = dict(theirs.module.state_dict())
    for name, average in ema.averages.items():
        if name in ("progress", "norm.num_batches_tracked"):  # copied
            assert torch.equal(average, model.state_dict()[name])
        else:
            torch.testing.assert_close(average, wanted[name], rtol=1e-6, atol=1e-7)
    assert ema.updates == 9 and decay == 0.4
    assert not torch.equal(ema.averages["norm.running_var"], model.norm.running_var)


def test_the_weights_come_back_bit_for_bit() -> None:
    model = Small()
    ema = Ema(model, 0.9)
    for _ in train_a_bit(model, 3):
        ema.update(model)
    raw = {name: one.clone() for name, one in model.state_dict().items()}
    average = {name: one.clone() for name, one in ema.averages.items()}
    with pytest.raises(ZeroDivisionError), ema.in_place_of(model):
        for name, one in average.items():
            assert torch.equal(model.state_dict()[name], one)
        assert model.tied.weight is model.frozen.weight
        raise ZeroDivisionError
    assert all(torch.equal(one, raw[name]) for name, one in model.state_dict().items())
    assert all(torch.equal(one, average[name]) for name, one in ema.averages.items())


def test_a_checkpoint_holds_it(tmp_path: Path) -> None:
    model = Small()
    ema = Ema(model, 0.9)
    for _ in train_a_bit(model, 3):
        ema.update(model)
    ema.save(tmp_path)
    other = Ema(Small(), 0.9)
    other.load(tmp_path)
    assert other.updates == 3
    assert all(torch.equal(one, ema.averages[name]) for name, one in other.averages.items())


def run_of(folder: Path, data: Path, **more: Any) -> Any:
    values = {
        **{"arch": "segformer:variant=tiny", "weights": "none", "aug": ("flip",)},
        **{"crop_size": (48, 64), "batch_size": 2, "num_workers": 0, "lr": 0.03},
        **{"dataset": f"folder:root={data}", "output_dir": folder, "max_steps": 24},
        **{"eval_every": 12, "log_every": 1, "num_pictures": 1, **more},
    }
    return build_run(make_plan([Layer(values, "test")], load_registry()))


@pytest.mark.slow
def test_a_run_scores_both_and_saves_the_average(data: Path, tmp_path: Path) -> None:
    plain = run_of(tmp_path / "plain", data)
    raw = [event for event in loop.train(plain) if isinstance(event, Evaluated)]

    run = run_of(tmp_path / "run", data, ema=0.7)
    mean = {n: one.detach().double().numpy().copy() for n, one in run.network.named_parameters()}
    seen: list[Evaluated] = []
    for event in loop.train(run):
        if isinstance(event, StepDone):
            decay = min(0.7, event.step / (9 + event.step))
            for name, now in run.network.named_parameters():
                mean[name] = decay * mean[name] + (1 - decay) * now.detach().double().numpy()
        elif isinstance(event, Evaluated):
            seen.append(event)

    # the weights that are trained are those of a run without an average
    for name, one in plain.network.state_dict().items():
        assert torch.equal(one, run.network.state_dict()[name])
    assert [(one.step, one.terms.weights) for one in seen] == [
        *((12, "raw"), (12, "ema"), (24, "raw"), (24, "ema"))
    ]
    assert [one.scores for one in seen[::2]] == [one.scores for one in raw]
    assert not any(one.best for one in seen[::2]) and seen[1].best
    assert seen[3].scores != seen[2].scores

    saved = Segmenter.from_pretrained(run.folder / "last", "cpu")
    for name, found in saved.network.named_parameters():
        np.testing.assert_allclose(found.detach().numpy(), mean[name], rtol=1e-4, atol=1e-6)
    assert saved.labels == run.labels
    side = json.loads((run.folder / "last" / "segacc.json").read_text())
    assert side["terms"]["weights"] == "ema"
    assert side["scores"]["mean_iou"] == seen[3].scores["mean_iou"]
    card = " ".join((run.folder / "last" / "README.md").read_text().split())
    assert "The weights are an exponential moving average with decay 0.7." in card
    assert "EMA weights" in card


def test_deepspeeds_weights_are_not_followed(data: Path, tmp_path: Path) -> None:
    values = {"arch": "segformer", "dataset": f"folder:root={data}", "ema": 0.9}
    plan = make_plan([Layer(values, "command line")], load_registry())
    strange: Any = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, is_fsdp2=False)
    with pytest.raises(OptionError) as error:
        build_ema(plan, Small(), strange)
    assert str(error.value) == (
        "--ema: not supported with DEEPSPEED; the only sharding it supports is FSDP2."
    )


@pytest.mark.slow
def test_the_terminal_files_and_curves_tell_both(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = (*TINY, "--dataset", f"folder:root={data}", "--max-steps", "4", "--eval-every", "2")
    done = assert_succeeded(warm(*given, "--ema", "0.9", "--output-dir", "run", cwd=tmp_path))
    lines = done.stdout.splitlines()
    told = [line for line in lines if line.startswith("evaluation at step")]
    assert [" s, EMA weights" in line for line in told] == [False, True] * 2
    assert " at step 2 (EMA))" in done.stdout or " at step 4 (EMA))" in done.stdout
    found = [(row["step"], row["weights"]) for row in metrics(tmp_path / "run", "eval")]
    assert found == [(2, "raw"), (2, "ema"), (4, "raw"), (4, "ema")]
    pictures = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    steps = {f"step-0000000{step}{kind}.png" for step in (2, 4) for kind in ("", "-ema")}
    assert pictures == {"curves.png", *steps}
    again = ("evaluate", "run/last", "--dataset", f"folder:root={data}")
    assert ", EMA weights, " in assert_succeeded(warm(*again, cwd=tmp_path)).stdout
    scored = json.loads((tmp_path / "run/last/evaluation/evaluation.json").read_text())
    (*_, newest) = metrics(tmp_path / "run", "eval")
    assert scored["weights"] == "ema"
    assert scored["scores"]["mean_iou"] == newest["mean_iou"]
    refused = warm("--resume", "run", "--ema", "0.8", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--ema: 0.8: the run in " in refused.stderr
    assert "was started with 0.9, which --resume cannot change." in refused.stderr
