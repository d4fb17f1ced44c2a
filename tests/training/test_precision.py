"""`--mixed-precision auto` chooses by the device alone, and the run keeps what was chosen."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator

from run_tools import build
from segacc import TrainConfig
from segacc.loop import train
from segacc.training.defaults import faster_layout, faster_precision
from segacc.training.events import StepDone
from segacc.training.processes import bf16_gain
from segacc.training.run import Run


def losses(run: Run) -> list[list[float]]:
    found = [list(one.losses.values()) for one in train(run) if isinstance(one, StepDone)]
    run.lock.release()
    return found


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU may choose bf16")
def test_on_a_cpu_it_is_float32_also_when_resumed(tmp_path: Path) -> None:
    plain = losses(build(tmp_path / "plain", max_steps=2, mixed_precision="no"))
    assert losses(build(tmp_path, max_steps=1, mixed_precision="auto")) == plain[:1]
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert yaml.safe_load(written)["mixed_precision"] == "no"
    reason = "chosen: auto, bf16 is not known to be faster on this device"
    assert [line for line in written.splitlines() if line.endswith(reason)]
    again = build(tmp_path, resume=str(tmp_path / "run"), max_steps=2)
    assert again.config.mixed_precision == again.accelerator.mixed_precision == "no"
    assert losses(again) == plain[1:]


@pytest.mark.parametrize(
    ("capability", "more", "gain"),
    [
        ((8, 0), {}, "CUDA capability 8.0"),
        ((9, 0), {}, "CUDA capability 9.0"),
        ((7, 5), {}, ""),
        ((8, 0), {"ACCELERATE_USE_CPU": "true"}, ""),
    ],
)
def test_gpus_that_compute_in_bf16_are_recommended_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], more: dict[str, str], gain: str
) -> None:
    """As if this machine had such a GPU."""
    device = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **given: device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    assert bf16_gain() == gain
    accelerator = Accelerator(cpu=True)
    told = [f"bf16 is faster on this device ({gain}): --mixed-precision auto"] if gain else []
    assert faster_precision(accelerator, TrainConfig()) == told
    assert faster_precision(accelerator, TrainConfig(mixed_precision="no")) == []


@pytest.mark.parametrize(
    ("arch", "chosen", "told"),
    [
        ("mobilenet_v2", {"mixed_precision": "bf16"}, True),
        ("mobilenet_v2", {"mixed_precision": "bf16", "channels_last": True}, False),
        ("mobilenet_v2", {}, False),
        ("segformer:variant=b0", {"mixed_precision": "bf16"}, False),
    ],
)
def test_networks_of_convolutions_are_recommended_channels_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, chosen: dict[str, Any], told: bool
) -> None:
    run = build(tmp_path, arch=arch, **chosen)
    assert faster_layout(run) == []
    monkeypatch.setattr("segacc.training.defaults.bf16_gain", lambda: "CUDA capability 9.0")
    line = "convolutions are usually faster with --channels-last on this device"
    assert faster_layout(run) == [line] * told
