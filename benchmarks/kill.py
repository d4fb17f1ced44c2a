"""Kill a run of two processes at random moments, resume it, and compare it with an unbroken one.

    python benchmarks/kill.py                             20 moments, some 12 minutes on 2 cores
    python benchmarks/kill.py --moments 1 --steps 24 --seed 4       what the suite runs

Launcher, processes and data workers are killed together with SIGKILL. Every other moment is the
first one after a random step at which a folder is being written (a checkpoint, best/ or last/); the
others follow a random step by up to half a second. Then the same command, with `--resume auto`, is
repeated until the run is finished. At the end, the weights in last/, best/ and the last checkpoint
must be those of the unbroken run byte for byte, and so must the tensors of the optimizer and the
losses in metrics.jsonl. benchmarks/results/kill.json holds what was found; exit code 1 if one
differs.
"""

import argparse
import importlib.metadata
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

RESULTS = Path(__file__).parent / "results" / "kill.json"
PACKAGES = ("segacc", "torch", "accelerate")
SETTINGS = (
    *("--arch", "segformer:variant=tiny,dropout=0.2", "--weights", "none", "--crop-size", "64"),
    *("--batch-size", "2", "--num-workers", "1", "--ema", "0.9", "--num-pictures", "1"),
    *("--save-every", "4", "--eval-every", "8", "--keep", "2", "--log-every", "1"),
)


def main() -> int:
    """Run, kill, resume, compare; return the exit code."""
    typed = parse()
    draw = random.Random(typed.seed)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        finish(whole, typed.steps)
        for number in range(typed.moments):
            run, step = Path(folder) / f"run-{number}", draw.randrange(1, typed.steps)
            told = kill(run, typed.steps, step, draw.uniform(0, 0.5), writing=number % 2 == 1)
            starts = finish(run, typed.steps)
            told |= {"starts": starts, "differs": differences(run, whole)}
            found.append(told)
            print(f"{number + 1:3}  {json.dumps(told)}", flush=True)
    equal = sum(not one["differs"] for one in found)
    print(f"{equal} of {len(found)} are equal to the unbroken run")
    if typed.output:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        content = {"seed": typed.seed, "steps": typed.steps, "versions": versions}
        content |= {"equal": equal, "moments": found}
        typed.output.write_text(json.dumps(content, indent=1) + "\n")
    return int(equal < len(found))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def command(run: Path, steps: int) -> list[str]:
    """Return the command that starts or continues the run."""
    start = [sys.executable, "-m", "segacc", "train", "--processes", "2", *SETTINGS]
    return [*start, "--max-steps", str(steps), "--resume", "auto", "--output-dir", str(run)]


def finish(run: Path, steps: int) -> int:
    """Repeat the command until the run is finished; return how often it was started."""
    for starts in range(1, 4):
        done = subprocess.run(command(run, steps), capture_output=True, text=True)
        ended = run / "exit.json"
        if ended.is_file() and json.loads(ended.read_text())["reason"] == "finished":
            return starts
    sys.exit(f"{run} does not end:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def kill(run: Path, steps: int, step: int, wait: float, *, writing: bool) -> dict[str, Any]:
    """Start the run and kill it; return what was there at that moment."""
    process = subprocess.Popen(
        command(run, steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while logged(run) < step and process.poll() is None:
        time.sleep(0.002)
    if writing:
        while not written(run) and process.poll() is None:
            time.sleep(0.0002)
    else:
        time.sleep(wait)
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for one in family for child in one.children(recursive=True)]
    for one in family:
        one.suspend()  # so that none starts another, or ends because of another
    found = {"step": logged(run), "writing": written(run), "killed": len(family)}
    for one in family:
        one.kill()
    process.wait()
    psutil.wait_procs(family)
    return found


def logged(run: Path) -> int:
    """Return the newest step in metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def written(run: Path) -> list[str]:
    """List the folders that are being written, with the number of their files."""
    parts = [*run.glob(".*.part"), *run.glob("checkpoints/.*.part")]
    return [f"{part.name} {len(list(part.glob('*')))}" for part in parts if part.is_dir()]


def differences(run: Path, whole: Path) -> list[str]:
    """List what is not as in the unbroken run."""
    last = max(path.name for path in (whole / "checkpoints").glob("step-*"))
    weights = [f"{name}/model.safetensors" for name in ("last", "best", f"checkpoints/{last}")]
    found = [name for name in weights if (run / name).read_bytes() != (whole / name).read_bytes()]
    name = f"checkpoints/{last}/optimizer.bin"
    if not same(*(torch.load(one / name, weights_only=True) for one in (run, whole))):
        found.append(name)
    if losses(run) != losses(whole):
        found.append("metrics.jsonl")
    return found


def same(a: Any, b: Any) -> bool:
    """Return whether two nested states are equal."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def losses(run: Path) -> list[tuple[int, float]]:
    """Return step and loss of each training line."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]


if __name__ == "__main__":
    sys.exit(main())
