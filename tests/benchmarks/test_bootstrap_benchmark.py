"""The benchmark of the intervals runs, with small settings, and holds to its target."""

import json
from pathlib import Path

from benchmark_tools import run_benchmark
from launches import ROOT


def test_intervals_are_timed_beside_the_definition(tmp_path: Path) -> None:
    size = ("--images", 120, "--classes", 30, "--resamples", 200, "--rounds", 2)
    output = tmp_path / "bootstrap.json"
    done = run_benchmark("bootstrap", *size, "--output", output)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(output.read_text())
    assert (told["images"], told["classes"], told["resamples"]) == (120, 30, 200)
    assert 0 < told["seconds"]["intervals"] < 2 and told["seconds"]["paired"] > 0
    assert told["definition_seconds"] > told["seconds"]["intervals"]
    assert told["largest_error_of_mean_iou"] < 1e-12
    assert done.stdout.startswith("intervals ")


def test_the_figures_of_the_full_size_are_there() -> None:
    told = json.loads((ROOT / "benchmarks/results/bootstrap.json").read_text())
    assert (told["images"], told["classes"], told["resamples"]) == (2000, 150, 1000)
    assert told["seconds"]["intervals"] < 2
