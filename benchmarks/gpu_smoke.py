"""Train on the embedded data, stop half-way, resume, evaluate; print what the device did.

    python benchmarks/gpu_smoke.py                              50 bf16 steps of SegFormer-b0
    python benchmarks/gpu_smoke.py --steps 2 --precision no     what the suite runs on the CPU

The weights are random, so that no network is needed; the scores show that it learns, not how well.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from segacc import TrainConfig, train
from segacc.data.placement import Placement, scatter
from segacc.training.events import Evaluated, Event, Saved, StepDone

PACKAGES = ("segacc", "torch", "torchvision", "transformers", "accelerate")


def main() -> None:
    """Run and print."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        half = max(1, args.steps // 2)
        config = TrainConfig(
            arch=args.arch,
            weights="none",
            max_steps=args.steps,
            batch_size=args.batch_size,
            crop_size=(args.crop_size, args.crop_size),
            mixed_precision=args.precision,
            log_every=1,
            save_every=half,
            eval_every=args.steps,
            num_workers=args.num_workers,
            num_pictures=0,
            output_dir=run,
        )
        before = list(until_saved(train(config), half))
        start = time.perf_counter()
        after = list(train(TrainConfig(resume=str(run))))
        seconds = time.perf_counter() - start
    report(args, before, after, seconds)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="segformer:variant=b0")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--precision", default="bf16", choices=("no", "bf16", "fp16"))
    parser.add_argument("--num-workers", type=int, default=8)
    return parser.parse_args()


def until_saved(events: Iterator[Event], step: int) -> Iterator[Event]:
    """Pass events on, and walk away once the checkpoint of `step` is written."""
    for event in events:
        yield event
        if isinstance(event, Saved) and event.folder.name == f"step-{step:08d}":
            return


def report(
    args: argparse.Namespace, before: list[Event], after: list[Event], seconds: float
) -> None:
    """Print device, versions, speed, memory, losses and scores."""
    steps = [event for event in (*before, *after) if isinstance(event, StepDone)]
    scored = [event for event in after if isinstance(event, Evaluated)][-1]
    assert [event.step for event in steps] == list(range(1, args.steps + 1)), "resume lost a step"
    steady = [event.images_per_second for event in steps[len(steps) // 4 :]]
    waits = [event.data_wait for event in steps[len(steps) // 4 :]]
    lines = {
        "device": device_name(),
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "run": f"{args.arch}, {args.steps} steps of {args.batch_size} crops of {args.crop_size}, "
        f"precision {args.precision}",
        "images per second": f"{median(steady):.1f} (median, one step at a time)",
        "waiting for data": f"{median(waits):.0%} of the time",
        "peak memory": peak_memory(),
        "loss": f"{steps[0].loss:.4f} at step 1, {steps[-1].loss:.4f} at step {steps[-1].step}",
        "resumed": f"at step {after[0].step}, {seconds:.1f} s to the end",
        "evaluation": f"{scored.terms.num_images} images in {scored.seconds:.1f} s",
        "windows": f"scaled as on the CPU up to {scaled_apart()} grey levels, classes equal",
        "mean_iou": f"{scored.scores['mean_iou']:.4f} ({scored.terms.protocol})",
    }
    for name, value in lines.items():
        print(f"{name:<18} {value}")


def scaled_apart() -> int:
    """Return the largest difference of windows scaled on the device from those of the CPU."""
    torch.manual_seed(0)
    sizes, scaled = ((60, 90), (64, 64), (30, 41), (128, 120)), ((64, 64), (64, 40), (50, 64))
    places = [
        Placement(window, to, (64, 64), mirrored=frozenset(mirrored))
        for window in sizes
        for to in scaled
        for mirrored in ((), (-1,), (-1, -2))
    ]
    count = sum(place.window[0] * place.window[1] for place in places)
    row = torch.randint(256, (count, 3)).byte(), torch.randint(256, (count,)).byte()
    images, labels = scatter(*row, places)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    others, classes = (one.cpu() for one in scatter(*(one.to(device) for one in row), places))
    assert torch.equal(labels, classes), "labels were scaled otherwise on the device"
    return int((images.int() - others.int()).abs().max())


def device_name() -> str:
    """Name the accelerator, or the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def peak_memory() -> str:
    """Tell the most that torch had allocated on the GPU."""
    if not torch.cuda.is_available():
        return "not measured on the CPU"
    return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
