"""The benchmarks run: each with its smallest settings, in a process of its own."""

import subprocess
import sys

from launches import ROOT, environment


def test_gpu_smoke_on_the_cpu() -> None:
    command = [sys.executable, "benchmarks/gpu_smoke.py", "--arch", "segformer:variant=tiny"]
    size = ["--steps", "2", "--crop-size", "64", "--batch-size", "2"]
    done = subprocess.run(
        [*command, *size, "--precision", "no", "--num-workers", "0"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = {line[:18].strip(): line[18:].strip() for line in done.stdout.splitlines()}
    assert told["device"].startswith(("CPU", "NVIDIA"))
    assert "torch" in told["versions"] and "segacc 0.1.0" in told["versions"]
    assert told["resumed"].startswith("at step 1,")
    assert told["evaluation"].startswith("39 images")
    assert 0 < float(told["mean_iou"].split()[0]) < 1


def test_the_demo_is_held_to_its_figures() -> None:
    small = ["--max-steps", "1", "--crop-size", "32", "--batch-size", "2", "--num-workers", "0"]
    done = subprocess.run(
        [sys.executable, "benchmarks/demo.py", *small, "--weights", "none"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[-2:])
    assert 0 < float(told["mean_iou"].split()[0]) < 0.8, done.stderr[-4000:]
    assert done.returncode == 1  # one step does not reach it
