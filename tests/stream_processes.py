"""Loads a stream on as many processes as were launched, goes on from a checkpoint, and scores.

`stream_processes.py FOLDER`; the main process prints one line of JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from data_tools import Counts, chosen_metric, facts, tiny_segformer
from segacc.__main__ import end_with
from segacc.data.augment import Pipeline
from segacc.data.batches import EvalData, Source
from segacc.data.order import Cut
from segacc.data.streams import TrainStream
from segacc.evaluation.protocol import default_protocol
from segacc.evaluation.scoring import Scoring, scored_data
from segacc.loop import evaluate
from segacc.plugins.datasets.shards import ShardsOptions, build_shards
from segacc.training import checkpoint
from segacc.training.processes import start_accelerator

STEPS, STOP, WORKERS = 30, 7, 2


def load(data: TrainStream, accelerator: Any, first: int, positions: list[Any]) -> list[Any]:
    """Load this process's batches."""
    process, processes = accelerator.process_index, accelerator.num_processes
    cut = Cut(batch_size=1, process=process, processes=processes)
    loader = data.loader(
        cut, range(first, STEPS), positions=positions, num_workers=WORKERS, pin_memory=False
    )
    return list(loader)


def train(splits: Any, accelerator: Any, folder: Path) -> list[dict[str, Any]]:
    """Load, and load again from a checkpoint: tell what each process saw."""
    data = TrainStream(splits.splits["train"], splits.labels, 3, Pipeline(), 0)
    start: list[Any] = [None] * WORKERS
    whole = load(data, accelerator, 0, start)
    progress = checkpoint.Progress(step=STOP, positions=list(start))
    for batch in whole[:STOP]:
        reader, place = batch.position
        progress.positions[reader] = place
    place = checkpoint.save(folder / "checkpoints", progress, accelerator, keep=1)
    stored = checkpoint.read(place).positions
    again = load(data, accelerator, STOP, stored[accelerator.process_index])
    told = {
        "seen": [(batch.position[1]["epoch"], batch.ids[0]) for batch in whole],
        "again": [(one.ids, one.seeds) for one in again]
        == [(one.ids, one.seeds) for one in whole[STOP:]],
        "own": stored[accelerator.process_index] == progress.positions,
        "stored": len(stored),
    }
    gathered: list[dict[str, Any]] = gather_object([told])
    return gathered


def score(splits: Any, accelerator: Any) -> dict[str, Any]:
    """Evaluate the validation split as a stream, and as a list."""
    network = tiny_segformer()
    model = accelerator.prepare(network)
    stream = splits.splits["validation"]
    samples = [sample for shard in stream.shards for sample, _ in stream.read(shard, None)]
    ways = {
        "stream": scored_data(stream, splits.labels, 3),
        "list": EvalData(Source(samples, splits.labels)),
    }
    told = {}
    for name, data in ways.items():
        protocol = default_protocol(network, (32, 32))
        metrics = [chosen_metric("counts", Counts)]
        scoring = Scoring(accelerator, model, network, data, protocol, facts(), metrics)
        scores, _ = evaluate(scoring)
        told[name] = {"scores": scores, "images": scoring.num_images}
    return told


def main(folder: Path) -> int:
    """Do both."""
    accelerator = start_accelerator("no")
    given = {split: f"{folder}/{split}-*.tar" for split in ("train", "validation")}
    splits = build_shards(ShardsOptions(**given, buffer=12))
    told = {"train": train(splits, accelerator, folder), **score(splits, accelerator)}
    if accelerator.is_main_process:
        sys.stdout.write(json.dumps({**told, "processes": accelerator.num_processes}) + "\n")
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    end_with(lambda: main(Path(sys.argv[1])))
