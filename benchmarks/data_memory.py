"""Hold the data loader's memory, and what a run waits for it, to what they should be.

    python benchmarks/data_memory.py     10,000 samples through 2 workers, twice; then a short run

The samples are the embedded microscope images: once as files on disk, each of the 10,000 with a
path of its own (links), once as rows of a parquet table. Memory is that of the process and its
workers together: PSS, which counts shared pages once, and RSS, as Linux tells them. The run is of
the tiny SegFormer on the same images; `data_wait` is the share of the time that it waits for data.

benchmarks/results/data-memory.json holds the figures. Exit code 1 when the last fifth of the
samples took 5 % more memory (PSS) than the first fifth.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from segacc.contracts import Facts
from segacc.data.augment import Pipeline
from segacc.data.batches import Source, TrainData
from segacc.data.items import Batch
from segacc.data.order import Cut, Order
from segacc.data.samples import build_splits
from segacc.hookspecs import Sample
from segacc.registry import choose, load_registry

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "data-memory.json"
PACKAGES = ("torch", "torchvision", "pillow", "numpy", "pyarrow", "accelerate")
AUGMENTATIONS = ("random_scale_crop", "flip", "color_jitter")
WORKERS, BATCH = 2, 8
GROWTH = 0.05
"""Of the first fifth's memory, what the last fifth may have above it."""


def main() -> int:
    """Measure, print, write, and tell whether memory stays as it is."""
    typed = parse()
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("benchmarks/data_memory.py: only Linux tells a process's memory this way.")
    nuclei = build_splits(choose(load_registry(), "dataset", "nuclei", "--dataset"))
    rows, count = nuclei.splits["train"], typed.samples
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"paths": on_disk(rows, count, Path(folder)), "parquet": in_a_table(rows, count)}
        memory = {
            name: through(Source(samples, nuclei.labels), nuclei.crop_size)
            for name, samples in kinds.items()
        }
        waits = data_wait(Path(folder) / "run", typed.steps)
    result = {
        "samples": count,
        "workers": WORKERS,
        "memory": memory,
        "data_wait": {"steps": typed.steps, "median": median(waits), "all": waits},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    typed.output.parent.mkdir(exist_ok=True)
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, told in memory.items():
        pss, rss = told["pss_mb"], told["rss_mb"]
        print(
            f"{name:<9} PSS {pss[0]:.0f} -> {pss[1]:.0f} MB ({told['growth']:+.1%}, at most "
            f"{GROWTH:+.0%}), RSS {rss[0]:.0f} -> {rss[1]:.0f} MB"
        )
    print(f"data_wait {median(waits):.1%} of the time (median over {typed.steps} steps)")
    return int(any(told["growth"] > GROWTH for told in memory.values()))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=60, help="of the run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def on_disk(rows: Sequence[Sample], count: int, folder: Path) -> list[Sample]:
    """Write the rows as files, and link them until each sample has its own."""
    samples = []
    for number in range(count):
        row, files = rows[number % len(rows)], []
        for kind, content in (("image", row.image), ("label", row.label)):
            path = folder / f"{kind}{number}.png"
            if number < len(rows):
                assert isinstance(content, bytes)
                path.write_bytes(content)
            else:
                path.hardlink_to(folder / f"{kind}{number % len(rows)}.png")
            files.append(path)
        samples.append(Sample(files[0], files[1], f"{row.id}-{number}"))
    return samples


def in_a_table(rows: Any, count: int) -> Any:
    """Repeat the rows of a table of samples; Arrow does not copy them."""
    held = rows.samples
    table = pa.concat_tables([held.table] * -(-count // len(rows))).slice(0, count)
    return replace(rows, samples=type(held)(table, held.label_column))


def through(source: Source, crop_size: Any) -> dict[str, Any]:
    """Read each sample once, and look at the memory from time to time.

    Returns:
        `pss_mb` and `rss_mb`: medians over the first and over the last fifth of the samples, and
        `growth` of the PSS from one to the other.
    """
    names = source.labels.names
    facts = Facts(num_classes=len(names), class_names=names, crop_size=crop_size)
    chosen = [choose(load_registry(), "augmentation", name, "--aug") for name in AUGMENTATIONS]
    train = TrainData(source, Pipeline.of(chosen, facts), Order(len(source), seed=0))
    steps, cut = len(source) // BATCH, Cut(batch_size=BATCH)
    loader = train.loader(cut, range(steps), positions=[], num_workers=WORKERS, pin_memory=False)
    looks = []
    for step, batch in enumerate(loader):
        assert isinstance(batch, Batch), batch
        if step % max(1, steps // 50) == 0:
            looks.append((step, *taken()))
    first = [look for look in looks if look[0] < steps / 5]
    last = [look for look in looks if look[0] >= steps * 4 / 5]
    pss, rss = ([median(look[k] for look in part) for part in (first, last)] for k in (1, 2))
    return {"pss_mb": pss, "rss_mb": rss, "growth": pss[1] / pss[0] - 1}


def taken() -> tuple[float, float]:
    """Return PSS and RSS of this process and its workers, in megabytes."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    total = {"Pss": 0, "Rss": 0}
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            if name in total:
                total[name] += int(value.split()[0])
    return total["Pss"] / 1000, total["Rss"] / 1000


def data_wait(folder: Path, steps: int) -> list[float]:
    """Train for some steps; return the waits for data of metrics.jsonl after step 1.

    The line of step 1 is left out: its wait is the start of the workers.
    """
    command = [sys.executable, "-m", "segacc", "--arch", "segformer:variant=tiny"]
    command += ["--weights", "none", "--max-steps", str(steps), "--eval-every", str(steps)]
    command += ["--log-every", "5", "--num-workers", str(WORKERS), "--num-pictures", "0"]
    command += ["--eval-split", "validation[:4]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    more = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL}
    subprocess.run([*command, "--output-dir", str(folder)], check=True, **more)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        round(row["data_wait"], 4) for row in rows if row["kind"] == "train" and row["step"] > 1
    ]


if __name__ == "__main__":
    sys.exit(main())
