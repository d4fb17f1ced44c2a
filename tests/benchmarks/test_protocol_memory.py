"""The benchmark of an evaluation's memory runs, with its smallest settings, and counts right."""

import json
import sys
from pathlib import Path

import pytest

from benchmark_tools import run_benchmark
from launches import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's memory this way")
def test_the_memory_of_an_evaluation_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "memory.json"
    size = ("--height", 600, "--width", 700, "--classes", 20, "--cases", "slide", "whole")
    done = run_benchmark("protocol_memory", "--output", output, *size)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    told = json.loads(output.read_text())
    assert (told["height"], told["width"], told["classes"]) == (600, 700, 20)
    slide, whole = told["cases"]["slide"], told["cases"]["whole"]
    assert (slide["protocol"], whole["protocol"]) == ("slide:crop=512,stride=341", "whole")
    for one in (slide, whole):
        assert 100 < one["before_mb"] < one["peak_mb"] < 2000
        assert 0 <= one["overall_accuracy"] < 1 and one["seconds"] >= 0
    assert slide["counted_mb"] == pytest.approx(slide["peak_mb"], abs=0.1)
    assert whole["counted_mb"] == pytest.approx(whole["peak_mb"] - whole["before_mb"], abs=0.1)
    assert whole["counted_mb"] > 150 * 175 * 20 * 4 / 1e6, "the logits alone"
    assert len(done.stdout.splitlines()) == 2


def test_the_stored_figures_are_within_the_limit() -> None:
    told = json.loads((ROOT / "benchmarks" / "results" / "protocol-memory.json").read_text())
    assert (told["height"], told["width"], told["classes"]) == (4096, 8192, 150)
    assert {"slide", "tta", "whole"} == set(told["cases"])
    assert max(one["counted_mb"] for one in told["cases"].values()) < told["limit_mb"] == 2000
