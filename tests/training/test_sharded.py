"""FSDP2: sharded over two processes, the same losses, weights, EMA and resume (on the CPU)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import load
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation

from cli_tools import assert_succeeded, warm_segacc
from launches import ROOT, column, launch, rows

SETTINGS = (
    *("--arch", "segformer:variant=tiny,drop_path=0,dropout=0", "--weights", "none"),
    *("--freeze-batchnorm", "--crop-size", "64", "--max-steps", "6", "--save-every", "3"),
    *("--eval-every", "6", "--log-every", "1", "--num-workers", "0", "--num-pictures", "0"),
    *("--ema", "0.9", "--eval-split", "validation[:8]"),
)


def sharded(*args: object, script: str = "sharded_segacc.py", processes: int = 2) -> str:
    """Run segacc, or a script, on processes that shard; return what was printed."""
    code = (ROOT / "tests" / script).read_text()
    done = warm_segacc().code(code, *args, cwd=ROOT, processes=processes)
    return assert_succeeded(done).stdout


@pytest.mark.slow
@pytest.mark.launch
def test_sharding_changes_nothing(tmp_path: Path) -> None:
    run, plain = tmp_path / "sharded", tmp_path / "plain"
    output = sharded(*SETTINGS, "--batch-size", 4, "--output-dir", run)
    assert output.count("sharded 121 of 121") == 2
    launch(*SETTINGS, "--batch-size", 8, "--output-dir", plain)
    np.testing.assert_allclose(column(run, "loss"), column(plain, "loss"), rtol=1e-6)
    np.testing.assert_allclose(column(run, "grad_norm"), column(plain, "grad_norm"), rtol=1e-4)
    mine, theirs = (load_file(one / "last" / "model.safetensors") for one in (run, plain))
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(rows(run, "eval"), rows(plain, "eval"), strict=True):
        assert mine["weights"] == theirs["weights"]
        assert mine["mean_iou"] == theirs["mean_iou"]

    # Accelerate's settings ask for shards, whose .metadata would be a pickle that could run code.
    place = run / "checkpoints" / "step-00000003"
    written = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    pickled = {"pytorch_model_fsdp.bin", "optimizer.bin"}
    pickled |= {"random_states_0.pkl", "random_states_1.pkl"}
    assert written == pickled | {"ema/averages.safetensors", "progress.json", "SHA256SUMS"}
    for name in pickled:
        load(place / name)  # torch's, with weights_only

    before, losses = (run / "last" / "model.safetensors").read_bytes(), column(run, "loss")
    sharded("--resume", run / "checkpoints" / "step-00000003")
    assert (run / "last" / "model.safetensors").read_bytes() == before
    assert column(run, "loss") == losses


@pytest.mark.hosts
@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("segformer:variant=tiny,drop_path=0,dropout=0", ()),
        ("segformer:variant=tiny,drop_path=0,dropout=0", ("--lora", "r=2")),
        ("upernet:backbone=swin,size=test,hidden_size=16,drop_path=0", ()),
        ("mask2former:variant=tiny,num_queries=6,train_num_points=64", ("--lr", "1e-4")),
    ],
)
def test_sharded_runs_go_on_with_another_number_of_processes(
    tmp_path: Path, arch: str, more: tuple[str, ...]
) -> None:
    run, plain = tmp_path / "sharded", tmp_path / "plain"
    settings = ("--arch", arch, *SETTINGS[2:], *more)
    sharded(*settings, "--batch-size", 3, "--output-dir", run)
    launch(*settings, "--batch-size", 3, "--output-dir", plain, processes=2)
    np.testing.assert_allclose(column(run, "loss"), column(plain, "loss"), rtol=1e-5)
    step = Path("checkpoints") / "step-00000003"
    sharded("--resume", run / step, "--batch-size", 2, processes=3)
    launch("--resume", plain / step, "--batch-size", 2, processes=3)
    np.testing.assert_allclose(column(run, "loss"), column(plain, "loss"), rtol=1e-5)
    stored = json.loads((run / "last" / "config.json").read_text())
    network = (
        AutoModelForUniversalSegmentation
        if "mask2former" in arch
        else AutoModelForSemanticSegmentation
    )
    model, report = network.from_pretrained(run / "last", output_loading_info=True)
    assert model.config.architectures == stored["architectures"]
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.slow
@pytest.mark.launch
def test_a_shard_that_one_process_cannot_read_stops_them_all() -> None:
    """They gather weights in each forward call: one that went on alone would wait for ever."""
    told = sharded("broken", script="sharded_evaluation.py").splitlines()
    text = "far.tar: the shard cannot be read: ConnectionResetError gone."
    assert [json.loads(line) for line in told if line.startswith("[")] == [[text, text]] * 2
