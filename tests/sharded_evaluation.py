"""Evaluates images of many sizes through windows, on a network that FSDP2 shards over processes.

Does so twice: image by image, and in batches of one size that are seen at two scales, mirrored too.
Prints the confusion counts on the main process. Start it with torchrun, or alone for the reference.
"""

import io
import json
import os
import sys
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from PIL import Image
from torch import Tensor, nn

from segacc.data import EvalData, Source
from segacc.hookspecs import Sample
from segacc.labels import LabelMap
from segacc.loop import evaluate
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.processes import start_accelerator
from segacc.protocols import Protocol, default_protocol
from segacc.scoring import Scoring
from sharded_segacc import SETTINGS

SIZES = [(32, 32), (70, 100), (33, 32), (120, 31), (20, 20), (32, 32), (32, 32)]
MEAN = "tta:scales=1/1.5,crop=32,stride=20"


class Only32(SegmentationModel):
    """Takes 32x32 pixels and nothing else."""

    size_rule = SizeRule(fixed=(32, 32))
    _no_split_modules = ("Conv2d",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 5, stride=2, padding=2)

    def forward(self, images: Tensor) -> Logits:
        assert images.shape[2:] == (32, 32)
        return Logits(self.layer(images))


class Counts:
    """A metric: the confusion itself."""

    def __init__(self) -> None:
        self.state = {"counts": torch.zeros(3, 3, dtype=torch.int64)}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        pairs = torch.bincount((3 * labels + predictions).ravel(), minlength=9)
        self.state["counts"] += pairs.view(3, 3)

    def compute(self) -> dict[str, Any]:
        counts = self.state["counts"].tolist()
        return {f"{k}{j}": counts[k][j] for k in range(3) for j in range(3)}


def encode(array: Any) -> bytes:
    """Write a PNG into memory."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue()


def samples() -> list[Sample]:
    """Draw images (H, W, 3) and labels of 3 classes."""
    random = np.random.default_rng(0)
    return [
        Sample(
            encode(random.integers(0, 256, (*size, 3), np.uint8)),
            encode(random.integers(0, 3, size, np.uint8)),
            str(number),
        )
        for number, size in enumerate(SIZES)
    ]


def main() -> None:
    """Evaluate, and say how much was sharded."""
    if "WORLD_SIZE" in os.environ:
        os.environ.update(SETTINGS)
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    accelerator = start_accelerator("no")
    torch.manual_seed(0)
    network = Only32()
    optimizer = torch.optim.AdamW(network.parameters())
    model, _ = accelerator.prepare(network, optimizer)
    scores = []
    for size, protocol in (
        (1, default_protocol(network, (32, 32))),
        (2, Protocol.parse(MEAN, "-")),
    ):
        scoring = Scoring(
            accelerator,
            model,
            network,
            EvalData(Source(samples(), LabelMap.plain(["a", "b", "c"]))),
            lambda: {"counts": Counts()},
            protocol,
            eval_batch_size=size,
        )
        scores.append(evaluate(scoring)[0])
    sharded = all(type(one).__name__ == "DTensor" for one in model.parameters())
    if accelerator.is_main_process:
        sys.stdout.write(json.dumps({"sharded": sharded, "scores": scores}) + "\n")


if __name__ == "__main__":
    main()
