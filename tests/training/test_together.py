"""What only one of several processes meets is told by all, and none waits for another."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from torch import nn

import tired_plugin
from data_tools import Counts, chosen_metric, facts, random_sample
from run_tools import build
from segacc import registry
from segacc.data.batches import EvalData, Source, end_workers
from segacc.errors import SegaccError
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.scoring import Scoring
from segacc.labels import LabelMap
from segacc.loop import evaluate, train
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.testing.tools import forked

LABELS = LabelMap.plain(["a", "b", "c"])


class Even(SegmentationModel):
    """Takes multiples of 8 pixels."""

    size_rule = SizeRule(multiple=8)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Any) -> Logits:
        return Logits(self.layer(images))


def scored(sizes: list[tuple[int, int]], **more: int) -> dict[str, Any]:
    """Evaluate images of these sizes, taken in turn by the processes; return what is told."""
    network, whole = Even(), Protocol.parse("whole", "-")
    given = [random_sample(number, size=size) for number, size in enumerate(sizes)]
    data, counts = EvalData(Source(given, LABELS)), chosen_metric("counts", Counts)
    accelerator = Accelerator(cpu=True)
    scoring = Scoring(accelerator, network, network, data, whole, facts(), [counts], **more)
    try:
        evaluate(scoring, stop=lambda: False)
    except SegaccError as error:
        return {"kind": type(error).__name__, "text": str(error)}
    return {"images": scoring.num_images}


@pytest.mark.slow
@pytest.mark.launch
def test_an_image_that_does_not_fit_is_told_by_all(tmp_path: Path) -> None:
    """The second process meets it in its first batch, and goes on to its last one."""
    sizes = [(16, 24), (16, 20), (24, 16), (8, 8), (16, 16)]
    for found in forked(lambda: scored(sizes), tmp_path, 2):
        assert found == {
            "kind": "OptionError",
            "text": "--protocol whole: the network supports only multiples of 8 pixels, but an "
            "image is 16x20. Use --protocol whole:pad=8, which pads it.",
        }


def fill_shared_memory() -> None:
    """Give the second process, and those that it starts, a /dev/shm of one block."""
    if os.environ["RANK"] == "1":
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x20000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNS
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        small = ["mount", "-t", "tmpfs", "-o", "nr_blocks=1", "none", "/dev/shm"]
        subprocess.run(small, check=True)


def trained(folder: Path) -> dict[str, Any]:
    """Train with a worker, for which the second process has no room."""
    run = build(folder, arch="tired", num_workers=1, max_steps=3)
    fill_shared_memory()
    with pytest.raises(SegaccError) as error:
        list(train(run))
    end_workers()  # as at the exit of a process
    return {"kind": type(error.value).__name__, "text": str(error.value)}


def scored_without_room() -> dict[str, Any]:
    """Evaluate with a worker, for which the second process has no room."""
    fill_shared_memory()
    return scored([(16, 16)] * 5, num_workers=1)


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("job", ["train", "evaluate"])
def test_a_full_shared_memory_is_told_by_all(
    tmp_path: Path, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = SimpleNamespace(name="main", module="tired_plugin", load=lambda: tired_plugin)
    monkeypatch.setattr(registry, "installed_plugins", lambda: [("segacc-tired", "1.0", point)])
    if os.geteuid() or sys.platform != "linux":
        pytest.skip("a disk can be mounted by root alone")
    (tmp_path / "meeting").mkdir()
    work = scored_without_room if job == "evaluate" else lambda: trained(tmp_path)
    first, second = forked(work, tmp_path / "meeting", 2)
    assert first == second
    assert first["text"].startswith("--num-workers 1: the shared memory /dev/shm (0.0 MB, of which")
    if job == "train":
        told = json.loads((tmp_path / "run" / "exit.json").read_text())
        assert (told["error"], told["code"]) == (first["text"], 2)
