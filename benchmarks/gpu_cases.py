"""What benchmarks/gpu.py measures in each of its processes."""

import gc
import inspect
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from arithmetic import example, gradient, plain_argmax, plain_loss
from gpu import CLASSES, gradient_bytes
from PIL import Image
from torch import Tensor

from segacc import TrainConfig, loop, train
from segacc.contracts import Facts
from segacc.data.items import Batch
from segacc.data.placement import Placement, scatter
from segacc.evaluation.memory import peak_memory
from segacc.kernels.pixel import cross_entropy_sum
from segacc.kernels.resize import decide
from segacc.model.arithmetic import peak_of
from segacc.registry import choose, load_registry
from segacc.settings.sources import Layer
from segacc.training.events import Evaluated, Event, Saved, StepDone
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    side: int
    batch: int
    """Images of a batch, at most."""
    steps: int
    """Of a turn, of which there are `turns`, after as many that do not count."""
    turns: int
    pictures: int
    workers: int
    check: dict[str, Any]
    """Settings of the run that is resumed."""


FULL = Sizes(
    side=512,
    batch=32,
    steps=8,
    turns=3,
    pictures=256,
    workers=min(16, os.cpu_count() or 1),
    check={"arch": "segformer:variant=b0", "max_steps": 50, "batch_size": 8, "crop_size": 256},
)
SMOKE = Sizes(
    side=64,
    batch=2,
    steps=1,
    turns=1,
    pictures=4,
    workers=0,
    check={"arch": "segformer:variant=tiny", "max_steps": 2, "batch_size": 2, "crop_size": 64},
)


# ---------------------------------------------------------------------------------------- a network
def network(arch: str, compiled: bool, sizes: Sizes, device: str) -> dict[str, Any]:
    """Measure the training steps of a network."""
    model, images = plain_network(arch, sizes.side).to(device), sizes.batch
    while (step := fitting(model, images, sizes, device, compiled)) is None:
        images //= 2
        assert images, f"{arch}: one image does not fit"
    found = {"batch": images, "plain": timed(step, images, sizes, device)}
    del model, step
    released(device)
    with tempfile.TemporaryDirectory() as folder:
        run = built(arch, images, sizes, Path(folder), compiled)
        batch = Batch(*fixed(images, sizes.side, device))
        ours = partial(loop.train_step, run, [batch])
        found["segacc"] = timed(ours, images, sizes, device)
        found["files"] = from_files(run, sizes)
    plain, mine = (found[way]["images_per_second"] for way in ("plain", "segacc"))
    peak = peak_of(torch.cuda.get_device_name(), "bf16") if device == "cuda" else None
    for way in ("plain", "segacc", "files"):
        speed = found[way]["images_per_second"]
        found[way]["mfu"] = run.flops * speed / peak if run.flops and peak else None
    return {**found, "gradient_bytes": gradient_bytes(run.network), "ratio": mine / plain}


def plain_network(arch: str, side: int) -> Any:
    """Build transformers' network with random weights."""
    names = tuple(f"class {k}" for k in range(CLASSES))
    facts = Facts(num_classes=CLASSES, class_names=names, crop_size=(side, side))
    chosen = choose(load_registry(), "architecture", arch, "gpu.py")
    return chosen.record.build(chosen.options, facts).network.train()


def fixed(images: int, side: int, device: str) -> tuple[Tensor, Tensor]:
    """Draw images (N, 3, H, W) uint8 and labels (N, H, W) int64 of 16 classes in squares."""
    torch.manual_seed(0)
    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
    squares = torch.randint(CLASSES, (images, 4, 4)).repeat_interleave(side // 4, 1)
    return pixels.to(device), squares.repeat_interleave(side // 4, 2).to(device)


def fitting(
    model: Any, images: int, sizes: Sizes, device: str, compiled: bool
) -> Callable[[], None] | None:
    """Return the plain step for so many images, after one; None if the memory is not enough."""
    step = plain_step(model, images, sizes.side, device, compiled)
    with suppress(torch.OutOfMemoryError):
        step()
        return step
    model.zero_grad()
    released(device)
    return None


def plain_step(
    model: Any, images: int, side: int, device: str, compiled: bool
) -> Callable[[], None]:
    """Return a step of transformers' network with its own loss and AdamW, in bf16."""
    pixels, labels = fixed(images, side, device)
    given = {"pixel_values": pixels.float() / 127.5 - 1, **targets(model, labels)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5)
    called = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = called(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def targets(model: Any, labels: Tensor) -> dict[str, Any]:
    """Return labels (N, H, W) as the network takes them: as they are, or as a mask for a class."""
    if "mask_labels" not in inspect.signature(model.forward).parameters:
        return {"labels": labels}
    classes = [label.unique() for label in labels]
    pairs = zip(labels, classes, strict=True)
    masks = [(label == some[:, None, None]).float() for label, some in pairs]
    return {"mask_labels": masks, "class_labels": classes}


def timed(step: Callable[[], Any], images: int, sizes: Sizes, device: str) -> dict[str, float]:
    """Return images per second of a step, the median of the turns, and its peak memory."""
    took = []
    for turn in range(sizes.turns + 1):
        if turn == 1 and device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(sizes.steps):
            step()
        synchronize(device)
        took.append((time.perf_counter() - start) / sizes.steps)
    peak = peak_memory(torch.device(device)) / 2**30
    return {"images_per_second": images / median(took[1:]), "peak_gib": round(peak, 2)}


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def released(device: str) -> None:
    """Return the memory that nothing uses any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def built(arch: str, images: int, sizes: Sizes, folder: Path, compiled: bool) -> Run:
    """Build a run of `segacc train` whose data are files."""
    values = {
        "arch": arch,
        "weights": "none",
        "dataset": f"folder:root={pictures(folder / 'data', sizes)}",
        "crop_size": sizes.side,
        "batch_size": images,
        "mixed_precision": "bf16",
        "num_workers": sizes.workers,
        "compile": compiled,
        "log_every": sizes.steps,
        "max_steps": 100_000,
        "eval_every": 100_000,
        "save_every": 100_000,
        "output_dir": folder / "run",
    }
    return build_run(make_plan([Layer(values, "gpu.py")], load_registry()))


def pictures(folder: Path, sizes: Sizes) -> Path:
    """Write pictures of the embedded data, enlarged, as JPEG, and squares of classes as PNG."""
    data = choose(load_registry(), "dataset", "nuclei", "gpu.py").build()
    draw, size = np.random.default_rng(0), (sizes.side * 4 // 3, sizes.side)
    for number in range(sizes.pictures):
        split = "train" if number > 1 else "validation"
        sample = data.splits["train"][number % len(data.splits["train"])]
        paths = [folder / kind / split for kind in ("images", "annotations")]
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        write_pair(sample, [path / f"{number}" for path in paths], size, draw)
    names = "\n".join(f"class {k}" for k in range(CLASSES))
    (folder / "classes.txt").write_text(names)
    return folder


def write_pair(sample: Any, paths: list[Path], size: tuple[int, int], draw: Any) -> None:
    """Write an image and a label."""
    import io

    image = Image.open(io.BytesIO(sample.image)).convert("RGB").resize(size)
    image.save(paths[0].with_suffix(".jpg"), quality=90)
    label = Image.fromarray(draw.integers(0, CLASSES, (6, 8)).astype(np.uint8))
    label.resize(size, Image.Resampling.NEAREST).save(paths[1].with_suffix(".png"))


def from_files(run: Run, sizes: Sizes) -> dict[str, Any]:
    """Train from files; return speed, the share of the time spent waiting for them, and memory."""
    events = (one for one in loop.train(run) if isinstance(one, StepDone) and one.logged)
    found = [next(events) for _ in range(sizes.turns + 2)][2:]  # the first is of one step
    return {
        "images_per_second": median(one.images_per_second for one in found),
        "data_wait": median(one.data_wait for one in found),
        "peak_gib": round((found[-1].peak_memory or 0) / 2**30, 2),
        "workers": sizes.workers,
    }


# -------------------------------------------------------------------------------------- the kernels
def kernels(sizes: Sizes, device: str) -> dict[str, Any]:
    """Measure loss with gradient, and argmax: seconds, and memory beside the operands."""
    logits, labels = (
        one.repeat(4, *(1,) * (one.dim() - 1)) for one in example(CLASSES, sizes.side)
    )
    logits, labels = logits.to(device), labels.to(device)
    size = (sizes.side, sizes.side)
    ways: dict[str, dict[str, Callable[[], Any]]] = {
        "loss": {
            "plain": partial(gradient, plain_loss, logits, labels),
            "segacc": partial(gradient, cross_entropy_sum, logits, labels),
            "compiled": partial(gradient, torch.compile(plain_loss), logits, labels),
        },
        "argmax": {
            "plain": partial(plain_argmax, logits, sizes.side),
            "segacc": lambda: decide(logits, size).classes,
            "compiled": partial(torch.compile(plain_argmax), logits, sizes.side),
        },
    }
    return {name: kernel(some, sizes, device) for name, some in ways.items()}


def kernel(ways: dict[str, Callable[[], Any]], sizes: Sizes, device: str) -> dict[str, Any]:
    """Measure one kernel in each way; on a CPU not compiled, and without memory."""
    found: dict[str, Any] = {}
    for name, way in ways.items():
        if device == "cpu" and name == "compiled":
            continue
        held = torch.cuda.memory_allocated() if device == "cuda" else 0
        told = timed(way, 1, sizes, device)
        found[name] = 1 / told["images_per_second"]
        if device == "cuda":
            found[f"{name}_mib"] = round(told["peak_gib"] * 2**10 - held / 2**20)
    found["ratio"] = found["plain"] / found["segacc"]
    return found


# ---------------------------------------------------------------------------------------- the check
def check(sizes: Sizes, device: str) -> dict[str, Any]:
    """Train on the embedded data, stop half-way, resume, evaluate; scale images on the device."""
    with tempfile.TemporaryDirectory() as folder:
        steps = sizes.check["max_steps"]
        given = {**sizes.check, "weights": "none", "output_dir": Path(folder) / "run"}
        given |= {"mixed_precision": "bf16", "num_workers": sizes.workers, "num_pictures": 0}
        given |= {"log_every": 1, "save_every": steps // 2, "eval_every": steps}
        given["crop_size"] = (sizes.check["crop_size"],) * 2
        before = list(until_saved(train(TrainConfig(**given)), steps // 2))
        after = list(train(TrainConfig(resume=str(given["output_dir"]))))
    found = [event for event in (*before, *after) if isinstance(event, StepDone)]
    scored = [event for event in after if isinstance(event, Evaluated)][-1]
    assert [event.step for event in found] == list(range(1, steps + 1)), "resume lost a step"
    return {
        "steps": steps,
        "resumed_at": after[0].step,
        "first_loss": found[0].loss,
        "last_loss": found[-1].loss,
        "mean_iou": scored.scores["mean_iou"],
        "evaluated": scored.terms.num_images,
        "grey_levels_apart": scaled_apart(device),
    }


def until_saved(events: Iterator[Event], step: int) -> Iterator[Event]:
    """Pass events on, and walk away once the checkpoint of `step` is written."""
    for event in events:
        yield event
        if isinstance(event, Saved) and event.folder.name == f"step-{step:08d}":
            return


def scaled_apart(device: str) -> int:
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
    others, classes = (one.cpu() for one in scatter(*(one.to(device) for one in row), places))
    assert torch.equal(labels, classes), "labels were scaled otherwise on the device"
    return int((images.int() - others.int()).abs().max())
