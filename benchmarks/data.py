"""Time how one core reads training samples, beside the way of Hugging Face's tutorial.

    python benchmarks/data.py                 24 pictures of ADE20K to 512x512, in nine rounds
    python benchmarks/data.py --quality 90    the same pictures, encoded anew: harder to decode
    python benchmarks/data.py --pillow        decoded by Pillow, as without torchcodec

All ways run in turn in each round, in one worker of a data loader, on one core with one thread:

    tutorial        PIL, torchvision's ColorJitter, SegformerImageProcessor, eight at a time
    worker          segacc up to the tensors that leave a worker: decoded, labels mapped, cropped at
                    random, scale, flip and colours drawn, collated
    device          the same, and what the device does then, on the CPU: scaling, flips, colours,
                    normalization
    worker cached   as above, the samples from --cache
    device cached

Then data loaders with 1, 2 and 4 workers read on all cores as `worker` does.

The pictures are those of ../shared/data/ade20k_sample whose shorter side has 480 pixels or more,
byte for byte: most are 683x512, at JPEG quality 75 by their tables, with labels as PNG.

benchmarks/results/data.json holds the medians over the rounds, of the ratios too. Exit code 1 when
`worker` is not 8 times, or `device` not 3 times, as fast as `tutorial`.
"""

import argparse
import importlib.metadata
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image as PILImage
from torch.utils.data import Dataset
from torchvision.transforms import ColorJitter
from transformers import SegformerImageProcessor

from segacc.contracts import Facts
from segacc.data.augment import Pipeline
from segacc.data.batches import EvalData, Source, TrainData, load
from segacc.data.cache import cached
from segacc.data.codecs import decoded_by
from segacc.data.decode import read_image, read_label
from segacc.data.items import Batch, collate
from segacc.data.order import Cut, Order, sample_seed, seeded
from segacc.data.placement import packed
from segacc.data.samples import build_splits
from segacc.evaluation.memory import keep_memory
from segacc.hookspecs import Sample
from segacc.registry import choose, load_registry

ROOT = Path(__file__).parent.parent
PICTURES = ROOT.parent / "shared" / "data" / "ade20k_sample"
RESULTS = ROOT / "benchmarks" / "results" / "data.json"
PACKAGES = ("torch", "torchvision", "transformers", "pillow", "torchcodec", "numpy")
TARGETS = {"worker": 8.0, "device": 3.0}
"""Times as fast as `tutorial`."""
AUGMENTATIONS = ("random_scale_crop", "flip", "color_jitter")
BATCH, SIDE, SHORTEST = 8, 512, 480
Way = Callable[[int, Sequence[int]], Any]
"""(round, places of a batch) to what a step would be given."""


def main() -> int:
    """Measure, print, write, and tell whether the targets are met."""
    typed = parse()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    core = on_one_core()
    keep_memory()  # as a run does
    if typed.pillow:
        sys.modules["torchcodec"] = None  # type: ignore[assignment]
    split = pictures(typed.quality)
    with tempfile.TemporaryDirectory() as folder:
        ways, train = all_ways(split, folder)
        speeds, parts = measured(Rounds(ways, train, typed.images), typed.rounds)
    figures = {name: median(found) for name, found in speeds.items()}
    paces = {name: zip(found, speeds["tutorial"], strict=True) for name, found in speeds.items()}
    ratios = {name: median(own / theirs for own, theirs in paces[name]) for name in speeds}
    if cores:
        os.sched_setaffinity(0, cores)
    by_workers = {str(count): with_workers(train, count, typed.images) for count in typed.workers}
    result = {
        "pictures": described(split.samples, typed.quality),
        "rounds": typed.rounds,
        "images_per_second": {name: round(figure, 1) for name, figure in figures.items()},
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "by_workers": {count: round(speed, 1) for count, speed in by_workers.items()},
        "worker_milliseconds": {name: round(median(ms), 3) for name, ms in parts.items()},
        "decoder": decoded_by(),
        "core": core,
        "versions": {name: importlib.metadata.version(name) for name in installed(PACKAGES)},
    }
    typed.output.parent.mkdir(exist_ok=True)
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    report(result)
    return int(any(ratios[name] < target for name, target in TARGETS.items()))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=48, help="of each way in a round")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], help="on all cores")
    parser.add_argument("--quality", type=int, help="of JPEG; default: the files as they are")
    parser.add_argument("--pillow", action="store_true", help="decode by Pillow")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def on_one_core() -> str:
    """Keep this process on one core, with one thread; return what the core is."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def pictures(quality: int | None) -> Source:
    """Return the pictures of ADE20K as a split, from their files or encoded anew."""
    if not PICTURES.is_dir():
        sys.exit(f"benchmarks/data.py: {PICTURES} is not here.")
    splits = build_splits(
        choose(load_registry(), "dataset", f"folder:root={PICTURES}", "--dataset")
    )
    samples = [one for split in ("train", "validation") for one in splits.splits[split]]
    large = [one for one in samples if min(PILImage.open(one.image).size) >= SHORTEST]
    return Source([encoded(one, quality) if quality else one for one in large], splits.labels)


def encoded(sample: Sample, quality: int) -> Sample:
    """Encode a picture anew; its label stays a file."""
    file = io.BytesIO()
    PILImage.open(sample.image).convert("RGB").save(file, "JPEG", quality=quality)
    return replace(sample, image=file.getvalue())


def described(samples: Sequence[Sample], quality: int | None) -> dict[str, Any]:
    """Tell what was read."""
    files = [opened(one.image) for one in samples]
    sizes = Counter("{}x{}".format(*PILImage.open(file).size) for file in files)
    return {
        "count": len(files),
        "sizes": dict(sizes.most_common()),
        "mean_bytes": round(mean(file.getbuffer().nbytes for file in files)),
        "encoded": f"quality {quality}" if quality else "as they are",
    }


def installed(packages: Sequence[str]) -> list[str]:
    """Return those that are installed."""
    found = {one.metadata["Name"].lower() for one in importlib.metadata.distributions()}
    return [name for name in packages if name in found]


def opened(image: bytes | Path) -> io.BytesIO:
    """Read an encoded picture."""
    return io.BytesIO(image if isinstance(image, bytes) else image.read_bytes())


def all_ways(split: Source, folder: str) -> tuple[dict[str, Way], TrainData]:
    """Return all ways by name, and the training data that `worker` reads."""
    registry, names = load_registry(), split.labels.names
    facts = Facts(num_classes=len(names), class_names=names, crop_size=(SIDE, SIDE))
    chosen = [choose(registry, "augmentation", name, "--aug") for name in AUGMENTATIONS]
    arch = choose(registry, "architecture", "segformer:variant=tiny", "--arch")
    network, pipeline = arch.record.build(arch.options, facts), Pipeline.of(chosen, facts)
    accelerator = Accelerator(cpu=True)
    kept, _ = cached(split, EvalData(split), folder, accelerator, "--cache")
    order = Order(len(split), seed=0)
    train, again = (TrainData(one, pipeline, order) for one in (split, kept))
    ways = {
        "tutorial": tutorial(split.samples),
        "worker": worker(train),
        "device": device(worker(train), pipeline, network),
        "worker cached": worker(again),
        "device cached": device(worker(again), pipeline, network),
    }
    return ways, train


def tutorial(samples: Sequence[Sample]) -> Way:
    """Do what huggingface.co/docs/transformers/tasks/semantic_segmentation does with a batch."""
    jitter = ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.1)
    processor = SegformerImageProcessor(do_reduce_labels=True)

    def read(turn: int, places: Sequence[int]) -> Any:
        files = [samples[place] for place in places]
        images = [jitter(PILImage.open(opened(one.image)).convert("RGB")) for one in files]
        labels = [PILImage.open(opened(one.label)) for one in files]
        inputs = processor(images, labels)
        return torch.stack(inputs["pixel_values"]), torch.stack(inputs["labels"])

    return read


def worker(train: TrainData) -> Way:
    """Do what a data loader's worker does."""

    def read(turn: int, places: Sequence[int]) -> Batch:
        batch = collate([train[turn, place] for place in places])
        assert isinstance(batch, Batch), batch
        return batch

    return read


def device(worker: Way, pipeline: Pipeline, network: Any) -> Way:
    """Do what a training step does with a worker's batch before the network sees it."""

    def read(turn: int, places: Sequence[int]) -> Any:
        batch = pipeline.on_device(worker(turn, places))
        return network.normalize(batch.images), batch.labels.long()

    return read


@dataclass(frozen=True)
class Rounds(Dataset[Any]):
    """All ways in turn, as often as a data loader's worker is asked."""

    ways: dict[str, Way]
    train: TrainData
    images: int

    def __getitem__(self, turn: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return images per second of each way, and a worker's milliseconds by what they go to."""
        row = [place % self.train.num_samples for place in range(self.images)]
        speeds = {}
        for name, way in self.ways.items():
            start = time.perf_counter()
            for first in range(0, self.images, BATCH):
                way(turn, row[first : first + BATCH])
            speeds[name] = self.images / (time.perf_counter() - start)
        parts = spent(self.train, turn)
        return speeds, {name: 1000 * s / self.train.num_samples for name, s in parts.items()}


def measured(rounds: Rounds, count: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Go through some rounds in a worker, after one that does not count; a number for each."""
    loader = load(rounds, 1, ahead=1, batch_size=None, sampler=range(count + 1))
    found = list(loader)[1:]
    speeds, parts = ([one[which] for one in found] for which in (0, 1))
    return together(speeds), together(parts)


def with_workers(train: TrainData, count: int, images: int) -> float:
    """Return images per second of so many workers on all cores, from the first batch on."""
    batches = max(4, 4 * images * count // BATCH)
    cut = Cut(batch_size=BATCH, accumulation=1, process=0, processes=1)
    given: dict[str, Any] = {"positions": [], "num_workers": count, "pin_memory": False}
    loader = iter(train.loader(cut, range(batches + 1), **given))
    next(loader)
    start = time.perf_counter()
    found = sum(1 for _ in loader)
    return found * BATCH / (time.perf_counter() - start)


def together(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return each name's numbers in a row."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def spent(train: TrainData, turn: int) -> Counter[str]:
    """Take a worker's way apart: seconds for all samples by what they are spent on."""
    seconds: Counter[str] = Counter()

    @contextmanager
    def watch(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] += time.perf_counter() - start

    source, pipeline, windows = train.source, train.pipeline, []
    for place, sample in enumerate(source.samples):
        with watch("decode the image"):
            image = read_image(sample.image, sample.id)
        with watch("decode and map the label"):
            label = read_label(sample.label, source.labels, sample.id)
        with watch("seed"), seeded(sample_seed(0, turn, place)):
            pass
        with seeded(sample_seed(0, turn, place)):
            crop, flip, colors = (one.change for one in (*pipeline.worker, *pipeline.device))
            with watch("cut random_scale_crop"):
                image, label, placement = crop.deferred_crop(image, label)
            with watch("draw flip"):
                flip.deferred_flip(placement)
            with watch("draw color_jitter"):
                colors.draw(image, label)
        windows.append((image, label))
    with watch("collate"):
        for first in range(0, len(windows), BATCH):
            packed(*zip(*windows[first : first + BATCH], strict=True))
    return seconds


def report(result: dict[str, Any]) -> None:
    """Print the figures."""
    told = result["pictures"]
    each = f"{told['mean_bytes']} bytes each, {told['encoded']}"
    print(f"{told['count']} pictures, {each}; decoded by {result['decoder']}")
    for name, figure in result["images_per_second"].items():
        target = f", at least {TARGETS[name]:g}" if name in TARGETS else ""
        print(f"{name:<16} {figure:7.1f} images/s   ({result['ratios'][name]:.2f}{target})")
    for count, speed in result["by_workers"].items():
        print(f"{count} workers {speed:10.1f} images/s")
    for name, milliseconds in result["worker_milliseconds"].items():
        print(f"  {name:<26} {milliseconds:6.3f} ms")


if __name__ == "__main__":
    sys.exit(main())
