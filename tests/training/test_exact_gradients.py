"""Promises 1 and 4: the same gradient and the same schedule however the batch is cut."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from launches import column, launch
from segacc import TrainConfig
from segacc.loop import train_step
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.feed import Meter, step_batches
from segacc.training.limits.signals import StopSignal
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run

# processes, batch size, accumulation; each makes 8 images a step
CUTS = ((1, 8, 1), (1, 4, 2), (2, 4, 1), (2, 2, 2))

# Crops of 320 from images of 256 scaled by 0.5 to 2: some are mostly padding, so counts differ.
SETTINGS = (
    *("--arch", "segformer:variant=tiny,drop_path=0,dropout=0", "--weights", "none"),
    *("--freeze-batchnorm", "--crop-size", 320, "--max-steps", 4, "--log-every", 1),
    *("--num-workers", 0, "--num-pictures", 0, "--lr", 0.01),
)


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[int, int, int], Path]:
    """The same run, cut in four ways by real launches."""
    done = {}
    for cut in CUTS:
        processes, batch, accumulation = cut
        run = tmp_path_factory.mktemp("cut") / "run"
        size = ("--batch-size", batch, "--gradient-accumulation-steps", accumulation)
        few = ("--eval-every", 4, "--eval-split", "validation[:4]", "--output-dir", run)
        launch(*SETTINGS, *size, *few, processes=processes)
        done[cut] = run
    return done


@pytest.mark.launch
@pytest.mark.parametrize("cut", CUTS[1:])
def test_losses_and_weights_do_not_depend_on_the_cut(cuts: Mapping, cut: tuple) -> None:
    whole, other = cuts[CUTS[0]], cuts[cut]
    np.testing.assert_allclose(column(other, "loss"), column(whole, "loss"), rtol=1e-6)
    np.testing.assert_allclose(column(other, "grad_norm"), column(whole, "grad_norm"), rtol=1e-4)
    assert column(other, "valid_pixels") == column(whole, "valid_pixels")
    mine, theirs = (load_file(run / "last" / "model.safetensors") for run in (whole, other))
    for name in mine:
        torch.testing.assert_close(theirs[name], mine[name], rtol=1e-3, atol=1e-4)


@pytest.mark.launch
@pytest.mark.parametrize("cut", CUTS[1:])
def test_the_schedule_counts_optimizer_steps(cuts: Mapping, cut: tuple) -> None:
    assert column(cuts[cut], "lr") == column(cuts[CUTS[0]], "lr")
    assert column(cuts[cut], "epoch") == column(cuts[CUTS[0]], "epoch")


def build(folder: Path, **settings: object) -> Run:
    fixed = {
        "arch": "segformer:variant=tiny,drop_path=0,dropout=0",
        "weights": "none",
        "num_workers": 0,
        "freeze_batchnorm": True,
        "max_grad_norm": 1e9,
        "output_dir": folder / "run",
    }
    plan = make_plan([Layer({**fixed, **settings}, "test")], load_registry())
    assert isinstance(plan.settings.config, TrainConfig)
    return build_run(plan)


def test_gradient_is_that_of_the_plain_definition(tmp_path: Path) -> None:
    """One pass over the whole batch, mean over its valid pixels, in plain torch."""
    run = build(tmp_path, crop_size=320, batch_size=2, gradient_accumulation_steps=4, max_steps=3)
    with StopSignal() as signal:
        window = next(step_batches(run, Meter(run), signal))
    images = torch.cat([run.network.normalize(batch.images) for batch in window])
    labels = torch.cat([batch.labels for batch in window])
    counts = [(batch.labels != 255).sum().item() for batch in window]
    assert min(counts) < 0.9 * max(counts), "the micro-batches must weigh differently"

    run.network.train()
    logits = F.interpolate(run.network(images).main, size=labels.shape[-2:], mode="bilinear")
    loss = F.cross_entropy(logits, labels, ignore_index=255)
    trained = {name: p for name, p in run.network.named_parameters() if p.requires_grad}
    plain = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))

    numbers = train_step(run, window)
    losses, valid = numbers.losses, numbers.valid
    torch.testing.assert_close(losses.sum(), loss.detach(), rtol=1e-6, atol=0)
    assert valid.item() == sum(counts)
    by_parameter = {id(p): state["exp_avg"] for p, state in run.optimizer.state.items()}
    for name, parameter in trained.items():
        ours = by_parameter[id(parameter)] / 0.1  # AdamW's first moment after one step
        torch.testing.assert_close(ours, plain[name], rtol=1e-3, atol=1e-6)


def test_ignored_micro_batches_add_nothing(tmp_path: Path) -> None:
    """Two of three images carry no label at all: no NaN, and the gradient is the third one's."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
            label = np.full((64, 64), 255, np.uint8)
            label[:32] = 255 if number else 1
            place = f"{split}/{number}.png"
            Image.fromarray(pixels).save(tmp_path / "data" / "images" / place)
            Image.fromarray(label).save(tmp_path / "data" / "labels" / place)
    (tmp_path / "data" / "classes.txt").write_text("no\nyes\n")
    run = build(
        tmp_path,
        dataset=f"folder:root={tmp_path / 'data'}",
        aug=("none",),
        batch_size=1,
        gradient_accumulation_steps=3,
        max_steps=2,
        crop_size=64,
    )
    with StopSignal() as signal:
        for window in step_batches(run, Meter(run), signal):
            numbers = train_step(run, window)
            losses, norm, valid = numbers.losses, numbers.grad_norm, numbers.valid
            run.progress.step += 1
            assert valid.item() == 32 * 64
            assert torch.isfinite(losses).all()
            assert norm is not None and 0 < norm.item() < 1e3
            if run.progress.step == 1:
                assert losses.sum().item() == pytest.approx(np.log(2), abs=0.2)
    assert all(torch.isfinite(p).all() for p in run.network.parameters())


def test_a_batch_without_any_label_leaves_a_zero_gradient(tmp_path: Path) -> None:
    run = build(tmp_path, crop_size=64, batch_size=2, max_steps=2)
    with StopSignal() as signal:
        window = next(step_batches(run, Meter(run), signal))
    for batch in window:
        batch.labels.fill_(255)
    numbers = train_step(run, window)
    losses, norm, valid = numbers.losses, numbers.grad_norm, numbers.valid
    assert (losses.sum().item(), valid.item()) == (0, 0)
    assert norm is not None and norm.item() == 0
