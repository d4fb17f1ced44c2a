"""Adapters of `--lora`: what is trained, saved, merged, resumed, against peft and plain torch."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation

from cli_tools import Warm, assert_succeeded
from launches import assert_same, column, launch
from run_tools import build, windows_of
from segacc import Segmenter
from segacc.errors import OptionError
from segacc.loop import save_checkpoint, train_step
from segacc.model import adapters
from segacc.training.run import Run
from segacc.training.saving.model import save_model

pytest_plugins = ["cli_fixtures"]

TYPED = "r=4,alpha=12,targets=q_proj/v_proj"
MOBILENET = "mobilenet_v2:depth_multiplier=0.25,output_stride=32,dropout=0"
SETTINGS = (
    *("--weights", "none", "--crop-size", 64, "--num-workers", 0),
    *("--num-pictures", 0, "--eval-split", "validation[:4]", "--log-every", 1, "--lora", "r=3"),
)


def steps(run: Run, count: int) -> None:
    for window, _ in zip(windows_of(run), range(count), strict=False):
        train_step(run, window)


def values(run: Run) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in run.network.state_dict().items()}


def spread(run: Run, std: float = 0.2) -> None:
    """Draw all adapters anew, large enough to change every prediction."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, one in run.network.named_parameters():
            if "lora_" in name:
                one.copy_(torch.randn(one.shape, generator=draw) * std)


def outputs(network: Any, size: tuple[int, int] = (64, 64)) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (2, 3, *size), generator=draw).to(torch.uint8)
    with torch.no_grad():
        main: Tensor = network.eval()(network.normalize(images)).main
    return main


def test_only_the_adapters_and_the_head_are_trained(tmp_path: Path) -> None:
    run = build(tmp_path, lora=f"{TYPED},lr_scale=5", max_steps=3, lr=1e-3, head_lr_scale=2)
    layers = {name for name, one in run.network.named_modules() if hasattr(one, "lora_A")}
    assert layers == {
        f"network.segformer.stages.{stage}.blocks.0.attention.{part}_proj"
        for stage in range(4)
        for part in "qv"
    }
    before = values(run)
    steps(run, 2)
    moved = {name for name, one in run.network.state_dict().items() if not one.equal(before[name])}
    adapted = {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    head = {name for name in before if run.network.is_head(name)}
    assert moved & adapted == adapted and moved <= adapted | head
    assert len(moved & head) > 0.8 * len(head)

    stored = json.loads((run.folder / "parameter_groups.json").read_text())
    assert [row["name"] for row in stored] == [
        *("adapters", "head", "head, no decay", "encoder, no gradient")
    ]
    assert set(stored[0]["names"]) == adapted
    assert [row["lr"] for row in stored] == [5e-3, 2e-3, 2e-3, None]
    trained = sum(row["parameters"] for row in stored[:3])
    total = sum(row["parameters"] for row in stored)
    told = f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%})"
    note = next(note for note in run.notes if note.startswith("LoRA of rank 4 on 8 layers"))
    assert note.endswith(f"{told}, {stored[0]['parameters']:,} of them in adapters")


def test_layer_decay_and_late_adapters(tmp_path: Path) -> None:
    typed = {"lora": "r=2", "layer_decay": 0.5, "freeze": ["encoder"], "unfreeze_after": 2}
    run = build(tmp_path, **typed, max_steps=4, lr=1e-3)
    adapted = [group for group in run.optimizer.param_groups if not group["head"]]
    assert [group["name"] for group in adapted] == [
        f"adapters layer {depth}, from step 2" for depth in (4, 3, 2, 1)
    ]
    peaks = [group["initial_lr"] for group in adapted]
    np.testing.assert_allclose(peaks, [1e-2 * 0.5**k for k in (1, 2, 3, 4)])
    before = values(run)
    steps(run, 2)
    assert all(before[name].equal(one) for name, one in values(run).items() if "lora_" in name)
    run.progress.step = 2
    steps(run, 1)
    assert not any(one.equal(before[key]) for key, one in values(run).items() if "lora_B" in key)


def test_a_convolutional_encoder_keeps_its_statistics(tmp_path: Path) -> None:
    """Also once `--unfreeze-after` trains what `--freeze` froze."""
    typed = {"freeze": ["norm"], "unfreeze_after": 1}
    run = build(tmp_path, arch=MOBILENET, lora="r=2,targets=convolution", max_steps=3, **typed)
    before = values(run)
    steps(run, 2)
    found = {name for name, one in run.network.state_dict().items() if not one.equal(before[name])}
    encoder = {name for name in found if not run.network.is_head(name)}
    assert encoder and all("lora_" in name for name in encoder)
    assert any("running_mean" in name for name in found)


ARCHS = (
    ("segformer:variant=tiny,drop_path=0,dropout=0", "r=4,alpha=12"),
    ("mask2former:variant=tiny,num_queries=6,train_num_points=64", "r=2"),
    ("eomt:variant=tiny,num_queries=4", "r=2"),
    (MOBILENET, "r=2,targets=convolution"),
)


@pytest.mark.parametrize(("arch", "lora"), ARCHS, ids=lambda value: value.split(":")[0])
def test_best_is_merged_and_needs_no_adapters(arch: str, lora: str, tmp_path: Path) -> None:
    plain = build(tmp_path / "plain", arch=arch, max_steps=1)
    run = build(tmp_path, arch=arch, lora=lora, max_steps=1)
    size, base = run.facts.crop_size, outputs(run.network, run.facts.crop_size)
    torch.testing.assert_close(base, outputs(plain.network, size), rtol=0, atol=0)
    spread(run)
    apart = outputs(run.network, size)
    best = save_model(run, "best")
    alike = load_file(save_model(plain, "best") / "model.safetensors")
    whole = load_file(best / "model.safetensors")
    assert {k: v.shape for k, v in whole.items()} == {k: v.shape for k, v in alike.items()}
    merged = outputs(Segmenter.from_pretrained(best).network, size)
    change = (apart - base).abs().max().item()
    assert change > 1e-3 * base.abs().max().item()
    assert (merged - apart).abs().max().item() < 1e-4 * change


def test_merging_is_that_of_peft(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 2, 1))
    config = LoraConfig(r=2, lora_alpha=7, target_modules=["0", "1", "2"])
    model = PeftModel(network, config)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                one.normal_()
    state = {
        name.removeprefix("base_model.model."): one.clone()
        for name, one in model.state_dict().items()
    }
    ours, theirs = adapters.merged(state, 7), model.merge_and_unload().state_dict()
    assert list(ours) == list(theirs)
    for name, one in theirs.items():
        torch.testing.assert_close(ours[name], one, rtol=1e-5, atol=1e-5)


def test_the_adapters_alone_fit_the_base_encoder(tmp_path: Path) -> None:
    base = save_model(build(tmp_path / "base", max_steps=1), "last")
    arch = {"name": "segformer", "config": str(base)}
    run = build(tmp_path, arch=arch, weights=str(base), max_steps=1, lora=TYPED)
    spread(run)
    best = save_model(run, "best")
    assert sorted(path.name for path in (best / "adapters").iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors")
    ]
    before = AutoModelForSemanticSegmentation.from_pretrained(base).segformer.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = before(images).last_hidden_state
        encoder = PeftModel.from_pretrained(before, best / "adapters")
        found = encoder(images).last_hidden_state
        after = AutoModelForSemanticSegmentation.from_pretrained(best).segformer.eval()
        expected = after(images).last_hidden_state
    assert (found - plain).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    whole = AutoModelForSemanticSegmentation.from_pretrained(best)
    own = load_file(best / "adapters" / "adapter_model.safetensors")
    assert all("lora_" in name for name in own) and len(own) == 16
    assert not any("lora_" in name for name in whole.state_dict())


def test_the_average_holds_adapters_and_a_checkpoint_is_read_merged(tmp_path: Path) -> None:
    run = build(tmp_path, lora="r=2,alpha=3", ema=0.5, lr=0.05, max_steps=4)
    steps(run, 3)
    run.progress.step = 3
    assert run.ema
    name = next(name for name in run.ema.averages if "lora_B" in name)
    average, raw = run.ema.averages[name], run.network.state_dict()[name]
    assert average.any() and not average.equal(raw)
    folder = save_checkpoint(run).folder
    best = save_model(run, "best")
    saved = load_file(best / "adapters" / "adapter_model.safetensors")
    short = name.removeprefix("network.segformer.").replace(".default", "")
    assert saved[f"base_model.model.{short}"].equal(average)
    one, other = (Segmenter.from_pretrained(place).network for place in (folder, best))
    torch.testing.assert_close(outputs(one), outputs(other), rtol=0, atol=0)

    side = run.folder / "network" / "segacc.json"
    side.write_text(json.dumps({**json.loads(side.read_text()), "lora": None}))
    with pytest.raises(Exception, match=r"contains adapters of --lora, but .*segacc.json does not"):
        Segmenter.from_pretrained(folder)


def test_gradient_checkpointing_gives_the_same_gradients(tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        typed = {"lora": "r=2", "gradient_checkpointing": checkpointing, "max_steps": 1}
        run = build(tmp_path / str(checkpointing), **typed)
        spread(run)
        run.network.train()
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        run.network(images).main.square().sum().backward()
        found.append(
            {k: one.grad for k, one in run.network.named_parameters() if one.requires_grad}
        )
    for name, gradient in found[0].items():
        assert (gradient is not None and gradient.any()) or "lora_" not in name, name
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, warm: Warm, data: Path) -> None:
    arch = ("--arch", "segformer:variant=tiny,drop_path=0.2,dropout=0.2")
    given = (*arch, *SETTINGS[:-1], "r=3,dropout=0.2", "--ema", 0.9, "--max-steps", 4)
    given = (*given, "--batch-size", 2)
    given = (*given, "--dataset", f"folder:root={data}", "--save-every", 2, "--eval-every", 4)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert_succeeded(warm(*given, "--output-dir", whole, cwd=tmp_path))
    shutil.copytree(whole, run)
    assert_succeeded(warm("--resume", run / "checkpoints" / "step-00000002", cwd=tmp_path))
    assert_same(run, whole)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        mine, theirs = (one / "last" / "adapters" / name for one in (run, whole))
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    arch = ("--arch", "segformer:variant=tiny,drop_path=0,dropout=0", "--freeze-batchnorm")
    one, two = tmp_path / "one", tmp_path / "two"
    given = (*arch, *SETTINGS, "--max-steps", 4, "--eval-every", 4, "--lr", 1e-3)
    launch(*given, "--batch-size", 4, "--output-dir", one)
    launch(*given, "--batch-size", 2, "--output-dir", two, processes=2)
    np.testing.assert_allclose(column(two, "loss"), column(one, "loss"), rtol=1e-6)
    np.testing.assert_allclose(column(two, "grad_norm"), column(one, "grad_norm"), rtol=1e-4)
    mine, theirs = (load_file(run / "last" / "model.safetensors") for run in (two, one))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-4)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"lora": "rank=4"},
        '--lora: unknown option "rank". Known: r, alpha, dropout, targets, lr_scale.',
    ),
    ({"lora": "alpha=4"}, '--lora: the option "r" is required (integer > 0).'),
    ({"lora": "0"}, "--lora: r: expected an integer > 0; found '0'."),
    (
        {"lora": "r=4,targets=query"},
        "--lora: targets: query: no linear layer or convolution of the encoder has this name. "
        "Known: proj, q_proj, k_proj, v_proj, o_proj, sequence_reduction, fc1, "
        "fc2; * matches anything.",
    ),
    (
        {"lora": "r=4", "arch": MOBILENET},
        "--lora: the encoder of the architecture has no linear layer, which get adapters by "
        "default. Name convolutions in `targets`: convolution.",
    ),
    (
        {"lora": "r=4", "freeze": ["encoder"]},
        "--lora: no adapter would be trained: --freeze freezes all of them, or the network does "
        "not use these layers. Leave one of the two out, or choose other layers with `targets`.",
    ),
    (
        {"lora": "r=4", "freeze": ["segformer.stages.0.blocks.0.layernorm_after"]},
        "--freeze: segformer.stages.0.blocks.0.layernorm_after: --lora already freezes all of "
        "these parameters; leave this out.",
    ),
]


@pytest.mark.parametrize(("typed", "text"), REFUSED, ids=lambda value: "")
def test_what_cannot_be_adapted_is_told(typed: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(text)}$"):
        build(tmp_path, max_steps=2, **typed)
    assert not (tmp_path / "run").exists()


def test_without_peft_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segacc.model.exported.find_spec", lambda name: None)
    with pytest.raises(OptionError) as error:
        build(tmp_path, lora={"r": 4}, max_steps=1)
    assert str(error.value) == (
        "--lora needs peft, which is not installed. Install with `pip install 'segacc[lora]'`."
    )
    assert build(tmp_path, lora="none", max_steps=1).config.lora is None


def test_a_layer_that_is_read_but_never_called_gets_none(tmp_path: Path) -> None:
    """torch's MultiheadAttention reads the weight of its `out_proj`, a linear layer."""
    network = build(tmp_path, max_steps=1).network
    network.add_module("attention", nn.MultiheadAttention(8, 2))
    from segacc.training.optim.adapters import candidates

    assert isinstance(network.get_submodule("attention.out_proj"), nn.Linear)
    assert not any(name.startswith("attention") for name in candidates(network))
