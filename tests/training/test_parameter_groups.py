"""Parameter groups: layer-wise learning rates, what has no decay, the table and the file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data_tools import facts, tiny_segformer
from network_tools import NETWORKS, small_network
from segacc.errors import OptionError
from segacc.model import SegmentationModel
from segacc.plugins.architectures.beit import BeitOptions, build_beit
from segacc.plugins.architectures.eomt import build_eomt, build_eomt_dinov3, tiny
from segacc.settings.sources import Layer, Settings, merge
from segacc.training.optim.groups import MANY, choose_groups, lines, parameter_groups, table, write

RATES = {"lr": 1e-3, "head_lr_scale": 10.0, "weight_decay": 0.05}


def beits_scales(num_layers: int, layer_decay: float) -> list[float]:
    """List the published factors, from embeddings to head.

    As run_class_finetuning.py of unilm/beit computes them for a ViT of num_layers blocks, whose
    parameters optim_factory.py numbers 0 (embeddings), 1..num_layers (blocks), num_layers + 1.
    """
    return [layer_decay ** (num_layers + 1 - i) for i in range(num_layers + 2)]


def published_number(name: str, num_layers: int) -> int:
    """Number a parameter of BEiT as optim_factory.py does, for the names that it has here."""
    if name.startswith("network.beit.embeddings"):
        return 0
    if name.startswith("network.beit.layers."):
        return int(name.split(".")[3]) + 1
    return num_layers + 1


def test_layer_decay_of_vit_b_is_that_of_beit() -> None:
    with torch.device("meta"):
        model = build_beit(BeitOptions(), facts(crop_size=(64, 64)))
    found = parameter_groups(model, lr=1e-3, head_lr_scale=1.0, weight_decay=0.05, layer_decay=0.65)
    called = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = beits_scales(12, 0.65)
    assert len(scales) == 14 and scales[0] == pytest.approx(0.003697206)  # 0.65 ** 13
    lrs = {called[id(one)]: group["lr"] for group in found for one in group["params"]}
    assert set(lrs) == set(called.values())
    for name, lr in lrs.items():
        assert lr == pytest.approx(1e-3 * scales[published_number(name, 12)], rel=1e-12), name
    assert sorted({lr / 1e-3 for lr in lrs.values()}) == pytest.approx(scales)


def eomts_scales(names: list[str], num_layers: int, layer_decay: float) -> dict[str, float]:
    """List the published factors, in one pass from the last parameter to the first.

    As training/lightning_module.py of tue-mps/eomt computes them with `llrd_l2_enabled`: what comes
    before the first block keeps the number of the block that was seen last, which is 0.
    """
    order = {"embeddings": 0, "layers": 1, "layernorm": 2}
    encoder = [name for name in names if name.split(".")[1] in order]
    encoder.sort(key=lambda name: order[name.split(".")[1]])  # as timm's ViT registers them
    block, scales = num_layers, {name: 1.0 for name in names}
    for name in reversed(encoder):
        part = name.split(".")
        if part[1] == "layers":
            block = int(part[2])
        if part[1] == "layers" or block == 0:
            scales[name] = layer_decay ** (num_layers - 1 - block)
    return scales


@pytest.mark.parametrize("dinov3", [False, True])
def test_layer_decay_of_eomt_is_that_of_its_authors(dinov3: bool) -> None:
    build = build_eomt_dinov3 if dinov3 else build_eomt
    model = build(tiny(), facts(crop_size=(64, 64)))
    typed = {"layer_decay": 0.8, "layer_decay_rule": "eomt", "head_lr_scale": 1.0}
    found = choose_groups(model, settings(**typed))
    called = {id(parameter): name for name, parameter in model.named_parameters()}
    lrs = {called[id(one)]: group["lr"] for group in found for one in group["params"]}
    wanted = eomts_scales(list(called.values()), 3, 0.8)
    assert {name: lr / 1e-3 for name, lr in lrs.items()} == pytest.approx(wanted, rel=1e-12)
    assert sorted(set(wanted.values())) == pytest.approx([0.64, 0.8, 1.0])


def test_groups_say_what_a_schedule_must_know() -> None:
    found = parameter_groups(tiny_segformer(), layer_decay=0.5, **RATES)
    assert [(group["name"], group["head"], group["initial_lr"]) for group in found[:3]] == [
        ("encoder layer 4", False, 0.5e-3),
        ("encoder layer 4, no decay", False, 0.5e-3),
        ("encoder layer 3", False, 0.25e-3),
    ]
    assert [(group["name"], group["initial_lr"]) for group in found[-3:]] == [
        ("encoder layer 0, no decay", 1e-3 / 32),
        ("head", 1e-2),
        ("head, no decay", 1e-2),
    ]
    assert all(group["head"] == group["name"].startswith("head") for group in found)
    assert all(group["lr"] == group["initial_lr"] and not group["frozen_until"] for group in found)


def test_late_parameters_have_groups_of_their_own() -> None:
    model = tiny_segformer()
    late = [name for name, _ in model.named_parameters() if name.startswith("network.segformer.")]
    found = parameter_groups(model, late=late, frozen_until=7, **RATES)
    assert [(group["name"], group["frozen_until"]) for group in found] == [
        ("encoder, from step 7", 7),
        ("encoder, no decay, from step 7", 7),
        ("head", 0),
        ("head, no decay", 0),
    ]


WORDS = (
    *("cls_token", "mask_token", "register_tokens", "pos_embed", "position_embeddings"),
    *("relative_position_bias", "continuous_position_bias_mlp", "level_embed"),
    *("lambda", "gamma", "layer_scale", "logit_scale", ".lab."),  # learnable scales
)


def undecayed(model: nn.Module) -> set[str]:
    """Find what has no decay by the modules' classes and by the networks' own names."""
    found = set()
    for path, module in model.named_modules():
        kind = type(module).__name__.lower()
        plain = "norm" in kind or "grn" in kind or isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False):
            whole = f"{path}.{name}"
            if plain or name.endswith("bias") or any(word in whole for word in WORDS):
                found.add(whole)
    return found


@pytest.mark.parametrize("name", [name for name in NETWORKS if ":timm/" not in name])
def test_norms_biases_and_embeddings_have_no_decay(name: str) -> None:
    _, model = small_network(name)
    called = {id(parameter): one for one, parameter in model.named_parameters()}
    found = parameter_groups(model, **RATES)
    plain = {called[id(p)] for group in found if not group["weight_decay"] for p in group["params"]}
    assert plain == undecayed(model)
    decayed = [p for group in found if group["weight_decay"] for p in group["params"]]
    assert sum(p.numel() for p in decayed) > 0.8 * sum(p.numel() for p in model.parameters())


def settings(**typed: Any) -> Settings:
    return merge([Layer({"lr": 1e-3, "head_lr_scale": 10.0, **typed}, "command line")])


def test_the_table_tells_and_stores_all_groups(tmp_path: Path) -> None:
    model = tiny_segformer()
    frozen = model.get_parameter("network.segformer.stages.0.patch_embeddings.proj.weight")
    frozen.requires_grad_(False)
    rows = table(model, choose_groups(model, settings(weight_decay=0.02)))
    assert lines(rows) == [
        "parameter group       tensors    parameters        lr  weight decay",
        "encoder                    34        19,584     0.001          0.02",
        "encoder, no decay          73         1,152     0.001             0",
        "head                        6         1,840      0.01          0.02",
        "head, no decay              7            99      0.01             0",
        "encoder, no gradient        1         1,176         -             -",
    ]
    write(rows, tmp_path)
    stored = json.loads((tmp_path / "parameter_groups.json").read_text())
    counts = {name: one.numel() for name, one in model.named_parameters()}
    assert sorted(name for row in stored for name in row["names"]) == sorted(counts)
    for row in stored:
        assert row["tensors"] == len(row["names"])
        assert row["parameters"] == sum(counts[name] for name in row["names"])
    assert [(row["name"], row["lr"], row["frozen_until"]) for row in stored] == [
        ("encoder", 1e-3, 0),
        ("encoder, no decay", 1e-3, 0),
        ("head", 1e-2, 0),
        ("head, no decay", 1e-2, 0),
        ("encoder, no gradient", None, None),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["parameter_groups.json"]


def test_many_groups_are_told_by_their_ends() -> None:
    with torch.device("meta"):
        model = build_beit(BeitOptions(), facts(crop_size=(64, 64)))
    rows = table(model, choose_groups(model, settings(layer_decay=0.9)))
    told = lines(rows)
    assert len(rows) > MANY and len(told) == MANY + 2
    assert told[1].split()[:3] == ["encoder", "layer", "12"]
    assert told[MANY // 2 + 1] == "... all in parameter_groups.json"
    assert told[-2].startswith("head ") and told[-1].startswith("head, no decay ")


def test_layer_decay_that_would_do_nothing_is_refused() -> None:
    model = tiny_segformer()
    model.network.segformer.requires_grad_(False)
    with pytest.raises(OptionError) as error:
        choose_groups(model, settings(layer_decay=0.9))
    assert str(error.value) == (
        "--layer-decay: 0.9: only the head is trained, which has no layers for it; leave this out."
    )
    assert choose_groups(model, settings())
    with pytest.raises(OptionError) as error:
        choose_groups(model, settings(layer_decay_rule="eomt"))
    assert str(error.value) == (
        "--layer-decay-rule: eomt: it has no effect without --layer-decay; give that too, or leave "
        "this out."
    )


def test_layer_decay_needs_numbered_layers() -> None:
    class Plain(SegmentationModel):
        head_prefixes = ("head",)

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    with pytest.raises(OptionError) as error:
        choose_groups(Plain(), settings(layer_decay=0.9))
    assert str(error.value) == (
        "--layer-decay: 0.9: the parameter names of the architecture have no numbered layers. "
        "Leave this out, or set block_pattern or override parameter_depths in the plugin "
        "(segacc.model.SegmentationModel)."
    )
    assert len(choose_groups(Plain(), settings())) == 4
