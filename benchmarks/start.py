"""Measure what the start of a run costs, beside the imports that it cannot do without.

    python benchmarks/start.py                  3 rounds, on 2 CPU cores
    python benchmarks/start.py --rounds 1 --arch segformer:variant=tiny    what the suite runs

Each round starts everything in turn, with warm files: `import torch`; the same with the network's
class of transformers, which is the least that training it takes; `segacc train` on the embedded
data; the same with `--processes 2`; and through `accelerate launch`. `cpu` is the user and system
time of all processes, `wall` the time on the clock, both until the line of the first step is
printed (of an import: until the process has ended). `begun` is the same until the first step
begins. `end` is the time from the last line to the prompt. `overhead` is the CPU time relative to
the import of torch and the class, the median of the rounds' own ratios.

benchmarks/results/start.json holds the figures. Exit code 1 if segacc's own start takes LIMIT times
the CPU time of the imports, or its end more than END.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "start.json"
LIMIT, END = 1.25, 0.5
"""CPU time until the first step begins, relative to the imports; seconds to the prompt."""
TORCH, CLASS = "import torch", "from transformers import SegformerForSemanticSegmentation"
IMPORTS = {"torch": TORCH, "torch and class": f"{TORCH}\n{CLASS}"}
LAUNCH = ("-m", "accelerate.commands.accelerate_cli", "launch")
RUNS = {
    "segacc": (("-m", "segacc"), ()),
    "segacc, 2 processes": (("-m", "segacc"), ("--processes", "2")),
    "accelerate launch": ((*LAUNCH, "-m", "segacc"), ()),
}
PACKAGES = ("torch", "transformers", "accelerate")

Figures = dict[str, float]


def main() -> int:
    """Measure, print, write, and tell whether the limits are kept."""
    typed = parse()
    rounds: list[dict[str, Figures]] = []
    for number in range(typed.rounds + typed.warm):
        measured = {name: imported(code) for name, code in IMPORTS.items()}
        runs = list(RUNS.items())[: 1 if typed.only_own else None]
        measured |= {name: started(*given, typed) for name, given in runs}
        if number >= typed.warm:  # the first reads the files from the disk
            rounds.append(measured)
    told = {name: medians([one[name] for one in rounds]) for name in rounds[0]}
    for name, figures in told.items():
        ratios = [one[name]["cpu"] / one["torch and class"]["cpu"] for one in rounds]
        figures["overhead"] = round(median(ratios), 2)
        line = "  ".join(f"{key} {value:.2f}" for key, value in figures.items())
        print(f"{name:<20} {line}")
    result = {
        "arch": typed.arch,
        "rounds": typed.rounds,
        "seconds": told,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    typed.output.parent.mkdir(exist_ok=True)
    typed.output.write_text(json.dumps(result, indent=1) + "\n")
    ours, least = told["segacc"], told["torch and class"]["cpu"]
    return int(ours["begun"] > LIMIT * least or ours["end"] > END)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="segformer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="rounds before that are not counted")
    parser.add_argument("--only-own", action="store_true", help="leave launchers out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def medians(rounds: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {key: round(median(one[key] for one in rounds), 2) for key in rounds[0]}


def imported(code: str) -> Figures:
    """Return the CPU and wall seconds of a Python that runs a line and ends."""
    before, start = ended_cpu(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return {"cpu": ended_cpu() - before, "wall": time.perf_counter() - start}


def ended_cpu() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def started(module: tuple[str, ...], more: tuple[str, ...], typed: argparse.Namespace) -> Figures:
    """Return the figures of a run of one step.

    Raises:
        CalledProcessError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--arch", typed.arch, "--weights", "none", "--max-steps", "1", *more]
        command = [sys.executable, *module, *flags, "--output-dir", f"{folder}/run"]
        start = last = time.perf_counter()
        figures: Figures = {}
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = time.perf_counter()
                if line.startswith("parameter group"):
                    figures["begun"] = cpu_of(process.pid)
                if line.startswith("step 1/"):
                    figures |= {"cpu": cpu_of(process.pid), "wall": last - start}
        figures["end"] = time.perf_counter() - last
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return figures


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process and all that it has started."""
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:4]) for one in [process, *process.children(recursive=True)])


if __name__ == "__main__":
    sys.exit(main())
