"""What is frozen, for good and for the first steps, against plain torch."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from launches import column, launch
from run_tools import build, windows_of
from segacc.errors import OptionError
from segacc.loop import train, train_step
from segacc.training.optim.freezing import matching
from segacc.training.run import Run

MOBILENET = "mobilenet_v2:depth_multiplier=0.25,output_stride=32,dropout=0"


def values(run: Run) -> dict[str, Tensor]:
    """Copy parameters and buffers."""
    return {name: one.detach().clone() for name, one in run.network.state_dict().items()}


def changed(run: Run, before: dict[str, Tensor]) -> set[str]:
    """Name the parameters and buffers that are no longer bit for bit the same."""
    return {name for name, one in run.network.state_dict().items() if not one.equal(before[name])}


def take_steps(run: Run, count: int) -> None:
    for window, _ in zip(windows_of(run), range(count), strict=False):
        train_step(run, window)


def parts(run: Run) -> tuple[set[str], set[str]]:
    """Name what is in the encoder and in the head, buffers too."""
    names = set(run.network.state_dict())
    head = {name for name in names if run.network.is_head(name)}
    return names - head, head


def test_a_frozen_encoder_stays_with_its_statistics(tmp_path: Path) -> None:
    run = build(tmp_path, arch=MOBILENET, freeze=["encoder"], max_steps=3)
    encoder, head = parts(run)
    assert any("running_mean" in name for name in encoder)
    before = values(run)
    take_steps(run, 2)
    moved = changed(run, before)
    assert moved <= head and len(moved) > 0.8 * len(head)
    stored = json.loads((tmp_path / "run" / "parameter_groups.json").read_text())
    assert [row["name"] for row in stored] == ["head", "head, no decay", "encoder, no gradient"]
    trained = {name for name, _ in run.network.named_parameters()} & encoder
    assert set(stored[-1]["names"]) == trained
    assert [note for note in run.notes if note.startswith("encoder, no gradient ")]


def test_frozen_norms_let_one_image_be_a_batch(tmp_path: Path) -> None:
    run = build(tmp_path, arch=MOBILENET, freeze=["norm"], batch_size=1, max_steps=3)
    assert run.network.batchnorm_frozen and run.network.min_batch_size == 1
    norms = {
        f"{path}.{name}"
        for path, module in run.network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name in module.state_dict()
    }
    before = values(run)
    take_steps(run, 2)
    moved = changed(run, before)
    assert not moved & norms and len(moved) > 0.8 * len(set(before) - norms)


def test_norms_of_layers_are_norms(tmp_path: Path) -> None:
    run = build(tmp_path, freeze=["norm"], max_steps=1)
    still = {name for name, one in run.network.named_parameters() if not one.requires_grad}
    assert still == {
        f"{path}.{name}"
        for path, module in run.network.named_modules()
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
        for name, _ in module.named_parameters(recurse=False)
    }


def test_patterns_match_names_and_their_beginnings(tmp_path: Path) -> None:
    network = build(tmp_path, max_steps=1).network
    names = [name for name, _ in network.named_parameters()]
    under = [name for name in names if name.startswith("network.segformer.stages.0.")]
    assert matching(network, "segformer.stages.0") == under
    assert matching(network, "network.segformer.stages.0") == under
    both = [name for name in names if ".stages.0." in name or ".stages.1." in name]
    assert matching(network, "segformer.stages.[01]") == both
    biases = [name for name in names if name.endswith(".bias")]
    assert matching(network, "*.bias") == biases
    assert matching(network, "segformer.stages.0.b") == []  # no part of a name


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"freeze": ["segformer.stage.0"]},
        "--freeze: segformer.stage.0: no parameter of the architecture matches. Did you mean "
        '"segformer.stages.0"? Known: "encoder", "norm", and names that start with '
        "segformer.stages, decode_head.linear_projections, decode_head.linear_fuse, "
        "decode_head.batch_norm, decode_head.classifier; * matches anything.",
    ),
    (
        {"freeze": ["encoder", "decode_head"]},
        "--freeze: encoder, decode_head: nothing is left to train.",
    ),
    (
        {"arch": "linear:size=test", "crop_size": 56, "freeze": ["encoder"]},
        "--freeze: encoder: the architecture already freezes all of these parameters; leave this "
        "out.",
    ),
    (
        {"freeze": ["encoder"], "layer_decay": 0.9},
        "--layer-decay: 0.9: only the head is trained, which has no layers for it; leave this out.",
    ),
    (
        {"freeze": ["encoder"], "unfreeze_after": 9999, "max_steps": None, "epochs": 1},
        "--unfreeze-after: 9999: the run has only # steps, so encoder would never learn. Leave "
        "this out to freeze for good.",
    ),
]


@pytest.mark.parametrize(("typed", "text"), REFUSED, ids=lambda value: "")
def test_what_cannot_be_frozen_is_told(typed: dict[str, Any], text: str, tmp_path: Path) -> None:
    given = {key: value for key, value in {"max_steps": 2, **typed}.items() if value is not None}
    with pytest.raises(OptionError) as error:
        build(tmp_path, **given)
    assert re.sub(r"only \d+ steps", "only # steps", str(error.value)) == text
    assert not (tmp_path / "run").exists()


LATE = {
    "freeze": ["encoder"],
    "unfreeze_after": 2,
    "max_steps": 5,
    "warmup_steps": 0,
    "lr": 0.01,
    "head_lr_scale": 2.0,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "optimizer": "adamw:eps=1e-4",  # some gradients are 0 up to rounding: biases of keys
}


def plain_optimizer(model: nn.Module, *, head: bool) -> torch.optim.AdamW:
    """AdamW on one part, norms and biases without decay; `lr` is set at each step."""
    mine = [one for name, one in model.named_parameters() if (".decode_head." in name) == head]
    decayed, plain = ([p for p in mine if (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, eps=1e-4)


def plain_step(
    model: Any, optimizers: dict[float, torch.optim.AdamW], batch: Any, factor: float
) -> Tensor:
    """Take a step in plain torch; return the norm of the gradients of what learns."""
    learns = [
        p for one in optimizers.values() for group in one.param_groups for p in group["params"]
    ]
    model.train()
    logits = model(model.normalize(batch.images)).main
    logits = F.interpolate(logits, size=batch.labels.shape[-2:], mode="bilinear")
    loss = F.cross_entropy(logits, batch.labels.long(), ignore_index=255)
    for parameter, gradient in zip(learns, torch.autograd.grad(loss, learns), strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(learns, 0.5)
    for lr, one in optimizers.items():
        for group in one.param_groups:
            group["lr"] = lr * factor
        one.step()
    return norm


def test_learning_later_is_learning_with_a_new_optimizer(tmp_path: Path) -> None:
    """Two steps with the head alone, then an AdamW for the encoder that has seen nothing."""
    run = build(tmp_path, **LATE)
    other, start = copy.deepcopy(run.network), values(run)
    optimizers = {0.02: plain_optimizer(other, head=True)}
    encoder, head = parts(run)
    norms = []
    for step, (batch,) in enumerate(windows_of(run)):
        if step == 2:
            assert changed(run, start) <= head
            optimizers[0.01] = plain_optimizer(other, head=False)
        norm = train_step(run, [batch]).grad_norm
        wanted = plain_step(other, optimizers, batch, factor=1 - step / 5)
        torch.testing.assert_close(norm, wanted, rtol=1e-3, atol=0)
        norms.append(norm)
        theirs = other.state_dict()
        for name, one in run.network.state_dict().items():  # Adam's first steps enlarge rounding
            torch.testing.assert_close(one, theirs[name], rtol=1e-3, atol=2e-4)
        other.load_state_dict(run.network.state_dict())  # so that rounding does not pile up
    assert len(norms) == 5 and max(norms) > 0.5, "some gradients must have been clipped"
    assert changed(run, start) >= encoder


def test_norms_that_learn_later_keep_their_statistics_until_then(tmp_path: Path) -> None:
    run = build(tmp_path, arch=MOBILENET, **{**LATE, "max_steps": 4})
    encoder, _ = parts(run)
    counted = {name for name in encoder if "running" in name}
    before = values(run)
    take_steps(run, 2)
    assert not changed(run, before) & encoder
    take_steps(run, 1)
    assert counted <= changed(run, before)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "adan", "sgd:momentum=0.9", "adafactor"])
def test_state_starts_anew_when_learning_begins(optimizer: str, tmp_path: Path) -> None:
    run = build(tmp_path, **{**LATE, "optimizer": optimizer})
    take_steps(run, 3)
    for group in run.optimizer.param_groups:
        wanted = 1 if group["frozen_until"] else 3
        counts = {int(run.optimizer.state[one].get("step", wanted)) for one in group["params"]}
        assert counts == {wanted}
        assert int(group.get("step", wanted)) == wanted


@pytest.mark.slow
def test_resume_is_exact_before_at_and_after_the_step(tmp_path: Path) -> None:
    settings = {**LATE, "arch": MOBILENET, "save_every": 1, "keep": 9, "eval_every": 5}
    for _ in train(build(tmp_path, **settings)):
        pass
    folder = tmp_path / "run"
    whole = (folder / "last" / "model.safetensors").read_bytes()
    for step in (3, 2, 1):
        resumed = folder / "checkpoints" / f"step-{step:08d}"
        (folder / "last" / "model.safetensors").unlink()
        for _ in train(build(tmp_path, resume=str(resumed))):
            pass
        assert (folder / "last" / "model.safetensors").read_bytes() == whole, step


def test_a_resumed_run_takes_the_rates_that_are_typed_anew(tmp_path: Path) -> None:
    for _ in train(build(tmp_path, max_steps=2, lr=0.01, head_lr_scale=2.0, save_every=2)):
        pass
    folder = tmp_path / "run"
    typed = {"max_steps": 4, "lr": 0.03, "weight_decay": 0.2}
    run = build(tmp_path, resume=str(folder), **typed)
    found = [(group["initial_lr"], group["weight_decay"]) for group in run.optimizer.param_groups]
    assert found == [(0.03, 0.2), (0.03, 0.0), (0.06, 0.2), (0.06, 0.0)]
    assert all(run.optimizer.state[one] for one in run.optimizer.param_groups[0]["params"])


def test_what_is_frozen_is_kept_by_a_resumed_run(tmp_path: Path) -> None:
    for _ in train(build(tmp_path, freeze=["norm"], max_steps=1)):
        pass
    folder = tmp_path / "run"
    with pytest.raises(OptionError, match="which --resume cannot change"):
        build(tmp_path, resume=str(folder), freeze=["encoder"], max_steps=2)


LAUNCHED = (
    *("--arch", "segformer:variant=tiny,drop_path=0,dropout=0", "--weights", "none"),
    *("--freeze", "encoder", "--unfreeze-after", 2, "--max-steps", 4, "--warmup-steps", 0),
    *("--freeze-batchnorm", "--layer-decay", 0.9, "--crop-size", 64, "--num-workers", 0),
    *("--log-every", 1, "--num-pictures", 0, "--eval-split", "validation[:2]", "--lr", 0.01),
    *("--optimizer", "sgd:momentum=0.9", "--eval-every", 4),
)


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_learn_later_as_one_does(tmp_path: Path) -> None:
    """DDP reduces what is frozen for now from the first step on."""
    one, two = tmp_path / "one", tmp_path / "two"
    launch(*LAUNCHED, "--batch-size", 4, "--output-dir", one)
    done = launch(*LAUNCHED, "--batch-size", 2, "--output-dir", two, processes=2)
    np.testing.assert_allclose(column(two, "loss"), column(one, "loss"), rtol=1e-5)
    np.testing.assert_allclose(column(two, "grad_norm"), column(one, "grad_norm"), rtol=1e-4)
    mine, theirs = (load_file(run / "last" / "model.safetensors") for run in (one, two))
    for name in mine:
        torch.testing.assert_close(theirs[name], mine[name], rtol=1e-3, atol=1e-5)
    rows = json.loads((two / "parameter_groups.json").read_text())
    assert rows[0]["name"] == "encoder layer 4, from step 2"
    assert rows[0]["lr"] == pytest.approx(0.009)
    assert [row["name"] for row in rows[-2:]] == ["head, no decay", "head, no gradient"]
    assert done.stdout.count("parameter group ") == 1
    assert (two / "parameter_groups.json").read_text() == (
        one / "parameter_groups.json"
    ).read_text()
