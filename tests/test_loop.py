"""What else a run can be asked for: precision, memory, trackers, rotation, best, several losses."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

from launches import TINY, column, launch, rows

SETTINGS = ("--crop-size", 64, "--batch-size", 2, "--num-workers", 0, "--log-every", 1)


@pytest.fixture(scope="module")
def rich_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run with many settings away from their defaults."""
    run = tmp_path_factory.mktemp("loop") / "run"
    asked = ("--mixed-precision", "bf16", "--gradient-checkpointing", "--trackers", "tensorboard")
    asked += ("--gradient-accumulation-steps", 2, "--keep", 2, "--save-every", 2, "--eval-every", 3)
    asked += ("--best-by", "per_category_iou/nucleus", "--head-lr-scale", 5, "--lr", 1e-3)
    asked += ("--loss", "cross_entropy:label_smoothing=0.1,weight=2", "--max-steps", 7)
    launch(*TINY, *SETTINGS, *asked, "--dataset", "nuclei:border=true", "--output-dir", run)
    return run


@pytest.mark.slow
@pytest.mark.launch
def test_bf16_and_gradient_checkpointing_train(rich_run: Path) -> None:
    losses = column(rich_run, "loss")
    assert len(losses) == 7 and all(0 < loss < 5 for loss in losses)
    assert losses[0] == pytest.approx(2 * torch.log(torch.tensor(3.0)).item(), rel=0.1)
    assert {name.split(":")[0] for row in rows(rich_run, "train") for name in row["losses"]} == {
        "cross_entropy"
    }
    weights = load_file(rich_run / "last" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.launch
def test_the_newest_checkpoints_are_kept(rich_run: Path) -> None:
    kept = sorted(path.name for path in (rich_run / "checkpoints").iterdir())
    assert kept == ["step-00000006", "step-00000007"]
    assert [row["step"] for row in rows(rich_run, "eval")] == [3, 6, 7]


@pytest.mark.launch
def test_best_is_the_best_by_the_score_that_was_named(rich_run: Path) -> None:
    by_step = {row["step"]: row["per_category_iou"]["nucleus"] for row in rows(rich_run, "eval")}
    side = json.loads((rich_run / "best" / "segacc.json").read_text())
    assert by_step[side["step"]] == max(by_step.values())
    assert side["step"] == next(step for step in by_step if by_step[step] == max(by_step.values()))
    assert side["scores"]["per_category_iou"]["nucleus"] == by_step[side["step"]]


@pytest.mark.launch
def test_a_score_carries_its_protocol(rich_run: Path) -> None:
    card = (rich_run / "best" / "README.md").read_text()
    for told in (
        "protocol whole, evaluated at original label size",
        "39 images",
        "bf16",
        "ignore_index=255",
    ):
        assert told in " ".join(card.split())
    assert {row["protocol"] for row in rows(rich_run, "eval")} == {"whole"}
    assert {row["num_images"] for row in rows(rich_run, "eval")} == {39}


@pytest.mark.launch
def test_what_is_saved_loads_in_transformers(rich_run: Path) -> None:
    network = AutoModelForSemanticSegmentation.from_pretrained(rich_run / "best")
    names = ["background", "nucleus", "nucleus_border"]
    assert [network.config.id2label[k] for k in range(3)] == names
    saved = load_file(rich_run / "best" / "model.safetensors")
    assert torch.equal(saved["decode_head.classifier.bias"], network.decode_head.classifier.bias)


@pytest.mark.launch
def test_trackers_get_the_numbers(rich_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = rich_run.glob("segacc/events.out.tfevents*")
    told = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
    losses = [(event.step, event.value) for event in told.Scalars("train/loss")]
    assert losses == [
        (row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows(rich_run, "train")
    ]
    assert len(told.Scalars("eval/mean_iou")) == 3
    name = "per_category_iou/nucleus"
    scores = [event.value for event in told.Scalars(f"eval/{name}")]
    assert told.Scalars(f"best/{name}")[-1].value == max(scores)
    assert len(told.Images("curves")) == 1
    panels = [row["step"] for row in rows(rich_run, "eval")]
    assert [event.step for event in told.Images("validation")] == panels
    [settings] = rich_run.glob("segacc/*/hparams.yml")
    assert yaml.safe_load(settings.read_text())["arch"].startswith("segformer")
