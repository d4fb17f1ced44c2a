"""Hold the memory of an evaluation of large pictures to what it should be.

    python benchmarks/protocol_memory.py                 a picture of 4096x8192, 150 classes
    python benchmarks/protocol_memory.py --cases whole   that one again; the others' figures stay

Each case is a process of its own that decodes one picture, predicts it at its original size on the
CPU, and scores it by mean_iou: `slide` and `tta` (the picture and its mirror image, through windows
too) with SegFormer-b0 of random weights; `whole` with a network that does nothing but score each
class at a fourth of the size. What SegFormer's own decoder makes of such a picture in one piece,
four times 256 channels at a fourth of its size, takes 8.6 GB whatever is done with its logits.

Memory is what Linux tells: `before` is the RSS when all is loaded and a picture of 64x64 pixels was
scored, which brings the libraries' own memory; `peak` is the high-water mark of the whole process.
benchmarks/results/protocol-memory.json holds the figures. Exit code 1 when a case takes 2 GB or
more: the whole process for `slide` and `tta`; for `whole`, whose logits alone take 1.26 GB, what
comes on top of `before`.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "protocol-memory.json"
PACKAGES = ("torch", "torchvision", "transformers", "pillow", "numpy")
CASES = {
    "slide": "slide:crop=512",
    "tta": "tta:crop=512,stride=512",
    "whole": "whole",
}
LIMIT = 2000
"""Megabytes of 10**6 bytes."""


def main() -> int:
    """Measure, print, write, and tell whether all is within the limit."""
    typed = parse()
    if not Path("/proc/self/statm").exists():
        sys.exit("benchmarks/protocol_memory.py: only Linux tells a process's memory this way.")
    if typed.case:
        print(json.dumps(measure(typed.case, typed.folder, typed.classes)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for name, size in (("small", (64, 64)), ("large", (typed.height, typed.width))):
            draw(Path(folder) / name, *size, typed.classes)
        found = {case: in_a_process(case, folder, typed.classes) for case in typed.cases}
    size = {"height": typed.height, "width": typed.width, "classes": typed.classes}
    result = {
        **size,
        "limit_mb": LIMIT,
        "cases": {**earlier(typed.output, size), **found},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    typed.output.parent.mkdir(exist_ok=True)
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    for case, told in found.items():
        print(
            f"{case:<6} peak {told['peak_mb']:.0f} MB, {told['before_mb']:.0f} MB of them before; "
            f"counted {told['counted_mb']:.0f} MB, less than {LIMIT} wanted"
        )
    return int(any(told["counted_mb"] >= LIMIT for told in found.values()))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=4096)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def draw(folder: Path, height: int, width: int, classes: int) -> None:
    """Write a picture of slopes and bars, and a label of squares."""
    folder.mkdir()
    down, across = np.arange(height)[:, None], np.arange(width)[None]
    slopes = (down // 9 + across // 5) % 256, (down * across // 4096) % 256, across // 64 % 2 * 200
    picture = np.stack([np.broadcast_to(one, (height, width)) for one in slopes], axis=-1)
    Image.fromarray(picture.astype(np.uint8)).save(folder / "image.jpg", quality=90)
    label = (down // 100 * 7 + across // 100) % classes
    Image.fromarray(label.astype(np.uint8)).save(folder / "label.png")


def earlier(path: Path, size: dict[str, int]) -> dict[str, Any]:
    """Return the figures of cases that were measured before with such a picture."""
    told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    same = all(told.get(key) == value for key, value in size.items())
    return dict(told["cases"]) if same else {}


def in_a_process(case: str, folder: str, classes: int) -> dict[str, Any]:
    """Measure one case in a process of its own."""
    command = [sys.executable, __file__, "--case", case, "--folder", folder]
    command += ["--classes", str(classes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(case: str, folder: Path, classes: int) -> dict[str, Any]:
    """Evaluate the picture, and look at the memory before and after."""
    from segacc.contracts import Facts
    from segacc.data.batches import EvalData, Source
    from segacc.evaluation.memory import peak_memory
    from segacc.evaluation.protocol import Protocol
    from segacc.evaluation.scoring import Scoring
    from segacc.hookspecs import Sample
    from segacc.labels import LabelMap
    from segacc.loop import evaluate
    from segacc.registry import choose, load_registry
    from segacc.training.processes import start_accelerator

    names = tuple(f"class {k}" for k in range(classes))
    registry, facts = load_registry(), Facts(num_classes=classes, class_names=names)
    accelerator = start_accelerator("no")
    network = quarter(classes) if case == "whole" else segformer(registry, facts)
    metric = choose(registry, "metric", "mean_iou", "--metric")
    small, large = (
        Sample(folder / size / "image.jpg", folder / size / "label.png", size)
        for size in ("small", "large")
    )
    scoring = Scoring(
        accelerator,
        network,
        network,
        EvalData(Source([small], LabelMap.plain(names))),
        Protocol.parse(CASES[case], "-"),
        facts,
        [metric],
    )
    evaluate(scoring)
    scoring.data = EvalData(Source([large], LabelMap.plain(names)))
    before, start = resident(), time.perf_counter()
    scores, _ = evaluate(scoring)
    seconds, peak = time.perf_counter() - start, peak_memory(accelerator.device) / 1e6
    assert scoring.num_images == 1
    return {
        "protocol": scoring.protocol.text(),
        "before_mb": before,
        "peak_mb": peak,
        "counted_mb": round(peak - before if case == "whole" else peak, 1),
        "seconds": round(seconds, 1),
        "overall_accuracy": scores["overall_accuracy"],
    }


def segformer(registry: Any, facts: Any) -> Any:
    """Build SegFormer-b0 with random weights."""
    from segacc.registry import choose

    chosen = choose(registry, "architecture", "segformer:variant=b0", "--arch")
    return chosen.record.build(chosen.options, facts)


def quarter(classes: int) -> Any:
    """Build a network of one pooling and one matrix."""
    import torch
    import torch.nn.functional as F

    from segacc.model import Logits, SegmentationModel

    class Quarter(SegmentationModel):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = torch.nn.Parameter(torch.randn(classes, 3))

        def forward(self, images: torch.Tensor) -> Logits:
            small = F.avg_pool2d(images, 4)
            return Logits((self.weight @ small[0].flatten(1)).view(1, classes, *small.shape[2:]))

    return Quarter()


def resident() -> float:
    """Return the memory that this process has now, in megabytes, as Linux tells it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    sys.exit(main())
