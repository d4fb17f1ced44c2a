"""The benchmarks of reading data run, with their smallest settings, and hold to their targets."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark_tools import run_benchmark
from cli_tools import write_data
from launches import ROOT


def run(name: str, output: Path, *flags: object) -> tuple[dict[str, Any], int, list[str]]:
    done = run_benchmark(name, "--output", output, *flags)
    assert output.exists(), done.stderr[-4000:]
    return json.loads(output.read_text()), done.returncode, done.stdout.splitlines()


@pytest.mark.slow
def test_reading_is_timed_beside_the_tutorial(shared: Path, tmp_path: Path) -> None:
    flags = ("--rounds", 1, "--images", 8, "--workers", 1, 2)
    told, code, lines = run("data", tmp_path / "data.json", *flags)
    assert list(told["by_workers"]) == ["1", "2"] and min(told["by_workers"].values()) > 0
    ways = ["tutorial", "worker", "device", "worker cached", "device cached"]
    speeds, ratios = told["images_per_second"], told["ratios"]
    assert list(speeds) == list(ratios) == ways and min(speeds.values()) > 0
    for way in ways:
        assert ratios[way] == pytest.approx(speeds[way] / speeds["tutorial"], rel=0.02)
    assert code == int(ratios["worker"] < 8 or ratios["device"] < 3)
    assert ratios["worker"] > 1  # the tutorial changes colours in PIL, which takes half its time
    pictures = told["pictures"]
    assert (pictures["count"], pictures["sizes"]["683x512"]) == (24, 13)
    assert pictures["encoded"] == "as they are"
    parts = told["worker_milliseconds"]
    drawn = {"cut random_scale_crop", "draw flip", "draw color_jitter"}
    assert drawn | {"decode the image", "collate"} < set(parts)
    assert min(parts.values()) > 0
    assert {"torch", "transformers", "pillow", "torchcodec"} < set(told["versions"])
    assert told["decoder"] == "torchcodec" and lines[0].endswith("decoded by torchcodec")
    assert lines[1].startswith("tutorial") and "at least 8" in lines[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's memory this way")
def test_memory_and_the_wait_for_data_are_measured(tmp_path: Path) -> None:
    flags = ("--samples", 240, "--steps", 6)
    told, code, lines = run("data_memory", tmp_path / "memory.json", *flags)
    assert (told["samples"], told["workers"]) == (240, 2)
    for name in ("paths", "parquet"):
        memory = told["memory"][name]
        for first, last in (memory["pss_mb"], memory["rss_mb"]):
            assert 50 < first < 20_000 and 50 < last < 20_000
        assert memory["rss_mb"][0] > memory["pss_mb"][0]  # three processes share libraries
        assert memory["growth"] == pytest.approx(memory["pss_mb"][1] / memory["pss_mb"][0] - 1)
    assert code == int(max(one["growth"] for one in told["memory"].values()) > 0.05)
    waits = told["data_wait"]["all"]
    assert len(waits) == 2 and all(0 <= one <= 1 for one in waits)
    assert lines[-1].startswith("data_wait")


@pytest.mark.slow
def test_check_data_is_timed_beside_a_script(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", counts={"train": 6, "validation": 3})
    flags = ("--root", root, "--rounds", 1)
    told, code, lines = run("check_data", tmp_path / "check.json", *flags)
    assert told["pairs"] == {"train": 6, "validation": 3}
    assert told["seconds"]["check-data"] > 0 and told["seconds"]["script"] > 0
    assert code == int(told["seconds"]["check-data"] >= 10)
    assert lines[0].startswith("check-data") and lines[0].endswith("for 9 pairs")


def test_the_figures_of_all_of_camvid_are_there() -> None:
    told = json.loads((ROOT / "benchmarks/results/check-data.json").read_text())
    assert told["pairs"] == {"train": 367, "validation": 101} and told["cores"] == 2
    assert told["seconds"]["check-data"] < 10
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert f"468 pairs of CamVid: {told['seconds']['check-data']:.1f} seconds" in page


@pytest.mark.slow
def test_the_start_is_measured_beside_its_imports(tmp_path: Path) -> None:
    flags = ("--rounds", 1, "--warm", 0, "--arch", "segformer:variant=tiny", "--only-own")
    told, code, lines = run("start", tmp_path / "start.json", *flags)
    seconds = told["seconds"]
    assert list(seconds) == ["torch", "torch and class", "segacc"]
    assert 0 < seconds["torch"]["cpu"] < seconds["torch and class"]["cpu"]
    assert seconds["torch"]["cpu"] < seconds["segacc"]["begun"] < seconds["segacc"]["cpu"]
    late = seconds["segacc"]["begun"] > 1.25 * seconds["torch and class"]["cpu"]
    assert code == int(late or seconds["segacc"]["end"] > 0.5)
    assert lines[-1].startswith("segacc")


@pytest.mark.slow
def test_opening_a_coco_file_is_timed(tmp_path: Path) -> None:
    told, code, lines = run("annotations", tmp_path / "a.json", "--annotations", 700)
    assert (told["annotations"], code, len(lines)) == (700, 0, 5)
    assert 0 < told["seconds"] < 5 and 50 < told["memory_megabytes"] < 1000
    assert told["milliseconds_a_label"] > 0
