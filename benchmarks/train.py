"""Time training steps of SegFormer-b0 beside the tutorial's recipe and the network alone.

    python benchmarks/train.py                    512x512, 150 classes, batch 2, on all cores
    python benchmarks/train.py --rounds 1 --steps 1 --side 64      what the suite runs
    python benchmarks/train.py --compile segformer mobilenet_v2    what torch.compile gains

    tutorial    transformers' Trainer with image processor and ColorJitter (benchmarks/tutorial.py)
    segacc      `segacc train` with the same pictures and augmentation, settings at their defaults
    bare        forward pass, `logits.mean()` as loss, backward pass and AdamW, on a fixed batch

In each round the ways take turns for some steps; the first step of a turn does not count. Times are
medians over rounds; `ratio` is tutorial / segacc, and `overhead` segacc / bare, medians of the
rounds' own ratios. `memory_mb` is the most memory (PSS, as Linux tells it) of all processes of one
way that trains for some steps and evaluates so many images of ADE20K, and `memory` the ratio segacc
/ tutorial. benchmarks/results/train.json holds the figures.

With `--compile`, a forward pass of one image in evaluation, and a training step without data and
loss (forward and backward pass of two images), are timed eager and compiled in turn, for the
network compiled as a whole and in blocks. `gain` is the median over rounds of eager / compiled;
`compiling` is the first compiled call, with an empty folder of torch's compiled kernels.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil
import torch
from torch._inductor.utils import fresh_cache
from tutorial import CLASSES, PICTURES, SIDE, Clock, network, over, pairs, trainer

from segacc import loop
from segacc.commands.plugins.datasheet import construct
from segacc.evaluation.compiled import compile_network, eagerly
from segacc.registry import load_registry
from segacc.settings.options import decode, parse_component
from segacc.settings.sources import Layer
from segacc.training.events import StepDone
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run

RESULTS = Path(__file__).parent / "results" / "train.json"
PACKAGES = ("segacc", "torch", "transformers", "accelerate")
BATCH = 2
Turn = Callable[[int], float]
"""The number of steps to the mean seconds of a step, without the first."""


def main() -> None:
    """Measure, print and write."""
    typed = parse()
    if typed.alone:
        alone(typed.alone, typed.steps, typed.evaluated, typed.side)
        return
    for name, what, parts in product(typed.compile, ("forward", "step"), ("whole", "blocks")):
        with fresh_cache():
            print(compiled(name, what, parts, typed), flush=True)
    if typed.compile:
        return
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "tutorial": tutorial(Path(folder)),
            "segacc": segacc(Path(folder), typed.side),
            "bare": bare(typed.side),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(typed.rounds):
            for name, turn in ways.items():
                taken[name].append(turn(typed.steps))
            told = "  ".join(f"{name} {times[-1]:.2f} s" for name, times in taken.items())
            print(f"round {number + 1}:  {told}", flush=True)

    memory = {name: peak(name, typed) for name in ("tutorial", "segacc") if typed.evaluated}
    result = {
        "rounds": typed.rounds,
        "steps": typed.steps,
        "side": typed.side,
        "threads": torch.get_num_threads(),
        "seconds": {name: median(times) for name, times in taken.items()},
        "images_per_second": {name: BATCH / median(times) for name, times in taken.items()},
        "ratio": over(taken["tutorial"], taken["segacc"]),
        "overhead": over(taken["segacc"], taken["bare"]),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    if memory:
        result["evaluated"] = typed.evaluated
        result["memory_mb"] = memory
        result["memory"] = memory["segacc"] / memory["tutorial"]
    for key in ("ratio", "overhead", "memory_mb", "memory"):
        print(key, json.dumps(result.get(key)))
    if typed.output:
        typed.output.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each way in a round, after one")
    parser.add_argument("--side", type=int, default=SIDE, help="of segacc's and the bare images")
    parser.add_argument("--evaluated", type=int, default=39, help="images; 0: no memory")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--alone", choices=("tutorial", "segacc"), help=argparse.SUPPRESS)
    parser.add_argument("--compile", nargs="+", default=[], metavar="ARCH")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    return parser.parse_args()


def per_step(ends: list[float]) -> float:
    """Return the mean time between the ends of steps."""
    return mean(after - before for before, after in pairwise(ends))


def tutorial(folder: Path) -> Turn:
    """Train by the tutorial's recipe; the images are of 512x512."""
    model, found = network(), pairs()

    def turn(steps: int) -> float:
        clock = Clock()
        trainer(model, folder / "trainer", found, clock=clock, steps=steps + 1).train()
        return per_step(clock.ends)

    return turn


def segacc(folder: Path, side: int) -> Turn:
    """Train by segacc's loop: the pictures as a folder, crops of random scale, flips, jitter."""
    events = loop.train(a_run(folder, side, 100_000))

    def ends() -> Iterator[float]:
        for event in events:
            if isinstance(event, StepDone):
                yield time.perf_counter()

    stream = ends()
    return lambda steps: per_step([next(stream) for _ in range(steps + 1)])


def a_run(folder: Path, side: int, steps: int, **more: Any) -> Run:
    """Build a run that is evaluated and saved after its last step."""
    values: dict[str, Any] = {
        "arch": "segformer:variant=b0",
        "weights": "none",
        "dataset": f"folder:root={PICTURES}",
        "crop_size": side,
        "batch_size": BATCH,
        "max_steps": steps,
        "eval_every": steps,
        "save_every": steps,
        "output_dir": folder / "run",
        **more,
    }
    return build_run(make_plan([Layer(values, "command line")], load_registry()))


def alone(name: str, steps: int, evaluated: int, side: int) -> None:
    """Train for some steps, and evaluate so many images."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "tutorial":
            built = trainer(network(), Path(folder), pairs(), steps=steps, evaluated=evaluated)
            built.train()
            built.evaluate()
        else:
            part = {"eval_split": f"validation[:{evaluated}]"}
            for _ in loop.train(a_run(Path(folder), side, steps, **part)):
                pass


def peak(name: str, typed: argparse.Namespace) -> float:
    """Return the most megabytes that one of the ways takes, looked at every tenth of a second."""
    settings = (f"--{key}={getattr(typed, key)}" for key in ("steps", "evaluated", "side"))
    command = [sys.executable, __file__, "--alone", name, *settings]
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, held(psutil.Process(process.pid)))
            time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return most / 1e6


def held(process: psutil.Process) -> int:
    """Return the bytes of a process and its children; shared pages count once."""
    found = 0
    with suppress(psutil.Error):  # one has just ended
        for one in (process, *process.children(recursive=True)):
            found += one.memory_full_info().pss
    return found


def bare(side: int) -> Turn:
    """Train the network without data and without a loss."""
    model = network().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5)
    images = torch.randn(BATCH, 3, side, side)
    assert model(images).logits.shape[1] == CLASSES

    def turn(steps: int) -> float:
        found = []
        for _ in range(steps + 1):
            model(images).logits.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(time.perf_counter())
        return per_step(found)

    return turn


def compiled(arch: str, what: str, parts: str, typed: argparse.Namespace) -> str:
    """Time a network eager and compiled in turn; return a line."""
    chosen = parse_component(arch, "--compile")
    record = load_registry().offer("architecture", chosen.name, "--compile").record
    options = decode(record.options, chosen.values, "--compile")
    network, facts = construct(record, options, nullcontext(), size=(typed.side, typed.side))
    units = [one for one in network.modules() if type(one).__name__ in network._no_split_modules]
    chosen_parts = units if parts == "blocks" else [network]
    compile_network(network, "--compile", parts=chosen_parts, backend=typed.backend)
    network.train(what == "step")
    images = torch.randn(BATCH if what == "step" else 1, 3, *facts.crop_size)

    def call() -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(what == "step"):
            logits = network(images).main
        if what == "step":
            logits.mean().backward()
            network.zero_grad()
        return time.perf_counter() - start

    compiling, taken = call(), {"eager": list[float](), "compiled": list[float]()}
    for _ in range(typed.rounds):
        with eagerly():
            taken["eager"].append(min([call() for _ in range(typed.steps + 1)][1:]))
        taken["compiled"].append(min([call() for _ in range(typed.steps + 1)][1:]))
    times = ", ".join(f"{name} {median(found):.3f} s" for name, found in taken.items())
    gain = over(taken["eager"], taken["compiled"])
    return f"{arch}, {what}, {parts}: compiling {compiling:.0f} s, {times}, gain {gain:.2f}"


if __name__ == "__main__":
    main()
