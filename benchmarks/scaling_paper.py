"""The exchange of gradients between many GPUs, on paper: how long a step of training takes.

Gradients are averaged by ring all-reduce in two levels: of G GPUs in a node, each sends 2 (G - 1)
/ G of all bytes; then of M nodes, each GPU sends 2 (M - 1) / M of its G-th of the bytes. Each of
the 2 (G - 1) + 2 (M - 1) sends of a bucket has a latency. The exchange overlaps with the backward
pass, two thirds of the time of a step, except that of the last bucket. segacc's count of the pixels
is one more all-reduce, whose few bytes overlap with nothing. Link speeds are nominal, so a real
network is slower; memory, data and stragglers are left out.
"""

import math
from dataclasses import dataclass
from typing import Any

NODE = 8
"""GPUs of a node."""
BUCKET = 25 * 2**20
"""DDP's bytes of a bucket."""
BACKWARD = 2 / 3
"""Share of the backward pass in a step."""
COUNTS = (8, 64, 1024)
ENOUGH = 0.9
"""Efficiency below which more GPUs are said to stop helping."""
TIMES = 4
"""Micro-batches of a step with accumulation, and times the images of a larger micro-batch."""


@dataclass(frozen=True)
class Links:
    """Speeds in bytes/s of one GPU in one direction, and latencies in seconds of one send."""

    inside: float
    outside: float
    wait_inside: float = 2e-6
    wait_outside: float = 5e-6


LINKS = {
    "NVLink 450 GB/s, 400 Gb/s per GPU": Links(450e9, 50e9),
    "NVLink 450 GB/s, 100 Gb/s per node": Links(450e9, 12.5e9 / NODE),
    "PCIe 32 GB/s, 25 Gb/s per node": Links(32e9, 3.125e9 / NODE, 5e-6, 20e-6),
}


def exchange(gpus: int, size: float, links: Links) -> float:
    """Return the seconds of an all-reduce of `size` bytes in buckets."""
    inside = min(gpus, NODE)
    nodes = math.ceil(gpus / NODE)
    buckets = math.ceil(size / BUCKET)
    sent = 2 * (inside - 1) / inside * size / links.inside
    sent += 2 * (nodes - 1) / nodes * size / inside / links.outside
    waits = 2 * (inside - 1) * links.wait_inside + 2 * (nodes - 1) * links.wait_outside
    return sent + buckets * waits


def efficiency(gpus: int, seconds: float, size: float, links: Links, *, passes: int = 1) -> float:
    """Return the time of a step on one GPU / that on many.

    Args:
        gpus: their number.
        seconds: of a forward and backward pass of one GPU.
        size: bytes of the gradients.
        links: between the GPUs.
        passes: micro-batches of a step; gradients are exchanged in the last one.
    """
    whole, buckets = exchange(gpus, size, links), math.ceil(size / BUCKET)
    shown = max(whole - BACKWARD * seconds, whole / buckets)
    alone = passes * seconds
    return alone / (alone + shown + exchange(gpus, 1, links))


def cures(gpus: int, seconds: float, size: float, links: Links) -> dict[str, float]:
    """Return the efficiency with each setting that makes the exchange weigh less."""
    return {
        "larger micro-batch": efficiency(gpus, TIMES * seconds, size, links),
        "accumulation": efficiency(gpus, seconds, size, links, passes=TIMES),
        "bf16 gradients": efficiency(gpus, seconds, size / 2, links),
    }


def paper(*, seconds: float, size: float, **_: Any) -> dict[str, Any]:
    """Return for each kind of links the efficiencies, where it stops scaling, and what cures it."""
    found = dict[str, Any]()
    for name, links in LINKS.items():
        steps = [2**k for k in range(1, 11)]
        low = (gpus for gpus in steps if efficiency(gpus, seconds, size, links) < ENOUGH)
        stops = next(low, None)
        found[name] = {
            "efficiency": {str(n): efficiency(n, seconds, size, links) for n in COUNTS},
            "stops_at": stops,
            "cures": cures(max(COUNTS), seconds, size, links) if stops else {},
        }
    return {"links": found}


def verdict(stops: int | None, cured: dict[str, float]) -> str:
    """Say where it stops, and which setting helps most."""
    if stops is None:
        return "scales to 1,024"
    best = max(cured, key=lambda name: cured[name])
    return f"from {stops:,} GPUs; {best} gives {cured[best]:.0%} on 1,024"
