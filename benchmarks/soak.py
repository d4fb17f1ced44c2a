"""Train two processes for many short steps; memory, open files and threads must stay as they are.

    python benchmarks/soak.py                 2,000 steps, some 10 minutes on 2 cores
    python benchmarks/soak.py --steps 60 --every 10 --settled 20     what the suite runs

Every 50 steps the run is scored and saved. Launcher, processes and data workers are looked at after
each of these, and the largest of each number in the last quarter of the run is compared with the
largest between the first 200 steps and the middle: unique memory may grow by up to 5 %, files and
threads by none. benchmarks/results/soak.json holds what was found; exit code 1 if one grew.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mode
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results" / "soak.json"
PACKAGES = ("segacc", "torch", "accelerate")
SETTINGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "32"),
    *("--batch-size", "1", "--num-workers", "1", "--num-pictures", "1", "--keep", "2"),
    *("--eval-split", "validation[:4]", "--ema", "0.9"),
)
GROWTH = {"memory_mb": 1.05, "files": 1.0, "threads": 1.0}
"""By how much each number may grow."""


def main() -> int:
    """Run, look, compare; return the exit code."""
    typed = parse()
    with tempfile.TemporaryDirectory() as folder:
        looks = watch(Path(folder) / "run", typed.steps, typed.every)
    usual = mode(look["processes"] for look in looks)  # data workers come and go
    looks = [look for look in looks if look["processes"] == usual]
    middle, last = typed.steps // 2, typed.steps * 3 // 4
    early = [look for look in looks if typed.settled <= look["step"] <= middle]
    late = [look for look in looks if look["step"] > last]
    if not early or not late:
        sys.exit(f"Too few looks with {usual} processes: {[look['step'] for look in looks]}")
    compared = {}
    for key, allowed in GROWTH.items():
        before, after = (max(look[key] for look in some) for some in (early, late))
        compared[key] = {"before": before, "after": after, "flat": after <= allowed * before}
        print(f"{key:10} {before:8} {after:8} {'flat' if compared[key]['flat'] else 'GROWS'}")
    if typed.output:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        content = {"steps": typed.steps, "every": typed.every, "versions": versions}
        content |= {"compared": compared, "looks": looks}
        typed.output.write_text(json.dumps(content, indent=1) + "\n")
    return int(not all(one["flat"] for one in compared.values()))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--settled", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def watch(run: Path, steps: int, every: int) -> list[dict[str, Any]]:
    """Train; return what was seen after each evaluation."""
    often = [f"--{what}-every={every}" for what in ("eval", "save", "log")]
    command = [sys.executable, "-m", "segacc", "train", "--processes", "2", *SETTINGS, *often]
    command += [f"--max-steps={steps}", "--output-dir", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    looks: list[dict[str, Any]] = []
    while process.poll() is None:
        time.sleep(0.1)
        step = scored(run)
        if step and step > (looks[-1]["step"] if looks else 0):
            time.sleep(0.5)  # what was saved is closed again
            looks.append({"step": step, **seen(process.pid)})
    assert process.stderr
    if process.returncode:
        sys.exit(process.stderr.read().decode()[-4000:])
    return looks


def scored(run: Path) -> int:
    """Return the step of the newest evaluation."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    rows = map(json.loads, lines)
    return max((row["step"] for row in rows if row["kind"] == "eval"), default=0)


def seen(pid: int) -> dict[str, int]:
    """Return the memory (MB), open files and threads of a process and all below it."""
    found = {"memory_mb": 0, "files": 0, "threads": 0, "processes": 0}
    above = psutil.Process(pid)
    for one in [above, *above.children(recursive=True)]:
        try:
            memory = one.memory_full_info().uss
            more = {"files": one.num_fds(), "threads": one.num_threads(), "processes": 1}
        except psutil.Error:  # it has just ended
            continue
        found["memory_mb"] += memory // 10**6
        found = {key: value + more.get(key, 0) for key, value in found.items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
