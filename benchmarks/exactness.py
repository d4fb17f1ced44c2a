"""Is training the same however its batch is cut? The same CamVid run, cut in four ways.

    python benchmarks/exactness.py                     60 steps, all cuts: minutes on 2 CPU cores
    python benchmarks/exactness.py --report            write the table in docs/results.md again
    python benchmarks/exactness.py --steps 4 --small --output FILE        to try it out

MobileNetV2 from ImageNet weights, batch norm frozen, no dropout, 8 images a step as processes x
micro-batch x accumulation, each a real launch; with segacc's step, and with the usual mean of means
(see exactness_run.py). Each is compared with segacc's 1x8 in the same number format. Data and
weights lie in ../shared/data.

A sum in another order is rounded otherwise, by 1e-7 in float32, and training makes more of that
from step to step: a ReLU that falls to its other side changes the gradient. So the cuts are
compared in float64, where only an error of ours could part them, and float32 is measured beside it.

It leaves benchmarks/results/exactness.json and the table in docs/results.md. Exit code 1 when in
float64 a loss of segacc's differs by more than 1e-5 or the final confusion matrix at all, or when
in any run one process scores the network otherwise than the run's own processes did.
"""

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from page import PAGE, ROOT, fill

SHARED = Path("../shared/data")
RESULT = ROOT / "benchmarks" / "results" / "exactness.json"
MARK = "<!-- exactness: benchmarks/exactness.py --report -->"
GOAL = 1e-5

Cut = tuple[int, int, int]
CUTS: tuple[Cut, ...] = ((1, 8, 1), (1, 4, 2), (2, 4, 1), (2, 2, 2))
"""Processes, images of a micro-batch, micro-batches of a step."""
EXACT, USUAL, ROUNDED = ("segacc", "float64"), ("usual", "float64"), ("segacc", "float32")
RUNS = [
    *((*EXACT, cut) for cut in CUTS),
    (*USUAL, CUTS[3]),
    *((*ROUNDED, cut) for cut in CUTS[::3]),
]
FEW = [(*EXACT, CUTS[0]), (*EXACT, CUTS[3]), (*USUAL, CUTS[3])]

SETTINGS: dict[str, Any] = {
    # Dropout draws for a batch at a time; augmentations draw for each image by itself.
    "arch": "mobilenet_v2:output_stride=16,dropout=0",
    "weights": str(SHARED / "mobilenet_v2_1.0_224"),
    "freeze_batchnorm": True,
    "dataset": f"folder:root={SHARED / 'camvid'}",
    "eval_split": "validation[:12]",
    # Images of 480x360 at 0.15 to 0.5: some crops are mostly padding, so micro-batches weigh
    # differently.
    "aug": ["random_scale_crop:scale_min=0.15,scale_max=0.5", "flip"],
    "crop_size": "96x128",
    "log_every": 1,
    "num_workers": 0,
    "num_pictures": 0,
    "seed": 0,
}
SMALL = {
    "arch": "mobilenet_v2:depth_multiplier=0.25,output_stride=32,dropout=0",
    "weights": "none",
    "eval_split": "validation[:2]",
    "crop_size": "48x64",
}


def start(processes: int, *arguments: str) -> None:
    """Run exactness_run.py as accelerate launches it; on two threads in all."""
    config = "cpu" if processes == 1 else "cpu_2_processes"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", f"accelerate_configs/{config}.yaml", "--main_process_port", "0"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(2 // processes),
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")])),
    }
    command += ["benchmarks/exactness_run.py", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def measure(
    steps: int,
    small: bool,
    runs: list[Any],
    output: Path,
    start: Callable[..., None] = start,
) -> dict[str, Any]:
    """Make all runs, and write down what came of them; the suite has its own `start`."""
    began = time.perf_counter()
    settings = {**SETTINGS, **(SMALL if small else {}), "max_steps": steps, "eval_every": steps}
    with tempfile.TemporaryDirectory() as folder:
        made = [launch(start, Path(folder), settings, *one) for one in runs]
    first = {one["precision"]: one for one in reversed(made) if one["way"] == "segacc"}
    names = ("torch", "transformers", "accelerate")
    result = {
        "steps": steps,
        "seconds": round(time.perf_counter() - began),
        "settings": settings,
        "runs": [compared(one, first[one["precision"]]) for one in made],
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(one_row_a_line(json.dumps(result, indent=1)) + "\n")
    return result


def launch(
    start: Callable[..., None],
    folder: Path,
    settings: dict[str, Any],
    way: str,
    precision: str,
    cut: Cut,
) -> dict[str, Any]:
    """Train and score once."""
    processes, batch, accumulation = cut
    place = folder / f"{way}-{precision}-{name_of(cut)}"
    given, result = place.with_suffix(".settings"), place.with_suffix(".json")
    size = {"batch_size": batch, "gradient_accumulation_steps": accumulation}
    given.write_text(json.dumps({**settings, **size, "output_dir": str(place)}))
    start(processes, way, precision, str(given), str(result))
    told = json.loads(result.read_text())
    assert told["processes"] == processes
    weights = np.load(place.with_suffix(".npy"))  # (2, P): before and after
    return {"way": way, "precision": precision, "cut": list(cut), **told, "weights": weights}


def compared(one: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """Tell how far a run is from the first one of its precision."""
    losses, others = np.array(one["losses"]), np.array(first["losses"])
    moved = abs(np.array(one["confusion"]) - np.array(first["confusion"])).sum()
    start, end = first["weights"]
    apart = np.linalg.norm(one["weights"][1] - end) / np.linalg.norm(end - start)
    return {
        **{key: value for key, value in one.items() if key != "weights"},
        "first_relative_difference": float(abs(losses / others - 1)[0]),
        "largest_relative_difference": float(abs(losses / others - 1).max()),
        "same_confusion": not moved,
        # A pixel that is predicted otherwise leaves one cell and enters another.
        "pixels_elsewhere": int(moved) // 2,
        "pixels": int(np.sum(one["confusion"])),
        # Distance of the final weights, as a share of the way that training went.
        "weights_apart": float(apart),
    }


def name_of(cut: Cut) -> str:
    """Write a cut as 2x2x2; without accumulation as 2x4."""
    return "x".join(map(str, cut if cut[2] > 1 else cut[:2]))


def one_row_a_line(text: str) -> str:
    """Put the innermost lists of indented JSON on a line each."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)


def met(result: dict[str, Any]) -> bool:
    """Tell whether segacc's runs keep what is promised of them."""
    exact = [one for one in result["runs"] if (one["way"], one["precision"]) == EXACT]
    near = all(one["largest_relative_difference"] <= GOAL for one in exact)
    same = all(one["same_confusion"] for one in exact)
    return near and same and all(one["alone"] for one in result["runs"])


def table(result: dict[str, Any]) -> list[str]:
    """Write the runs as a table."""
    head = ["step", "numbers", "cut", "first loss", f"largest of {result['steps']} losses"]
    head += ["final confusion matrix", "weights apart", "mean_iou"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---:|---:|---|---:|---:|"]
    ways = {"segacc": "segacc", "usual": "mean of means"}
    for one in result["runs"]:
        moved = f"{one['pixels_elsewhere']:,} of {one['pixels']:,} pixels elsewhere"
        cells = [ways[one["way"]], one["precision"], name_of(one["cut"])]
        cells += [f"{one[f'{which}_relative_difference']:.1e}" for which in ("first", "largest")]
        cells += ["the same" if one["same_confusion"] else moved, f"{one['weights_apart']:.1e}"]
        lines.append("| " + " | ".join([*cells, f"{one['mean_iou']:.4f}"]) + " |")
    return lines


def report() -> int:
    """Write the table of benchmarks/results/exactness.json into docs/results.md."""
    result = json.loads(RESULT.read_text())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [*table(result), "", f"{result['seconds']} s in all; {versions}."]
    fill(PAGE, MARK, lines)
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--small", action="store_true", help="a small network, three of the runs")
    parser.add_argument("--all", action="store_true", help="all runs of the small network, too")
    parser.add_argument("--output", type=Path, help="write this file and leave the page alone")
    parser.add_argument("--report", action="store_true")
    typed = parser.parse_args()
    if typed.report:
        return report()
    if typed.small and typed.output is None:
        parser.error("--small needs --output: its figures are not those of the page")
    runs = FEW if typed.small and not typed.all else RUNS
    result = measure(typed.steps, typed.small, runs, (typed.output or RESULT).absolute())
    if typed.output is None:
        report()
    print("\n".join(table(result)))
    return int(not met(result))


if __name__ == "__main__":
    sys.exit(main())
