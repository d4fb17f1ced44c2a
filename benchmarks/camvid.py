"""Fine-tune on CamVid (367 street scenes, 11 classes, 480x360) within a time budget on 2 CPU cores.

    python benchmarks/camvid.py imagenet --minutes 60    MobileNetV2 from ImageNet weights
    python benchmarks/camvid.py voc --minutes 60         the same network from Pascal VOC weights
    python benchmarks/camvid.py random --minutes 60      ... from nothing
    python benchmarks/camvid.py efficientnet --minutes 15    UPerNet on EfficientNet-Lite0 of timm
    python benchmarks/camvid.py pidnet --minutes 15      PIDNet-S from nothing, with its own losses
    python benchmarks/camvid.py pidnet_plain --minutes 15    ... with the losses of the others
    python benchmarks/camvid.py ddrnet --minutes 15      DDRNet-23-slim from nothing
    python benchmarks/camvid.py lraspp --minutes 15      Lite R-ASPP on MobileNetV3 from nothing
    python benchmarks/camvid.py --report                 write the table in docs/results.md again

Data and weights lie in ../shared/data. The budget holds all of it: imports, a trial of a few steps
that finds the speed and so the number of steps, training, evaluations, saving. Each run leaves
benchmarks/results/camvid-START-MINUTES.json. Exit code 1 when the budget or the figure to reach
(0.66 from ImageNet in 60 minutes) is missed.
"""

import argparse
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from page import PAGE, ROOT, fill, table

SHARED = Path("../shared/data")
RESULTS = ROOT / "benchmarks" / "results"
MARK = "<!-- camvid: benchmarks/camvid.py --report -->"
TARGET = {("imagenet", 60): 0.66}
MOBILENET = "mobilenet_v2:output_stride=16"
STARTS = {
    "imagenet": (MOBILENET, "mobilenet_v2_1.0_224", "6e-4", "4"),
    "voc": (MOBILENET, "deeplabv3_mobilenet_v2_voc", "6e-4", "4"),
    "random": (MOBILENET, "none", "1e-3", "1"),
    "efficientnet": (
        "upernet:backbone=timm/tf_efficientnet_lite0,hidden_size=128,auxiliary_weight=0",
        "efficientnet_lite0",
        "6e-4",
        "4",
    ),
    "pidnet": ("pidnet:variant=s", "none", "1e-3", "1"),
    "pidnet_plain": ("pidnet:variant=s,boundary=0", "none", "1e-3", "1"),
    "ddrnet": ("ddrnet:variant=23_slim", "none", "1e-3", "1"),
    "lraspp": ("lraspp", "none", "1e-3", "1"),
}
OWN = {"pidnet"}
"""Those with losses of their own, which take the class weights from a file."""
WEIGHTS = "benchmarks/results/class-weights-camvid.json"
TRIAL = 12
"""Steps of the trial."""
SAFE = 0.94
"""Share of the budget that is planned for: a machine is not always as fast as in the trial."""


def flags(start: str) -> list[str]:
    """Return the recipe; short things are looked at closely and weigh more."""
    arch, weights, lr, head = STARTS[start]
    counts = json.loads((ROOT / SHARED / "camvid" / "classes.json").read_text())["pixel_counts"]
    pixels = list(counts["train"].values())[:11]
    weigh = [f"{(max(pixels) / count) ** 0.35:.2f}" for count in pixels]
    losses = [f"cross_entropy:class_weights={'/'.join(weigh)}", "dice:weight=0.5"]
    trained = [*("--loss", losses[0]), *("--loss", losses[1])]
    if start in OWN:
        (ROOT / WEIGHTS).write_text(f"[{', '.join(weigh)}]\n")
        trained = ["--class-weights", WEIGHTS]
    return [
        *("--arch", arch, "--weights", weights if weights == "none" else str(SHARED / weights)),
        *("--dataset", f"folder:root={SHARED / 'camvid'}", "--crop-size", "320x416"),
        *("--aug", "random_scale_crop:scale_min=0.8,scale_max=1.8"),
        *("--aug", "flip", "--aug", "color_jitter:exact=true"),
        *trained,
        *("--protocol", "whole:short_side=480", "--batch-size", "8", "--num-workers", "0"),
        *("--lr", lr, "--head-lr-scale", head, "--channels-last"),
    ]


def run(folder: Path, arguments: list[str], threads: str) -> list[dict[str, Any]]:
    """Run segacc, and return what it wrote into metrics.jsonl."""
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command = [*launch, "-m", "segacc", *arguments, "--output-dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trial(folder: Path, recipe: list[str], threads: str) -> tuple[float, float]:
    """Take a few steps and one evaluation: seconds per step, and seconds of an evaluation."""
    steps = ["--max-steps", str(TRIAL), "--log-every", "4", "--warmup-steps", "1"]
    rows = run(folder, [*recipe, *steps], threads)
    speeds = [row["images_per_second"] for row in rows if row["kind"] == "train"]
    evaluation = next(row["seconds"] for row in rows if row["kind"] == "eval")
    return 8 / sorted(speeds)[len(speeds) // 2], evaluation


def measure(start: str, minutes: float) -> int:
    """Train within the budget, and write down what came of it."""
    began, threads, packages = time.perf_counter(), str(os.cpu_count() or 1), versions()
    recipe = flags(start)
    with tempfile.TemporaryDirectory() as folder:
        step, evaluation = trial(Path(folder) / "trial", [*recipe, "--eval-every", "12"], threads)
        left = SAFE * 60 * minutes - (time.perf_counter() - began) - 2 * evaluation - 15
        steps = max(2, int(left / step))
        plan = ["--max-steps", str(steps), "--eval-every", str(-(-steps // 2))]
        rows = run(Path(folder) / "run", [*recipe, *plan], threads)
    seconds = time.perf_counter() - began
    last = [row for row in rows if row["kind"] == "eval"][-1]
    result = {
        "start": start,
        "minutes": minutes,
        "seconds": round(seconds),
        "threads": int(threads),
        "steps": steps,
        "scores": {
            key: last[key]
            for key in ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou")
        },
        "command": shlex.join(["accelerate", "launch", "-m", "segacc", *recipe, *plan]),
        "versions": packages,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"camvid-{start}-{minutes:g}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    figure, target = last["mean_iou"], TARGET.get((start, minutes), 0.0)
    print(f"seconds   {seconds:.0f} (at most {60 * minutes:.0f}), {steps} steps")
    print(f"mean_iou  {figure:.4f} (at least {target:.2f})")
    return int(seconds > 60 * minutes or figure < target)


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, of those that are installed."""
    found = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    names = ("torch", "transformers", "accelerate", "timm")
    return {name: found[name] for name in names if name in found}


def report() -> int:
    """Write the table of all results into docs/results.md."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("camvid-*.json"))]
    results.sort(key=lambda one: (list(STARTS).index(one["start"]), one["minutes"]))
    names = list(results[0]["scores"]["per_category_iou"])
    rows = []
    for one in results:
        scores = one["scores"]
        figures = [scores["mean_iou"], *scores["per_category_iou"].values()]
        took, version = f"{one['seconds'] / 60:.1f}", one["versions"]["torch"]
        cells = [one["start"], f"{one['minutes']:g}", took, str(one["steps"])]
        rows.append([*cells, *(f"{figure:.3f}" for figure in figures), version])
    lines = table(["start", "N", "minutes", "steps", "mean_iou", *names, "torch"], rows)
    best = max(results, key=lambda one: float(one["scores"]["mean_iou"]))
    told = f"{best['threads']} threads. The command of each row is in `benchmarks/results`; that "
    told += "of the highest score:"
    command = f"    OMP_NUM_THREADS={best['threads']} {best['command']}"
    fill(PAGE, MARK, [*lines, "", told, "", command])
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", nargs="?", choices=STARTS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--report", action="store_true")
    typed = parser.parse_args()
    if typed.report:
        return report()
    if typed.start is None:
        parser.error("name a start, or --report")
    return measure(typed.start, typed.minutes)


if __name__ == "__main__":
    sys.exit(main())
