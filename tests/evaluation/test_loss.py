"""The loss of the validation split: the run's losses over all its pixels, against plain torch."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import segacc.evaluation.loss as loss_room
from cli_fixtures import data, warm
from cli_tools import Warm, assert_succeeded, metrics
from run_tools import build
from segacc.data.batches import EvalData
from segacc.data.items import Item
from segacc.loop import evaluate, train
from segacc.training.events import Evaluated
from segacc.training.run import Run

__all__ = ["data", "warm"]  # fixtures
LOSSES = ("cross_entropy:weight=2", "dice")


def items(run: Run) -> list[Item]:
    """The validation images, read again."""
    data = run.scoring.data
    assert isinstance(data, EvalData)
    found = [data[place, False] for place in range(data.num_samples)]
    return [item for item in found if isinstance(item, Item)]


def plain_loss(run: Run, multiple: int = 1) -> float:
    """Twice the mean cross-entropy of all pixels, plus the mean over classes in images of 1 - Dice.

    The images are padded to a multiple of so many pixels with the mean colour, 0 when normalized.
    """
    entropy, pixels, regions, classes = 0.0, 0, 0.0, 0
    run.network.eval()
    for item in items(run):
        label = item.label.long()
        height, width = label.shape
        pad = (0, -width % multiple, 0, -height % multiple)
        with torch.no_grad():
            logits = run.network(F.pad(run.network.normalize(item.image[None]), pad)).main
        whole = (height + pad[3], width + pad[1])
        full = F.interpolate(logits, whole, mode="bilinear")[..., :height, :width].double()
        entropy += float(F.cross_entropy(full, label[None], ignore_index=255, reduction="sum"))
        pixels += int((label != 255).sum())
        shares = full[0].softmax(0)
        for k in label.unique().tolist():
            if k != 255:
                inside = label == k
                both = float(shares[k][inside].sum())
                claimed = float(shares[k][label != 255].sum())
                regions += 1 - 2 * both / (claimed + int(inside.sum()))
                classes += 1
    return 2 * entropy / pixels + regions / classes


@pytest.mark.parametrize(("protocol", "multiple"), [("whole", 1), ("whole:pad=50", 50)])
def test_it_is_that_of_plain_torch(tmp_path: Path, protocol: str, multiple: int) -> None:
    asked = {"loss": LOSSES, "eval_split": "validation[:5]", "protocol": protocol}
    run = build(tmp_path, **asked, dataset="nuclei:border=true")
    with torch.no_grad():
        for parameter in run.network.parameters():  # logits far from 0
            parameter += 0.3 * torch.randn_like(parameter)
    expected = plain_loss(run, multiple)
    found = []
    for size in (None, 2, 5):
        run.scoring.eval_batch_size = size
        scores, _ = evaluate(run.scoring)
        found.append(scores["val_loss"])
    assert found == [pytest.approx(expected, rel=1e-5)] * 3
    assert math.isfinite(expected) and abs(expected - 1) > 0.1


def test_it_is_null_where_no_logits_of_whole_images_exist(tmp_path: Path) -> None:
    for number, protocol in enumerate(("slide:crop=64", "tta:scales=1")):
        run = build(tmp_path / str(number), max_steps=1, protocol=protocol)
        [event] = (one for one in train(run) if isinstance(one, Evaluated))
        assert "val_loss" not in event.scores
    mask = {"arch": "mask2former:variant=tiny", "loss": ("none",)}
    run = build(tmp_path / "mask", **mask)
    assert run.scoring.losses == {}


def test_an_image_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(tmp_path, eval_split="validation[:5]", loss="cross_entropy")
    sizes = sorted({item.label.numel() for item in items(run)})
    scores, _ = evaluate(run.scoring)
    monkeypatch.setattr(loss_room, "LARGEST", 2 * sizes[-1])  # two classes
    assert evaluate(run.scoring)[0]["val_loss"] == scores["val_loss"]
    monkeypatch.setattr(loss_room, "LARGEST", 2 * sizes[0] - 1)
    assert math.isnan(float(str(evaluate(run.scoring)[0]["val_loss"])))


def test_the_best_and_early_stopping_by_it(tmp_path: Path) -> None:
    settings = {"best_by": "val_loss", "early_stop": "val_loss:patience=2", "lr": 0.05}
    run = build(tmp_path, max_steps=6, eval_every=1, **settings)
    seen = [event for event in train(run) if isinstance(event, Evaluated)]
    best = math.inf
    for event in seen:
        value = event.scores["val_loss"]
        assert isinstance(value, float)
        assert event.best == (value < best)
        best = min(best, value)
    assert run.progress.best == best


@pytest.mark.launch
@pytest.mark.parametrize("processes", [2])
def test_it_is_the_same_on_any_number_of_processes(
    warm: Warm, data: Path, tmp_path: Path, processes: int
) -> None:
    found = []
    still = ("--arch", "segformer:variant=tiny", "--weights", "none", "--freeze-batchnorm")
    still += ("--dataset", f"folder:root={data}", "--crop-size", "64", "--max-steps", "1")
    still += ("--lr", "1e-30")
    for count, size in ((1, 2), (processes, 1)):  # three images: one process gets padding
        given = (*still, "--batch-size", size, "--loss", LOSSES[0], "--loss", LOSSES[1])
        run = tmp_path / str(count)
        done = warm(*given, "--output-dir", run, cwd=tmp_path, processes=count)
        [row] = metrics(run, "eval")
        assert f"val_loss {row['val_loss']:.4f}" in assert_succeeded(done).stdout
        side = json.loads((run / "best" / "segacc.json").read_text())
        assert side["scores"]["val_loss"] == row["val_loss"]
        found.append(row["val_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0] > 1


def test_a_split_without_a_labelled_pixel_has_none(tmp_path: Path) -> None:
    run = build(tmp_path, eval_split="validation[:1]")
    [item] = items(run)
    metric = loss_room.SplitLoss(run.scoring.losses, torch.device("cpu"))
    metric.add(run.scoring.decide(item.image[None]), torch.full_like(item.label[None].long(), 255))
    assert math.isnan(metric.compute()["val_loss"])
