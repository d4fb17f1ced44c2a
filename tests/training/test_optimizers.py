"""Optimizers by name: each takes real steps; options agree with the classes; bad ones are told."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.training_args import OptimizerNames

from launches import ROOT, environment
from run_tools import build, windows_of
from segacc.errors import OptionError
from segacc.loop import train_step
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.optim import optimizers
from segacc.training.optim.optimizers import ALIASES, OPTIMIZERS, choose_optimizer
from segacc.training.plan import gather, make_plan

# Given by the groups, by segacc itself, or about how the same numbers are computed; `eps` of
# Adafactor is a pair with None, and LAMB's own clipping is turned off.
NOT_OPTIONS = {
    *("self", "params", "lr", "weight_decay", "fused", "foreach", "capturable", "differentiable"),
    *("maximize", "corrected_weight_decay", "max_grad_norm", "clip_exp"),
}
TYPED = {
    "sgd": "sgd:momentum=0.9,nesterov=true",
    "adamw": "adamw:betas=0.9/0.95",
    "rmsprop": "rmsprop:momentum=0.9,centered=true",
    "adan": "adan:betas=0.9/0.9/0.99",
}


def class_of(name: str) -> Any:
    module, _, kind = OPTIMIZERS[name].place.rpartition(".")
    __import__(module)
    return getattr(sys.modules[module], kind)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_are_arguments_with_the_same_defaults(name: str) -> None:
    theirs = inspect.signature(class_of(name).__init__).parameters
    left = {"eps"} if name == "adafactor" else set()
    mine = {f.name: f.default for f in dataclasses.fields(OPTIMIZERS[name].options)}
    assert set(mine) == set(theirs) - NOT_OPTIONS - left
    assert mine == {key: theirs[key].default for key in mine}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_of_each(name: str, tmp_path: Path) -> None:
    run = build(tmp_path, optimizer=TYPED.get(name, name), max_steps=3, warmup_steps=0)
    inner = run.optimizer.optimizer
    assert type(inner) is class_of(name)
    fused = {group.get("fused") for group in run.optimizer.param_groups}
    device = run.accelerator.device.type
    assert fused == {True} if device in OPTIMIZERS[name].fused else fused <= {False, None}
    before = {key: one.detach().clone() for key, one in run.network.named_parameters()}
    losses = []
    for window, _ in zip(windows_of(run), range(2), strict=False):
        losses.append(train_step(run, window).losses.sum().item())
    assert all(0 < loss < 5 for loss in losses)
    moved = [key for key, one in run.network.named_parameters() if not one.equal(before[key])]
    assert len(moved) > 0.9 * len(before)
    assert all(one.isfinite().all() for one in run.network.parameters())


def test_options_and_groups_reach_the_optimizer(tmp_path: Path) -> None:
    typed = {"optimizer": "sgd:momentum=0.9,nesterov=true", "weight_decay": 0.03}
    run = build(tmp_path, **typed, lr=0.1, head_lr_scale=2.0, max_steps=2)
    found = [
        (group["name"], group["lr"], group["weight_decay"], group["momentum"], group["nesterov"])
        for group in run.optimizer.param_groups
    ]
    assert found == [
        ("encoder", 0.1, 0.03, 0.9, True),
        ("encoder, no decay", 0.1, 0.0, 0.9, True),
        ("head", 0.2, 0.03, 0.9, True),
        ("head, no decay", 0.2, 0.0, 0.9, True),
    ]


def test_sgd_takes_the_steps_of_the_definition() -> None:
    """Momentum and decay by hand: v = 0.9 v + (g + 0.1 w), w = w - 0.5 v."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    group = {"params": [weight], "lr": 0.5, "weight_decay": 0.1}
    optimizer = choose_optimizer("sgd:momentum=0.9", "--optimizer").build([group], "cpu")
    w, v = torch.tensor([2.0, -1.0]), torch.zeros(2)
    for g in (torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.5])):
        weight.grad = g.clone()
        optimizer.step()
        v = 0.9 * v + (g + 0.1 * w)
        w = w - 0.5 * v
        torch.testing.assert_close(weight.detach(), w)


def test_lion_takes_the_steps_of_its_paper() -> None:
    """Algorithm 2 of Chen et al. 2023, in three lines."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    group = {"params": [weight], "lr": 0.5, "weight_decay": 0.1}
    optimizer = choose_optimizer("lion:betas=0.8/0.95", "--optimizer").build([group], "cpu")
    w, m = torch.tensor([2.0, -1.0]), torch.zeros(2)
    for g in (torch.tensor([1.0, 3.0]), torch.tensor([-5.0, 0.5])):
        weight.grad = g.clone()
        optimizer.step()
        w = w - 0.5 * ((0.8 * m + 0.2 * g).sign() + 0.1 * w)
        m = 0.95 * m + 0.05 * g
        torch.testing.assert_close(weight.detach(), w)


def test_names_of_transformers() -> None:
    theirs = {one.value for one in OptimizerNames}
    assert set(ALIASES) <= theirs
    assert {"sgd", "adagrad", "rmsprop", "adafactor"} <= theirs & set(OPTIMIZERS)
    for alias, name in ALIASES.items():
        assert choose_optimizer(alias, "--optimizer") == choose_optimizer(name, "--optimizer")


KNOWN = (
    "adamw, adam, adamax, nadam, radam, sgd, rmsprop, adagrad, adadelta, adafactor, lion, lamb, "
    "lars, adan, adopt"
)
REFUSED = [
    (
        {"optimizer": "adamV"},
        f'--optimizer: unknown optimizer "adamV". Did you mean "adam"? Known: {KNOWN}.',
    ),
    (
        {"optimizer": "sgd:momentun=0.9"},
        '--optimizer sgd: unknown option "momentun". Did you mean "momentum"? Known: momentum, '
        "dampening, nesterov.",
    ),
    (
        {"optimizer": "sgd:momentum=1.5"},
        "--optimizer sgd: \"momentum\" is '1.5', expected number >= 0 < 1: input should be less "
        "than 1.",
    ),
    (
        {"optimizer": "sgd:nesterov=true"},
        "--optimizer sgd: nesterov needs a momentum above 0, and no dampening.",
    ),
    (
        {"optimizer": "adamw:lr=0.1"},
        '--optimizer adamw: "lr" is a setting of the run, not of the optimizer: use --lr 0.1.',
    ),
    (
        {"optimizer": {"name": "lion", "weight_decay": 0.1}},
        '--optimizer lion: "weight_decay" is a setting of the run, not of the optimizer: use '
        "--weight-decay 0.1.",
    ),
    (
        {"optimizer": "adamw:betas=0.9"},
        "--optimizer adamw: \"betas\" is '0.9', expected list of number >= 0 < 1: 2 numbers are "
        "needed, one beside the other with /.",
    ),
    (
        {"layer_decay": 0},
        "--layer-decay: got 0, expected number > 0 <= 1: input should be greater than 0.",
    ),
    (
        {"unfreeze_after": 3},
        "--unfreeze-after: 3: nothing is frozen. Say what is, as in --freeze encoder, or leave "
        "this out.",
    ),
    (
        {"freeze": ["encoder"], "unfreeze_after": 5, "max_steps": 5},
        "--unfreeze-after: 5: the run has only 5 steps, so encoder would never learn. Leave this "
        "out to freeze for good.",
    ),
]


@pytest.mark.parametrize(("typed", "text"), REFUSED, ids=lambda value: "")
def test_a_mistake_is_told(typed: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as error:
        make_plan(gather([Layer(typed, "command line")]), load_registry())
    assert str(error.value) == text


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda package: None)
    with pytest.raises(OptionError) as error:
        choose_optimizer("lion", "--optimizer")
    assert str(error.value) == (
        '--optimizer: lion needs the package timm: pip install "segacc[timm]".'
    )


def test_checking_imports_no_torch() -> None:
    code = (
        "import sys; from segacc.training.optim.optimizers import choose_optimizer; "
        "choose_optimizer('lion:betas=0.9/0.95', '--optimizer'); "
        "print(sorted({'torch', 'timm', 'transformers'} & set(sys.modules)))"
    )
    asked: Any = {"check": True, "env": environment(), "cwd": ROOT, "text": True}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, **asked)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("adamw", 1e-3), ("sgd", 0.01), ("lion", 2e-4), ("lars", 1.0)]
)
def test_the_default_learning_rate_is_the_optimizers(
    optimizer: str, lr: float, tmp_path: Path
) -> None:
    run = build(tmp_path, optimizer=optimizer, max_steps=1)
    assert run.config.lr == lr
    assert f"lr: {lr}" in (tmp_path / "run" / "config.yaml").read_text()
