"""Optimizers by name: each takes real steps; options agree with the classes; bad ones are told."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from transformers.training_args import OptimizerNames

from cli_tools import environment
from launches import ROOT
from run_tools import build, windows_of
from segacc.errors import OptionError
from segacc.loop import train, train_step
from segacc.registry import load_registry
from segacc.settings.options import class_docs
from segacc.settings.sources import Layer
from segacc.training.events import StepDone
from segacc.training.optim.optimizers import ALIASES, OPTIMIZERS, Typed, choose_optimizer
from segacc.training.plan import make_plan

# Given by the groups, by segacc itself, or about how the same numbers are computed; `eps` of
# Adafactor is a pair with None, and LAMB's own clipping is turned off.
NOT_OPTIONS = {
    *("self", "params", "lr", "weight_decay", "fused", "foreach", "capturable", "differentiable"),
    *("maximize", "corrected_weight_decay", "max_grad_norm", "clip_exp"),
}
LEFT_OUT = {
    "adafactor": {"eps"},
    "muon": {
        *("adamw_lr", "algo", "fallback_lr_scale", "ns_coefficients", "normalize_spatial"),
        *("safety_factor", "scale_eps", "verbose"),
    },
}
CLASSES = {"adopt": "Adopt", "adan": "Adan", "lamb": "Lamb", "lars": "Lars"}
CLASSES |= {"lion": "Lion", "muon": "Muon"}
TYPED = {
    "sgd": "sgd:momentum=0.9,nesterov=true",
    "adamw": "adamw:betas=0.9/0.95",
    "rmsprop": "rmsprop:momentum=0.9,centered=true",
    "adan": "adan:betas=0.9/0.9/0.99",
}


def class_of(name: str) -> Any:
    torchs = OPTIMIZERS[name].torch
    return getattr(torch.optim, torchs) if torchs else getattr(timm.optim, CLASSES[name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_are_arguments_with_the_same_defaults(name: str) -> None:
    theirs = inspect.signature(class_of(name).__init__).parameters
    mine = choose_optimizer(name, "--optimizer").options
    assert mine == OPTIMIZERS[name].options
    assert set(mine) == set(theirs) - NOT_OPTIONS - LEFT_OUT.get(name, set())
    assert mine == {key: theirs[key].default for key in mine}


def test_each_typed_option_is_described() -> None:
    options = {key for kind in OPTIMIZERS.values() for key in kind.options}
    assert set(class_docs(Typed)) == set(Typed.__annotations__) == options


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


REFUSED = [
    (
        {"optimizer": "sgd:momentun=0.9"},
        '--optimizer sgd: unknown option "momentun". Did you mean "momentum"? Known: momentum, '
        "dampening, nesterov.",
    ),
    (
        {"optimizer": "sgd:momentum=1.5"},
        "--optimizer sgd: momentum: expected a number >= 0 and < 1; found '1.5'.",
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
        "--optimizer adamw: betas: expected a list of numbers >= 0 and < 1: 2 numbers are "
        "needed, one beside the other with /; found '0.9'.",
    ),
    (
        {"layer_decay": 0},
        "--layer-decay: expected a number > 0 and <= 1; found 0.",
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
        make_plan([Layer(typed, "command line")], load_registry())
    assert str(error.value) == text


OTHERS = [
    "adabelief",
    "adamp:betas=0.9/0.95",
    "laprop",
    "madgrad:momentum=0.8",
    "mars:eps=1e-6",
    "nadamw:caution=true",
    "nadamuon",
    "sgdw",
]


@pytest.mark.parametrize("typed", OTHERS)
def test_two_steps_of_others_that_timm_knows(typed: str, tmp_path: Path) -> None:
    run = build(tmp_path, optimizer=typed, max_steps=3, warmup_steps=0)
    name, _, option = typed.partition(":")
    assert isinstance(
        run.optimizer.optimizer, timm.optim.get_optimizer_class(name, bind_defaults=False)
    )
    key, _, value = option.partition("=")
    values = {"0.9/0.95": (0.9, 0.95), "0.8": 0.8, "1e-6": 1e-6, "true": True}
    for group in run.optimizer.param_groups if key else []:
        assert group[key] == values[value]
    before = {key: one.detach().clone() for key, one in run.network.named_parameters()}
    for window, _ in zip(windows_of(run), range(2), strict=False):
        train_step(run, window)
    moved = [key for key, one in run.network.named_parameters() if not one.equal(before[key])]
    assert len(moved) > 0.9 * len(before)
    assert all(one.isfinite().all() for one in run.network.parameters())


REFUSED_WHEN_BUILT = [
    (
        "adamV",
        '--optimizer adamV: unknown optimizer. Did you mean "adam"? Known: adamw, adam, adamax, '
        "nadam, radam, sgd, rmsprop, adagrad, adadelta, adafactor, lion, lamb, lars, adan, adopt, "
        "muon, and the names that timm.optim.list_optimizers() returns.",
    ),
    (
        "sgdw:momentun=0.9",
        '--optimizer sgdw: unknown option "momentun". Did you mean "momentum"? Known: momentum, '
        "dampening, nesterov, caution, ",
    ),
    (
        "sgdw:momentum=-1",
        "--optimizer sgdw: timm cannot build it: Invalid momentum value: -1.",
    ),
    (
        {"name": "adahessian"},
        "--optimizer adahessian: it needs second derivatives, which training does not compute.",
    ),
]


@pytest.mark.parametrize(("typed", "text"), REFUSED_WHEN_BUILT, ids=lambda value: "")
def test_what_timm_does_not_build_is_one_paragraph(typed: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        build(tmp_path, optimizer=typed, max_steps=1)
    assert str(error.value).startswith(text)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_of_a_package_that_is_missing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    group = {"params": [weight], "lr": 0.5, "weight_decay": 0.1}
    with pytest.raises(OptionError, match=r"bnbadam: timm cannot build it: .*bitsandbytes"):
        choose_optimizer("bnbadam", "--optimizer").build([group], "cpu")


def test_muon_makes_directions_of_matrices_and_kernels_orthogonal() -> None:
    """A first step moves matrices by an orthogonal one, kernels too; a bias as AdamW does."""
    torch.manual_seed(0)
    shapes = {"linear": (8, 6), "kernel": (8, 4, 3, 3), "depthwise": (8, 1, 3, 3), "bias": (8,)}
    weights = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    before = {name: one.detach().clone() for name, one in weights.items()}
    group = {"params": list(weights.values()), "lr": 0.01, "weight_decay": 0.0}
    optimizer = choose_optimizer("muon", "--optimizer").build([group], "cpu")
    for one in weights.values():
        one.grad = torch.randn(one.shape)
    optimizer.step()
    moved = {name: (before[name] - one.detach()) / 0.01 for name, one in weights.items()}
    for name, length in (("linear", 8), ("kernel", 36)):
        found = torch.linalg.svdvals(moved[name].flatten(1)) / (0.2 * length**0.5)
        assert (found > 0.6).all() and (found < 1.3).all(), (name, found)
    for name in ("depthwise", "bias"):
        torch.testing.assert_close(moved[name], weights[name].grad.sign(), rtol=1e-3, atol=1e-3)


def test_muon_trains_and_resumes_exactly(tmp_path: Path) -> None:
    typed = {"optimizer": "muon", "lr": 0.01, "max_steps": 8, "save_every": 5, "eval_every": 8}
    events = list(train(build(tmp_path, **typed, log_every=1)))
    whole = [one.loss for one in events if isinstance(one, StepDone)]
    assert len(whole) == 8 and min(whole) < 0.85 * whole[0]
    weights = tmp_path / "run" / "last" / "model.safetensors"
    trained = weights.read_bytes()
    weights.unlink()
    stored = tmp_path / "run" / "checkpoints" / "step-00000005"
    run = build(tmp_path, resume=str(stored))
    kinds = {run.optimizer.state[one]["use_muon"] for one in run.network.parameters()}
    assert kinds == {True, False}
    for _ in train(run):
        pass
    assert weights.read_bytes() == trained


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
