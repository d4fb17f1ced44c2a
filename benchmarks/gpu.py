"""Measure training steps and kernels on one GPU, in at most 8 minutes.

    python benchmarks/gpu.py                          all cases; without a GPU it says so, and ends
    python benchmarks/gpu.py --device cpu --smoke     tiny sizes on the CPU, which the suite runs

    check      train on the embedded data, stop half-way, resume, evaluate; and scale images on the
               device as on the CPU (benchmarks/gpu_cases.py)
    kernels    loss with its gradient, and argmax, of logits for 150 classes: plain torch, segacc,
               and the plain one under torch.compile
    NETWORK    512x512, 150 classes, bf16, in the largest batch that fits, from 32 down:
               plain: the step of transformers' network and own loss, with AdamW, on a fixed batch;
               segacc: `train_step` on the same batch; files: `segacc train` with JPEG and PNG files

Each case is a process of its own. Networks are measured eager, then compiled (torch.compile of the
whole network, for segacc `--compile`), as long as the time lasts; what is left out is told. `ratio`
is segacc's images per second / plain, `mfu` the share of the GPU's peak
(segacc/model/arithmetic.py), for both by the operations that segacc counts.
benchmarks/results/gpu.json holds the figures. Exit code 1 if a case failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from page import ROOT

NETWORKS = {
    "SegFormer-b0": "segformer:variant=b0",
    "SegFormer-b5": "segformer:variant=b5",
    "UPerNet-Swin-T": "upernet:backbone=swin,size=tiny",
    "Mask2Former-Swin-T": "mask2former:variant=swin_tiny",
    "EoMT-L": "eomt:variant=large",
}
SMALL = {"SegFormer-tiny": "segformer:variant=tiny", "EoMT-tiny": "eomt:variant=tiny"}
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
PACKAGES = ("segacc", "torch", "torchvision", "transformers", "accelerate")
CLASSES = 150
LEAST = 20.0
"""Seconds that have to be left for another case."""


def main() -> int:
    """Measure, print, write, and tell whether all cases succeeded."""
    typed = parse()
    if typed.case:
        print(json.dumps(measured(typed.case, typed)))
        return 0
    device = device_name(typed.device)
    if device is None:
        print("benchmarks/gpu.py: there is no GPU here, so nothing was measured.")
        return 0
    result: dict[str, Any] = {
        "device": device,
        "side": 64 if typed.smoke else 512,
        "versions": {name: version(name) for name in PACKAGES},
        "cases": {},
        "left_out": [],
    }
    end = time.monotonic() + 60 * typed.minutes
    for case in cases(typed):
        left = end - time.monotonic()
        found = in_a_process(case, left) if left > LEAST and not typed.smoke else None
        if typed.smoke:
            found = measured(case, typed)
        if found is None:
            result["left_out"].append(case)
        else:
            result["cases"][case] = found
        print(f"{case}:  {json.dumps(found) if found else 'left out, as the time is over'}")
        if typed.output:
            typed.output.write_text(json.dumps(result, indent=1) + "\n")
    return int(any("failed" in one for one in result["cases"].values()))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--cases", nargs="+", help="some of the cases, such as SegFormer-b0,eager")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.smoke != (typed.device == "cpu"):
        parser.error("--device cpu and --smoke go together: the full sizes take hours on a CPU")
    if typed.smoke and typed.output == RESULTS:
        typed.output = None
    return typed


def device_name(wanted: str) -> str | None:
    """Return the name of the device; None if there is no GPU."""
    import torch

    if wanted == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def cases(typed: argparse.Namespace) -> Iterator[str]:
    """Yield the cases in the order of their worth: what is short first, compiled networks last."""
    found = ["check", "kernels", *(f"{name},eager" for name in networks(typed.smoke))]
    found += [] if typed.smoke else [f"{name},compiled" for name in NETWORKS]
    yield from typed.cases or found


def networks(smoke: bool) -> dict[str, str]:
    """Return the architecture of each network."""
    return SMALL if smoke else NETWORKS


def gradient_bytes(network: Any) -> int:
    """Return the bytes of all gradients."""
    return sum(
        one.numel() * one.element_size() for one in network.parameters() if one.requires_grad
    )


def in_a_process(case: str, seconds: float) -> dict[str, Any] | None:
    """Measure a case in a process; None if the time is over before it ends."""
    command = [sys.executable, __file__, "--case", case]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return None
    lines = done.stdout.splitlines() or [""]
    if done.returncode or not lines[-1].startswith("{"):
        return {"failed": done.stderr[-2000:]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measured(case: str, typed: argparse.Namespace) -> dict[str, Any]:
    """Measure a case in this process."""
    if typed.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    import gpu_cases

    sizes = gpu_cases.SMOKE if typed.smoke else gpu_cases.FULL
    if case in ("check", "kernels"):
        found: dict[str, Any] = getattr(gpu_cases, case)(sizes, typed.device)
        return found
    name, how = case.split(",")
    return gpu_cases.network(networks(typed.smoke)[name], how == "compiled", sizes, typed.device)


if __name__ == "__main__":
    sys.exit(main())
