"""Time how a COCO file of 100,000 annotations is opened, and what drawing its labels costs.

    python benchmarks/annotations.py                      100,000 polygons on 14,000 images
    python benchmarks/annotations.py --annotations 1000   a small file

The file is written first: polygons of 8 to 42 corners on images of 480x640 pixels, 80 categories,
seven annotations an image, as in COCO's instances. Then a fresh process builds the data set `coco`
from it, as a run does, and draws some labels with one thread: seconds from the call to the samples,
the largest memory of that process in MB, and milliseconds a label, encoded and decoded again.

benchmarks/results/annotations.json holds the figures. Exit code 1 when the file took 5 seconds or
more to open, or the process 1 GB.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "annotations.json"
SECONDS, MEGABYTES = 5.0, 1000.0
"""Limits of opening a file of 100,000 annotations."""
PER_IMAGE, CATEGORIES, DRAWN = 7, 80, 200
HEIGHT, WIDTH = 480, 640


def main() -> int:
    """Write the file, measure in a process of its own, and tell whether the limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.measure:
        print(json.dumps(measured(typed.measure)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), typed.annotations)
        size = path.stat().st_size
        command = [sys.executable, __file__, "--measure", str(path)]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result = {"annotations": typed.annotations, "file_megabytes": round(size / 1e6, 1)}
    result |= json.loads(told.stdout)
    typed.output.parent.mkdir(exist_ok=True)
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(f"{name}: {figure}" for name, figure in result.items()))
    return int(result["seconds"] >= SECONDS or result["memory_megabytes"] >= MEGABYTES)


def written(folder: Path, count: int) -> Path:
    """Write the file, and the one picture that all its images are links to."""
    draw = random.Random(0)
    images = max(1, count // PER_IMAGE)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 60)).save(folder / "picture.jpg")
    facts: dict[str, Any] = {"images": [], "annotations": []}
    facts["categories"] = [{"id": 2 * k + 1, "name": f"class {k}"} for k in range(CATEGORIES)]
    for key in range(images):
        name = f"{key:012d}.jpg"
        (folder / name).symlink_to("picture.jpg")
        facts["images"].append({"id": key, "file_name": name, "height": HEIGHT, "width": WIDTH})
    for key in range(count):
        x, y = draw.uniform(50, WIDTH - 50), draw.uniform(50, HEIGHT - 50)
        corners = [
            (round(x + draw.uniform(-40, 40), 2), round(y + draw.uniform(-40, 40), 2))
            for _ in range(draw.randint(8, 42))
        ]
        annotation = {
            "id": key,
            "image_id": key * images // count,
            "category_id": 2 * draw.randrange(CATEGORIES) + 1,
            "segmentation": [[part for corner in corners for part in corner]],
            "bbox": [x - 40, y - 40, 80, 80],
            "area": 3000.5,
            "iscrowd": 0,
        }
        facts["annotations"].append(annotation)
    path = folder / "instances.json"
    path.write_text(json.dumps(facts))
    return path


def measured(path: Path) -> dict[str, float]:
    """Open the file and draw some labels, in a process that does nothing else."""
    from segacc.data.samples import build_splits, evenly_spaced
    from segacc.registry import choose, load_registry

    dataset = choose(load_registry(), "dataset", f"coco:annotations={path}", "--dataset")
    start = time.perf_counter()
    data = build_splits(dataset)
    seconds = time.perf_counter() - start

    import torch

    from segacc.data.decode import read_label
    from segacc.evaluation.memory import peak_memory

    memory = peak_memory(torch.device("cpu"))
    torch.set_num_threads(1)
    train = data.splits["train"]
    chosen = [train[index] for index in evenly_spaced(len(train), DRAWN)]
    read_label(chosen[0].label, data.labels, "a label")  # which loads the decoder
    start = time.perf_counter()
    for sample in chosen:
        read_label(sample.label, data.labels, sample.id)
    drawing = (time.perf_counter() - start) / len(chosen)
    return {
        "seconds": round(seconds, 2),
        "memory_megabytes": round(memory / 1e6),
        "milliseconds_a_label": round(1000 * drawing, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
