"""Time `segacc check-data` on all of CamVid: 367 training and 101 validation images of 480x360.

    python benchmarks/check_data.py

Each round is the command as it is typed, a process of its own that imports, reads everything with
two workers, compares all images, and draws its picture. Beside it stands the least that anybody's
own script would do: one process that opens every image and label with Pillow and counts the values.

benchmarks/results/check-data.json holds the figures. Exit code 1 when the command takes 10 seconds.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CAMVID = ROOT.parent / "shared" / "data" / "camvid"
RESULTS = ROOT / "benchmarks" / "results" / "check-data.json"
LIMIT = 10.0
"""Seconds for the command."""
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image

root = Path(sys.argv[1])
for label in sorted(root.glob("annotations/*/*.png")):
    [image] = (root / "images" / label.parent.name).glob(f"{label.stem}.*")
    shape = np.asarray(Image.open(image)).shape[:2]
    values = np.asarray(Image.open(label))
    np.bincount(values.ravel(), minlength=256)
    assert values.shape == shape
"""


def main() -> int:
    """Measure, print, write, and tell whether the target is met."""
    typed = parse()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "segacc", "check-data", "--json", "--num-workers", "2"]
        command += ["--dataset", f"folder:root={typed.root}", "--output-dir", folder]
        told: dict[str, Any] = json.loads(output(command))
        seconds = {
            "check-data": timed(lambda: output(command), typed.rounds),
            "script": timed(
                lambda: output([sys.executable, "-c", SCRIPT, typed.root]), typed.rounds
            ),
        }
    medians = {name: median(found) for name, found in seconds.items()}
    pairs = {name: split["read"] for name, split in told["splits"].items()}
    result = {
        "pairs": pairs,
        "rounds": typed.rounds,
        "seconds": {name: round(found, 2) for name, found in medians.items()},
        "overhead": round(medians["check-data"] / medians["script"], 2),
        "slowest": round(max(seconds["check-data"]), 2),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "pillow", "numpy")
        },
    }
    typed.output.parent.mkdir(exist_ok=True)
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"check-data  {medians['check-data']:.2f} s (less than {LIMIT:g}) for "
        f"{sum(pairs.values())} pairs"
    )
    print(f"opening the files, one process  {medians['script']:.2f} s")
    return int(medians["check-data"] >= LIMIT)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=CAMVID)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def output(command: list[Any]) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        CalledProcessError: it failed.
    """
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def timed(work: Callable[[], Any], rounds: int) -> list[float]:
    """Return the seconds of each round; the files are in the system's cache before the first."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    sys.exit(main())
