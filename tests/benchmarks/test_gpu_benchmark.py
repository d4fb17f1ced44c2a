"""gpu.py with tiny sizes on the CPU, and what it says without a GPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmark_tools import load
from cli_tools import python
from launches import ROOT
from segacc.registry import choose, load_registry

GPU = ROOT / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_all_cases_run_with_tiny_sizes(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    done = python(GPU, "--device", "cpu", "--smoke", "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(output.read_text())
    cases = told["cases"]
    assert list(cases) == ["check", "kernels", "SegFormer-tiny,eager", "EoMT-tiny,eager"]
    assert told["left_out"] == [] and told["device"].startswith("CPU")
    check = cases["check"]
    assert (check["resumed_at"], check["evaluated"], check["grey_levels_apart"]) == (1, 39, 0)
    for name in ("SegFormer-tiny,eager", "EoMT-tiny,eager"):
        one = cases[name]
        speeds = {way: one[way]["images_per_second"] for way in ("plain", "segacc", "files")}
        assert min(speeds.values()) > 0 and 0 <= one["files"]["data_wait"] <= 1
        assert one["ratio"] == pytest.approx(speeds["segacc"] / speeds["plain"])
    for one in cases["kernels"].values():
        assert one["ratio"] == pytest.approx(one["plain"] / one["segacc"])


def test_its_networks_are_ones_that_segacc_has() -> None:
    registry, gpu = load_registry(), load("gpu")
    for arch in (*gpu.NETWORKS.values(), *gpu.SMALL.values()):
        assert choose(registry, "architecture", arch, "gpu.py").name == arch.partition(":")[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure the GPU")
def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gpu = load("gpu")
    output = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["gpu.py", "--output", str(output)])
    assert gpu.main() == 0 and not output.exists()
    told = "benchmarks/gpu.py: there is no GPU here, so nothing was measured.\n"
    assert capsys.readouterr().out == told
