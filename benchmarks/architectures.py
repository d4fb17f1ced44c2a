"""Time the forward pass of each family's default network at 512x512, with random weights.

    OMP_NUM_THREADS=2 python benchmarks/architectures.py              all families
    OMP_NUM_THREADS=2 python benchmarks/architectures.py lraspp beit  only these
    python benchmarks/architectures.py --report        write the table in docs/choosing.md again

Parameters, with a head for 150 classes, are counted on torch's meta device. The time is the median
of some passes of one image in float32, without loading, resizing and scoring. Results are added to
benchmarks/results/architectures.json, so families can be timed one after the other.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import statistics
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch
from page import ROOT, fill

from segacc.commands.plugins.datasheet import construct, datasheet
from segacc.registry import Registry, load_registry
from segacc.settings.options import decode, parse_component

RESULTS = ROOT / "benchmarks" / "results" / "architectures.json"
PAGE = ROOT / "docs" / "choosing.md"
MARK = "<!-- architectures: benchmarks/architectures.py --report -->"
SIZE = (512, 512)
CAMVID = {
    "mobilenet_v2": "imagenet",
    "ddrnet": "ddrnet",
    "lraspp": "lraspp",
    "pidnet": "pidnet",
}
"""Starts of benchmarks/camvid.py, from default weights or, where these were not at hand, random."""


def families(registry: Registry) -> dict[str, Any]:
    """Return the built-in architectures by name, with the first of their variants."""
    return {one.record.name: one.record for one in registry.of_kind("architecture") if one.built_in}


def measure(record: Any, rounds: int) -> dict[str, Any]:
    """Return parameters, licence and the milliseconds of a forward pass of one image."""
    sheet = datasheet(record, record.variants[0])
    options = decode(record.options, parse_component(sheet.typed, "").values, sheet.typed)
    network, facts = construct(record, options, nullcontext(), size=SIZE)
    network.eval()
    height, width = facts.crop_size
    images = torch.randn(1, 3, height, width)
    seconds = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            start = time.perf_counter()
            network(images)
            seconds.append(time.perf_counter() - start)
    return {
        "parameters": sheet.parameters,
        "size": [height, width],
        "milliseconds": round(1000 * statistics.median(seconds[1:]), 1),
        "rounds": rounds,
        "weights": sheet.weights,
        "license": sheet.license if sheet.weights else "",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
    }


def camvid(name: str) -> str:
    """Return the best mean_iou of a family in the results of benchmarks/camvid.py, or nothing."""
    if name not in CAMVID:
        return ""
    files = RESULTS.parent.glob(f"camvid-{CAMVID[name]}-*.json")
    results = [json.loads(one.read_text()) for one in files]
    best = max(results, key=lambda one: float(one["scores"]["mean_iou"]))
    weights = "ImageNet" if CAMVID[name] == "imagenet" else "random"
    return f"{best['scores']['mean_iou']:.3f} ({weights}, {best['seconds'] / 60:.0f} min)"


def report(found: dict[str, Any]) -> None:
    """Write the table of all results into docs/choosing.md."""
    lines = [
        "| family | parameters (million) | ms per image | size | CamVid mean_iou | default weights "
        "| licence |",
        "|---|---:|---:|---|---:|---|---|",
    ]
    for name, one in sorted(found.items(), key=lambda item: item[1]["milliseconds"]):
        figures = f"{one['parameters'] / 1e6:.1f} | {one['milliseconds']:.0f}"
        size = "x".join(map(str, one["size"]))
        weights = f"`{one['weights']}`" if one["weights"] else "none"
        known = one["license"] or ("not stated" if one["weights"] else "")
        lines.append(f"| `{name}` | {figures} | {size} | {camvid(name)} | {weights} | {known} |")
    last = list(found.values())[-1]
    versions = f"torch {last['torch']}, transformers {last['transformers']}"
    lines += ["", f"{versions}, {last['threads']} threads."]
    fill(PAGE, MARK, lines)


def main() -> int:
    """Read the command line."""
    known = families(load_registry())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", help=f"{', '.join(known)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--report", action="store_true")
    typed = parser.parse_args()
    if unknown := [name for name in typed.family if name not in known]:
        parser.error(f"no such family: {', '.join(unknown)}. Known: {', '.join(known)}")
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    for name in [] if typed.report else typed.family or known:
        found[name] = measure(known[name], typed.rounds)
        sys.stdout.write(f"{name}: {found[name]['milliseconds']} ms\n")
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        gc.collect()
    if typed.report:
        report(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
