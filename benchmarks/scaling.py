"""Measure what two processes exchange in a step, and compute on paper where more GPUs stop helping.

    python benchmarks/scaling.py              SegFormer-b0 with 1 and 2 processes, and the paper
    python benchmarks/scaling.py --paper      the paper again, with the step times of gpu.json

Measured, on the GPUs or on the CPU: the seconds of `train_step` on a fixed batch; for two processes
also without the exchange of gradients, and the bytes that DDP's hook is given.

On paper (benchmarks/scaling_paper.py): the step of each network of gpu.py on 8, 64 and 1,024 GPUs.
The time on one GPU is that of benchmarks/results/gpu.json; of networks that are not in there, the
operations of a step at an assumed share of an H200's peak. benchmarks/results/scaling.json holds
all figures.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gpu import CLASSES, NETWORKS, gradient_bytes
from gpu import RESULTS as MEASURED
from page import ROOT
from scaling_paper import paper

RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
PACKAGES = ("segacc", "torch", "transformers", "accelerate")
SHARE, PEAK = 0.3, 989e12
"""Assumed share of the peak, and the peak of an H200 in bf16, in FLOP/s."""
BATCH = 8
"""Images per GPU on paper, where gpu.json has no batch."""


def main() -> int:
    """Measure, print and write."""
    typed = parse()
    if typed.worker:
        worker(typed)
        return 0
    result = json.loads(typed.output.read_text()) if typed.paper else {}
    if not typed.paper:
        result = {"arch": typed.arch, "side": typed.side, "batch": typed.batch}
        result["processes"] = {str(count): launched(count, typed) for count in (1, 2)}
        for count, found in result["processes"].items():
            print(f"{count} processes:  {json.dumps(found)}", flush=True)
    result["paper"] = {name: {**one, **paper(**one)} for name, one in steps(typed.small).items()}
    for name, one in result["paper"].items():
        print(f"{name}:  {json.dumps(one)}")
    result["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="segformer:variant=b0")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2, help="images per process")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--paper", action="store_true", help="measure nothing")
    parser.add_argument("--small", action="store_true", help="on paper one network only")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# ----------------------------------------------------------------------------------------- measured
def start(processes: int, *arguments: str) -> None:
    """Run this file in so many processes, as accelerate starts them."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--num_machines", "1", "--num_processes", str(processes)]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", *(["--multi_gpu"] if processes > 1 else [])]
    subprocess.run([*command, __file__, *arguments], env=environment(processes), check=True)


def launched(
    processes: int, typed: argparse.Namespace, start: Callable[..., None] = start
) -> dict[str, Any]:
    """Measure in so many processes; return what the first one tells."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        sizes = {"arch": typed.arch, "side": typed.side, "batch": typed.batch}
        words = {**sizes, "steps": typed.steps, "worker": told}.items()
        start(processes, *(word for name, value in words for word in (f"--{name}", str(value))))
        found: dict[str, Any] = json.loads(told.read_text())
    return found


def environment(processes: int) -> dict[str, str]:
    """Return the environment of a launch: on the CPU unless there is a GPU for each process."""
    import torch

    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    if torch.cuda.device_count() < processes:
        found["ACCELERATE_USE_CPU"] = "true"
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    return found


@dataclass
class Exchange:
    """What DDP exchanges."""

    buckets: list[int] = field(default_factory=list)
    """Bytes of each."""
    skipped: bool = False
    """Whether gradients stay as they are."""

    def watch(self, model: Any) -> None:
        """Average gradients as DDP does without a hook, and note them."""
        import torch
        from torch.distributed import GradBucket
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        def hook(_: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.buckets.append(bucket.buffer().nbytes)
            if not self.skipped:
                return allreduce_hook(None, bucket)  # type: ignore[arg-type]
            gradients = bucket.buffer()
            where = [gradients.device] if gradients.is_cuda else None
            future: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=where)
            future.set_result(gradients)
            return future

        model.register_comm_hook(None, hook)


def worker(typed: argparse.Namespace) -> None:
    """Time steps in this process, one of several perhaps; the first one writes what it found."""
    with tempfile.TemporaryDirectory() as folder:
        run, exchange = built(typed, folder), Exchange()
        found: dict[str, Any] = {"gradient_bytes": gradient_bytes(run.network)}
        if run.accelerator.num_processes > 1:
            exchange.watch(run.model)
        found["seconds"] = seconds(run, typed, exchange)
        if exchange.buckets:
            found |= {"bytes": sum(exchange.buckets), "buckets": len(exchange.buckets)}
            exchange.skipped = True
            found["seconds_without_exchange"] = seconds(run, typed, exchange)
        run.accelerator.end_training()
        if run.accelerator.is_main_process:
            typed.worker.write_text(json.dumps(found))


def built(typed: argparse.Namespace, folder: str) -> Any:
    """Build a run on the embedded data; its batches are not read."""
    from accelerate.utils import broadcast_object_list

    from segacc.registry import load_registry
    from segacc.settings.sources import Layer
    from segacc.training.plan import make_plan
    from segacc.training.processes import start_accelerator
    from segacc.training.setup import build_run

    start_accelerator("no")
    shared = broadcast_object_list([folder])[0]
    values = {"arch": typed.arch, "weights": "none", "crop_size": typed.side, "num_workers": 0}
    values |= {"batch_size": typed.batch, "output_dir": Path(shared) / "run"}
    return build_run(make_plan([Layer(values, "scaling.py")], load_registry()))


def seconds(run: Any, typed: argparse.Namespace, exchange: Exchange) -> float:
    """Return the median time of a step on a fixed batch, after two that do not count."""
    import torch

    from segacc import loop
    from segacc.data.items import Batch

    torch.manual_seed(run.accelerator.process_index)
    shape, device = (typed.batch, 3, typed.side, typed.side), run.accelerator.device
    images = torch.randint(256, shape, dtype=torch.uint8, device=device)
    labels = torch.randint(run.facts.num_classes, (shape[0], *shape[2:]), device=device)
    taken = []
    for _ in range(typed.steps + 2):
        exchange.buckets.clear()
        start = time.perf_counter()
        loop.train_step(run, [Batch(images, labels)])
        run.accelerator.wait_for_everyone()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return median(taken[2:])


# ----------------------------------------------------------------------------------------- on paper
def steps(small: bool) -> dict[str, dict[str, Any]]:
    """Return for each network its time of a step, bytes of gradients, and their source."""
    known = json.loads(MEASURED.read_text())["cases"] if MEASURED.exists() else {}
    found = dict[str, dict[str, Any]]()
    for name, arch in list(NETWORKS.items())[: 1 if small else None]:
        one = known.get(f"{name},eager", {})
        if "segacc" in one:
            taken = one["batch"] / one["segacc"]["images_per_second"]
            size, batch, source = one["gradient_bytes"], one["batch"], "measured"
        else:
            operations, size = counted(arch)
            if operations is None:
                print(f"{name}:  left out: its operations cannot be counted, and gpu.json has none")
                continue
            taken, batch = operations * BATCH / (SHARE * PEAK), BATCH
            source = f"{SHARE:.0%} of an H200's peak"
        found[name] = {"seconds": taken, "size": size, "batch": batch, "source": source}
    return found


def counted(arch: str) -> tuple[float | None, int]:
    """Return the operations of an image of 512x512 if they can be counted, and gradient bytes."""
    from segacc.contracts import Facts
    from segacc.model.probe import probe
    from segacc.registry import choose, load_registry

    names = tuple(f"class {k}" for k in range(CLASSES))
    facts = Facts(num_classes=CLASSES, class_names=names, crop_size=(512, 512))
    chosen = choose(load_registry(), "architecture", arch, "scaling.py")
    network = chosen.record.build(chosen.options, facts)
    operations = probe(network, (512, 512), facts=facts, count=True).flops
    return operations, gradient_bytes(network)


if __name__ == "__main__":
    sys.exit(main())
