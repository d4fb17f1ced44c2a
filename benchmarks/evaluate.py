"""Time the evaluation of SegFormer-b0 beside the tutorial's recipe and the forward passes alone.

    python benchmarks/evaluate.py                 50 images of 512x512, 150 classes, on all cores
    python benchmarks/evaluate.py --rounds 1 --images 2 --many 4 --side 64 --steps 1   the suite

    tutorial    Trainer.evaluate with image processor and mean_iou (benchmarks/tutorial.py)
    segacc      what `segacc evaluate` scores with, image by image: mean_iou and per-class scores
    batches     the same with `--eval-batch-size 8`
    untrained   as segacc, with random weights: any class can have the highest logit anywhere
    forward     transformers' network alone on a fixed batch, as often

The network is trained for some steps first, as one is that is evaluated: where few classes can
have the highest logit, the others are not resized to the image. The ways take turns. Times are
medians over rounds; `ratio` is tutorial / segacc and `of_forward` forward / segacc, medians of the
rounds' own ratios. `memory_mb` is the high-water mark of a process of its own that scores 50
images, as Linux tells it, and for segacc `memory_many_mb` that for 500; `memory` is their ratio.
benchmarks/results/evaluate.json holds the figures. Exit code 1 if segacc needs GROWTH more for 500
images than for 50.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import SegformerForSemanticSegmentation
from tutorial import PICTURES, SIDE, network, over, squares, trainer

from segacc import TrainConfig, loop, train
from segacc.commands.evaluate.command import check, load
from segacc.evaluation.memory import peak_memory
from segacc.settings.sources import Layer

RESULTS = Path(__file__).parent / "results" / "evaluate.json"
PACKAGES = ("segacc", "torch", "transformers", "accelerate")
BATCH, CPU = 2, torch.device("cpu")
WAYS = ("tutorial", "segacc", "batches", "untrained", "forward")
GROWTH = 32
"""Megabytes by which memory may differ."""


def main() -> int:
    """Measure, print, write, and tell whether memory is flat."""
    typed = parse()
    if typed.peak:
        print(peak(typed.peak, typed.model, typed.images, typed.side))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder), typed.steps, typed.side)
        ways = {
            name: way(name, models[name == "untrained"], Path(folder), typed.images, typed.side)
            for name in WAYS
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(typed.rounds):
            for name, call in ways.items():
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
            told = "  ".join(f"{name} {times[-1]:.1f} s" for name, times in taken.items())
            print(f"round {number + 1}:  {told}", flush=True)

        result: dict[str, Any] = {
            "images": typed.images,
            "side": typed.side,
            "steps": typed.steps,
            "rounds": typed.rounds,
            "threads": torch.get_num_threads(),
            "images_per_second": {
                name: typed.images / median(times) for name, times in taken.items()
            },
            "ratio": over(taken["tutorial"], taken["segacc"]),
            "of_forward": over(taken["forward"], taken["segacc"]),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        }
        if typed.many:
            measured = partial(in_a_process, model=models[0], side=typed.side)
            result["memory_mb"] = {name: measured(name, typed.images) for name in WAYS[:2]}
            many = measured("segacc", typed.many)
            result["memory_many_mb"] = {"images": typed.many, "segacc": many}
            result["memory"] = many / result["memory_mb"]["segacc"]
    for key in ("images_per_second", "ratio", "of_forward", "memory_mb", "memory_many_mb"):
        print(key, json.dumps(result.get(key)))
    if typed.output:
        typed.output.write_text(json.dumps(result, indent=1) + "\n")
    return int(not flat(result))


def flat(result: dict[str, Any]) -> bool:
    """Tell whether ten times the images take about as much memory."""
    if "memory" not in result:
        return True
    few, many = result["memory_mb"]["segacc"], result["memory_many_mb"]["segacc"]
    return bool(many <= few + GROWTH)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--many", type=int, default=500, help="0: no memory")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--steps", type=int, default=100, help="of training before")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_models(folder: Path, steps: int, side: int) -> tuple[Path, Path]:
    """Write the folder of a network that segacc has trained for some steps, and a random one."""
    torch.manual_seed(0)
    network().save_pretrained(folder / "random")
    config = TrainConfig(
        arch="segformer",
        weights=str(folder / "random"),
        dataset=f"folder:root={PICTURES}",
        crop_size=side,
        batch_size=2,
        lr=6e-4,
        max_steps=steps,
        eval_every=steps,
        output_dir=folder / "run",
    )
    for _ in train(config):
        pass
    return folder / "run" / "last", folder / "random"


def way(name: str, model: Path, folder: Path, count: int, side: int) -> Callable[[], Any]:
    """Return what evaluates so many images in one of the ways, with the weights of a folder."""
    data = folder / f"data-{count}"
    found = squares(data, count, side) if not data.exists() else sorted_pairs(data)
    network = SegformerForSemanticSegmentation.from_pretrained(model)
    if name == "tutorial":
        built = trainer(network, folder / "trainer", found, evaluated=count)
        return lambda: built.evaluate()
    if name in ("segacc", "batches", "untrained"):
        values = {"dataset": f"folder:root={data}", "split": "validation"}
        more = {"eval_batch_size": 8} if name == "batches" else {}
        layer = Layer({**values, **more, "output_dir": folder / name}, "command line")
        scoring = load(check(str(model), layer)).scoring
        return lambda: loop.evaluate(scoring)
    images = torch.randn(BATCH, 3, side, side)

    def forward() -> None:
        with torch.inference_mode():
            for _ in range(count // BATCH):
                network.eval()(images)

    return forward


def sorted_pairs(data: Path) -> list[tuple[Path, Path]]:
    """List the images and labels that `squares` wrote."""
    return list(
        zip(sorted(data.glob("images/*/*")), sorted(data.glob("annotations/*/*")), strict=True)
    )


def in_a_process(name: str, count: int, model: Path, side: int) -> float:
    """Return the megabytes that one of the ways takes for so many images, in a process."""
    command = [sys.executable, __file__, "--peak", name, "--model", str(model)]
    command += [f"--images={count}", f"--side={side}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(name: str, model: Path, count: int, side: int) -> float:
    """Evaluate so many images; return the high-water mark of this process, in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        way(name, model, Path(folder), count, side)()
        return peak_memory(CPU) / 1e6


if __name__ == "__main__":
    sys.exit(main())
