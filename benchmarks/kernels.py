"""Compare the hot kernels with plain torch: loss, argmax, and pixel counts.

    python benchmarks/kernels.py                     SegFormer's logits for images of 512x512
    python benchmarks/kernels.py --size 64 --rounds 1 --classes 19    what the suite runs

For 2, 19 and 150 classes: cross-entropy of 2 images with its gradient, from logits of a fourth of
the size (plain: `interpolate`, then `cross_entropy`); the argmax of one of them at full size, for
smooth logits (noise of an eighth of their size, enlarged, as trained networks have few classes at a
place) and for noise (plain: `interpolate`, then `argmax`); the confusion matrix of one prediction
(plain: int64 indices of the valid pixels, then `bincount`). The two ways take turns; times are
medians over rounds, and `ratio` is plain / segacc, the median of the rounds' own ratios. `memory`
is what a loss needs beside its logits, labels and gradient: the high-water mark of a process of its
own (as Linux tells it), whose ratio is segacc / plain. benchmarks/results/kernels.json holds the
figures.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.kernels.pixel import cross_entropy_sum
from segacc.kernels.resize import confusion, resized_argmax

RESULTS = Path(__file__).parent / "results" / "kernels.json"
CLASSES = (2, 19, 150)
"""Numbers of classes; `--classes` measures one of them."""
PACKAGES = ("segacc", "torch")


def main() -> None:
    """Measure, print and write."""
    typed = parse()
    torch.set_num_threads(typed.threads)
    if typed.peak:
        print(peak(typed.peak, typed.classes, typed.size))
        return
    result: dict[str, Any] = {
        "size": typed.size,
        "rounds": typed.rounds,
        "threads": typed.threads,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "kernels": {},
    }
    for num_classes in [typed.classes] if typed.classes else CLASSES:
        for name, ways in cases(num_classes, typed.size).items():
            found = compared(ways, typed.rounds)
            if name == "loss":
                found |= memory(num_classes, typed)
            result["kernels"][f"{name}, {num_classes} classes"] = found
            told = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"{name}, {num_classes} classes:  {told}", flush=True)
    if typed.output:
        typed.output.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--peak", choices=["plain", "segacc", "none"], help=argparse.SUPPRESS)
    parser.add_argument("--classes", type=int, help="measure this number of classes only")
    return parser.parse_args()


def cases(num_classes: int, size: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return for each kernel the plain way and segacc's."""
    logits, labels = example(num_classes, size)
    narrow = labels[:1].to(torch.uint8)
    said = torch.randint(num_classes, narrow.shape, dtype=torch.uint8)
    return {
        "loss": {
            "plain": lambda: gradient(plain_loss, logits, labels),
            "segacc": lambda: gradient(cross_entropy_sum, logits, labels),
        },
        **{
            f"argmax of {kind} logits": {
                "plain": lambda one=one: plain_argmax(one, size),
                "segacc": lambda one=one: resized_argmax(one, (size, size)),
            }
            for kind, one in (("smooth", smooth(num_classes, size)), ("random", logits[:1]))
        },
        "confusion": {
            "plain": lambda: plain_confusion(said, narrow, num_classes),
            "segacc": lambda: confusion(said, narrow, num_classes),
        },
    }


def example(num_classes: int, size: int) -> tuple[Tensor, Tensor]:
    """Draw logits of a fourth of the size, and labels of which a tenth is ignored."""
    torch.manual_seed(0)
    labels = torch.randint(num_classes, (2, size, size))
    labels[:, : size // 10] = 255
    return torch.randn(2, num_classes, size // 4, size // 4), labels


def smooth(num_classes: int, size: int) -> Tensor:
    """Draw logits of a fourth of the size that change little from pixel to pixel."""
    coarse = 6 * torch.randn(1, num_classes, max(2, size // 32), max(2, size // 32))
    return F.interpolate(coarse, size=(size // 4, size // 4), mode="bicubic")


def plain_argmax(logits: Tensor, size: int) -> Tensor:
    """Return the argmax of logits that are resized at once."""
    full = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    return full.argmax(1).to(torch.uint8)


def plain_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of logits that are resized at once."""
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, labels, ignore_index=255, reduction="sum")


def plain_confusion(said: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the confusion matrix by int64 indices."""
    valid = labels != 255
    pairs = labels[valid].long() * num_classes + said[valid].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def gradient(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of a loss."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, labels), leaf)[0]


def compared(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each way, and their ratio."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    results = [way() for way in ways.values()]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(taken["plain"], taken["segacc"], strict=True)]
    return {**{name: median(times) for name, times in taken.items()}, "ratio": median(ratios)}


def memory(num_classes: int, typed: argparse.Namespace) -> dict[str, float]:
    """Return the megabytes that each way takes beside its operands, and their ratio."""
    given = [f"--size={typed.size}", f"--threads={typed.threads}", f"--classes={num_classes}"]
    peaks = {}
    for name in ("none", "plain", "segacc"):
        command = [sys.executable, __file__, *given, "--peak", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = float(done.stdout)
    plain, ours = (max(peaks[name] - peaks["none"], 0.1) for name in ("plain", "segacc"))
    return {"plain_mb": plain, "segacc_mb": ours, "memory": ours / plain}


def peak(way: str, num_classes: int, size: int) -> float:
    """Return the high-water mark of this process in megabytes, after one loss or none."""
    small = example(num_classes, 32)
    for loss in (plain_loss, cross_entropy_sum):  # what libraries load at their first use
        gradient(loss, *small)
    logits, labels = example(num_classes, size)
    if way == "none":
        torch.zeros_like(logits)
    else:
        gradient(plain_loss if way == "plain" else cross_entropy_sum, logits, labels)
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
