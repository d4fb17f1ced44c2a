"""Evaluates images of many sizes through windows, on a network that FSDP2 shards over processes.

Does so twice: image by image, and in batches of one size that are seen at two scales, mirrored too.
Prints the confusion counts on the main process. Start it with torchrun, or alone for the reference.
With the argument `broken` the images are streamed, and on the second process the connection breaks:
each process prints what it was told, when the stream was opened and when it was scored.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_tools import Counts, chosen_metric, encode, facts
from segacc.__main__ import end_with
from segacc.data.batches import EvalData, Source
from segacc.data.streams import EvalStream
from segacc.errors import DataError
from segacc.evaluation.protocol import Protocol, default_protocol
from segacc.evaluation.scoring import Scoring
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap
from segacc.loop import evaluate
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.training.processes import on_all, start_accelerator
from sharded_segacc import take_path_of_gpus

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


METRICS = [chosen_metric("counts", Counts)]


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


def broken(shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
    """Read a shard, on the second process only two samples of it."""
    for number, sample in enumerate(samples()):
        if number == 2 and os.environ["RANK"] == "1":
            raise ConnectionResetError("gone")
        yield sample, number + 1


def refused(scoring: Scoring) -> list[str]:
    """Collect what is said of a stream that breaks."""
    told = []
    for call in (lambda: scoring.data.example_ids(4), lambda: evaluate(scoring)):
        try:
            on_all(scoring.accelerator, call)
        except DataError as error:
            told.append(str(error))
    return told


def main() -> int:
    """Evaluate, and say how much was sharded."""
    if "WORLD_SIZE" in os.environ:
        take_path_of_gpus()
    accelerator = start_accelerator("no")
    torch.manual_seed(0)
    network = Only32()
    optimizer = torch.optim.AdamW(network.parameters())
    model, _ = accelerator.prepare(network, optimizer)
    labels = LabelMap.plain(["a", "b", "c"])
    if sys.argv[1:] == ["broken"]:
        far = EvalStream(Stream(shards=("far.tar",), read=broken), labels, 3)
        whole = default_protocol(network, (32, 32))
        scoring = Scoring(accelerator, model, network, far, whole, facts(), METRICS)
        sys.stdout.write(json.dumps(refused(scoring)) + "\n")
        accelerator.end_training()
        return 0
    scores = []
    for size, protocol in (
        (1, default_protocol(network, (32, 32))),
        (2, Protocol.parse(MEAN, "-")),
    ):
        scoring = Scoring(
            accelerator,
            model,
            network,
            EvalData(Source(samples(), labels)),
            protocol,
            facts(),
            METRICS,
            eval_batch_size=size,
        )
        scores.append(evaluate(scoring)[0])
    sharded = all(type(one).__name__ == "DTensor" for one in model.parameters())
    if accelerator.is_main_process:
        sys.stdout.write(json.dumps({"sharded": sharded, "scores": scores}) + "\n")
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    end_with(main)
