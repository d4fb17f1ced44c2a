"""Parameter groups: encoder or head, with or without weight decay."""

from collections import Counter
from types import ModuleType
from typing import Any

import torch
from torch import nn

from data_tools import facts, tiny_segformer
from segacc.model import SegmentationModel
from segacc.training.optim.groups import parameter_groups

NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)


def groups(model: SegmentationModel) -> dict[str, dict[str, Any]]:
    found = parameter_groups(model, lr=1e-3, head_lr_scale=10.0, weight_decay=0.02)
    return {group["name"]: group for group in found}


def names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    called = {id(parameter): name for name, parameter in model.named_parameters()}
    return {called[id(parameter)] for parameter in group["params"]}


def undecayed(model: nn.Module) -> set[str]:
    """Find norms by their class and biases by their name, not by the number of dimensions."""
    norms = [name for name, module in model.named_modules() if isinstance(module, NORMS)]
    return {
        name
        for name, _ in model.named_parameters()
        if name.endswith(".bias") or name.rpartition(".")[0] in norms
    }


def unet(example_plugin: ModuleType) -> SegmentationModel:
    model: SegmentationModel = example_plugin.build_unet(
        example_plugin.UNetOptions(width=4, depth=2), facts()
    )
    return model


def check_each_trainable_parameter_is_in_one_group(model: SegmentationModel) -> None:
    counts = Counter(id(p) for group in groups(model).values() for p in group["params"])
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert set(counts) == trainable
    assert set(counts.values()) == {1}


def test_segformer_is_grouped_by_head_and_decay() -> None:
    model = tiny_segformer()
    found, everything = groups(model), {name for name, _ in model.named_parameters()}
    head = {name for name in everything if name.startswith("network.decode_head.")}
    plain = undecayed(model)
    assert {name: names(model, group) for name, group in found.items()} == {
        "encoder": everything - head - plain,
        "encoder, no decay": (everything - head) & plain,
        "head": head - plain,
        "head, no decay": head & plain,
    }
    assert {name: (g["lr"], g["weight_decay"]) for name, g in found.items()} == {
        "encoder": (1e-3, 0.02),
        "encoder, no decay": (1e-3, 0.0),
        "head": (1e-2, 0.02),
        "head, no decay": (1e-2, 0.0),
    }
    check_each_trainable_parameter_is_in_one_group(model)


def test_a_strangers_network_is_grouped_by_its_head_prefixes(example_plugin: ModuleType) -> None:
    model = unet(example_plugin)
    found, plain = groups(model), undecayed(model)
    assert plain
    assert names(model, found["head"]) == {"head.weight"}
    assert names(model, found["head, no decay"]) == {"head.bias"}
    assert names(model, found["encoder, no decay"]) == plain - {"head.bias"}
    check_each_trainable_parameter_is_in_one_group(model)


def test_frozen_parameters_are_in_no_group(example_plugin: ModuleType) -> None:
    model = tiny_segformer()
    model.network.segformer.requires_grad_(False)
    assert set(groups(model)) == {"head", "head, no decay"}
    model.freeze_batchnorm()
    head = groups(model)["head, no decay"]
    assert not any("batch_norm" in name for name in names(model, head))
    check_each_trainable_parameter_is_in_one_group(model)
    stranger = unet(example_plugin)
    stranger.down.requires_grad_(False)
    check_each_trainable_parameter_is_in_one_group(stranger)


class Embedded(SegmentationModel):
    """Parameters named as networks of the field name their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        for name in (
            "pos_embed",
            "position_embeddings",
            "absolute_pos_embed",
            "relative_position_bias_table",
            "cls_token",
            "mask_token",
            "register_tokens",
        ):
            self.register_parameter(name, nn.Parameter(torch.ones(1, 4, 4)))
        self.positional_mixer = nn.Linear(4, 4, bias=False)
        self.tokenizer = nn.Linear(4, 4, bias=False)
        self.patch_embed = nn.Conv2d(3, 4, 2, bias=False)
        self.composed = nn.Linear(4, 4, bias=False)


def test_embeddings_of_positions_and_tokens_have_no_decay() -> None:
    model = Embedded()
    found = groups(model)
    assert names(model, found["encoder"]) == {
        "positional_mixer.weight",
        "tokenizer.weight",
        "patch_embed.weight",
        "composed.weight",
    }
    assert len(names(model, found["encoder, no decay"])) == 7


def test_embeddings_of_beit_have_no_decay() -> None:
    from transformers import BeitConfig, BeitForSemanticSegmentation

    config = BeitConfig(
        image_size=32,
        patch_size=8,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=8,
        out_indices=[1, 2, 3, 4],
        use_absolute_position_embeddings=True,
        use_relative_position_bias=True,
        use_mask_token=True,
    )

    class Beit(SegmentationModel):
        def __init__(self) -> None:
            super().__init__()
            self.network = BeitForSemanticSegmentation(config)

    model = Beit()
    plain = names(model, groups(model)["encoder, no decay"])
    embeddings = {
        name
        for name, _ in model.named_parameters()
        if "position" in name or "token" in name  # BEiT's own names
    }
    assert len(embeddings) >= 6 and embeddings <= plain
    assert undecayed(model) <= plain
