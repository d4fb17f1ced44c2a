"""The model on paper of benchmarks/scaling.py, by hand; and two processes that train."""

import argparse

import pytest

from benchmark_tools import load
from cli_tools import assert_succeeded, warm_segacc
from launches import ROOT


def test_the_exchange_is_that_of_two_rings() -> None:
    paper = load("scaling_paper")
    links = paper.Links(inside=100.0, outside=10.0, wait_inside=1.0, wait_outside=3.0)
    # Of 2 GPUs each sends all bytes once; 8 GPUs send 14/8 of them.
    assert paper.exchange(2, 1000, links) == pytest.approx(10 + 2)
    assert paper.exchange(8, 1000, links) == pytest.approx(17.5 + 14)
    # 4 nodes: each GPU sends 6/4 of its eighth, slower, and waits 6 times.
    assert paper.exchange(32, 1000, links) == pytest.approx(17.5 + 14 + 18.75 + 18)
    two = 2 * paper.BUCKET
    assert paper.exchange(2, two, links) == pytest.approx(two / 100 + 2 * 2)


def test_only_what_does_not_overlap_counts() -> None:
    paper = load("scaling_paper")
    free = paper.Links(1e30, 1e30, 0.0, 0.0)
    assert paper.efficiency(1024, 0.1, 1e9, free) == pytest.approx(1)
    slow = paper.Links(1e9, 1e9, 0.0, 0.0)
    size = 10 * paper.BUCKET
    whole = paper.exchange(2, size, slow)  # 0.26 s
    hidden = paper.efficiency(2, 1.0, size, slow)  # only the last bucket is seen
    assert hidden == pytest.approx(1 / (1 + whole / 10), rel=1e-6)
    seen = paper.efficiency(2, 0.1, size, slow)
    assert seen == pytest.approx(0.1 / (0.1 + whole - 0.1 * 2 / 3), rel=1e-6)


def test_where_it_stops_and_what_cures_it() -> None:
    paper = load("scaling_paper")
    found = paper.paper(seconds=0.05, size=1e9, source="-")["links"]
    slow = found["PCIe 32 GB/s, 25 Gb/s per node"]
    assert slow["stops_at"] == 4 and slow["efficiency"]["1024"] < 0.1
    assert all(value > slow["efficiency"]["1024"] for value in slow["cures"].values())
    fast = paper.paper(seconds=1.0, size=1e6)["links"]["NVLink 450 GB/s, 400 Gb/s per GPU"]
    assert fast["stops_at"] is None and not fast["cures"]
    assert paper.verdict(None, {}) == "scales to 1,024"
    assert paper.verdict(16, {"a": 0.5, "b": 0.7}) == "from 16 GPUs; b gives 70% on 1,024"


CODE = "import sys; sys.path.insert(0, 'benchmarks'); import scaling; scaling.main()"


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_exchange_all_gradients_once() -> None:
    """In forks; the command line is that of the other benchmarks."""
    scaling = load("scaling")

    def start(processes: int, *arguments: str) -> None:
        assert_succeeded(warm_segacc().code(CODE, *arguments, cwd=ROOT, processes=processes))

    typed = argparse.Namespace(arch="segformer:variant=tiny", side=32, batch=1, steps=1)
    found = scaling.launched(2, typed, start)
    assert found["bytes"] == found["gradient_bytes"] > 90_000
    assert found["buckets"] >= 1 and found["seconds_without_exchange"] > 0


@pytest.mark.slow
def test_operations_and_gradients_of_a_network_are_counted() -> None:
    operations, size = load("scaling").counted("segformer:variant=tiny")
    assert 90_000 < size < 130_000 and operations > 512 * 512
