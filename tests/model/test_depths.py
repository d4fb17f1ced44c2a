"""Depths of parameters, against the order in which a forward pass uses them."""

import re

import pytest
import torch
from torch import nn

from data_tools import facts
from network_tools import NETWORKS, small_network
from segacc.model.contract import SegmentationModel
from segacc.model.depths import block_depths
from segacc.testing.network import Subject


def order_of_use(subject: Subject, model: SegmentationModel) -> list[str]:
    """Name the encoder's modules that own parameters, in the order in which they last ran."""
    ran: dict[str, None] = {}

    def note(name: str) -> None:
        ran.pop(name, None)
        ran[name] = None

    owners = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    for name, module in model.named_modules():
        if name in owners and not any(module.children()):
            module.register_forward_hook(lambda *_, name=name: note(name))
    with torch.no_grad():
        model.train()(subject.images(model))
    return [name for name in ran if not model.is_head(f"{name}.weight")]


@pytest.mark.parametrize("name", NETWORKS)
def test_depth_grows_in_the_order_of_use(name: str) -> None:
    subject, model = small_network(name)
    depths = model.parameter_depths()
    assert list(depths) == [one for one, _ in model.named_parameters()]
    by_owner: dict[str, set[int]] = {}
    for one, depth in depths.items():
        by_owner.setdefault(one.rpartition(".")[0], set()).add(depth)
    used = order_of_use(subject, model)
    assert len(used) >= 8
    found = [depth for owner in used for depth in sorted(by_owner[owner])]
    assert found == sorted(found), dict(zip(used, found, strict=True))

    last = max(depths.values())
    assert {depth for one, depth in depths.items() if model.is_head(one)} == {last}
    encoder = {depth for one, depth in depths.items() if not model.is_head(one)}
    assert encoder | {last} == set(range(last + 1)), "no depth is left out"
    assert len(encoder) >= 3
    norms = {depth for one, depth in depths.items() if "hidden_states_norms." in one}
    assert norms <= {last}, "norms of a backbone's outputs are behind its blocks"
    assert found[0] == 0
    check_positions_and_tokens(model, depths)


FIRST = re.compile(r"\.(patch_embed|stem|embedder|cls_token|mask_token|register_tokens)")
LATER = re.compile(r"(stages|layers)\.[1-9]")


def check_positions_and_tokens(model: SegmentationModel, depths: dict[str, int]) -> None:
    """Assert that patches, positions and tokens lie at depth 0, but the patches of later stages."""
    for name, depth in depths.items():
        if FIRST.search(name) and not LATER.search(name) and not model.is_head(name):
            assert depth == 0, name


NAMES = (
    ("stem.weight", 0),
    ("stages.0.patches.weight", 0),
    ("stages.0.blocks.0.a.0.weight", 1),
    ("stages.0.blocks.1.a.weight", 2),
    ("stages.0.merge.weight", 2),
    ("stages.1.patches.weight", 3),
    ("stages.1.blocks.0.layers.7.weight", 3),
    ("between.weight", 3),
    ("more.layer.0.weight", 4),
    ("more.layer.10.downsampling_layer.0.weight", 5),
    ("norm.weight", 6),
)


def test_names_of_stages_and_blocks() -> None:
    names = [name for name, _ in NAMES]
    assert block_depths(names) == (dict(NAMES), 5)
    assert block_depths(["a.weight", "b.0.weight"]) == ({"a.weight": 0, "b.0.weight": 0}, 0)


class Numbered(SegmentationModel):
    """Its blocks have a name of their own."""

    block_pattern = r"^(?P<stage>part_\d+)(?P<block>)?\."
    head_prefixes = ("head",)

    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "part_1", "part_2", "part_10", "head"):
            self.add_module(name, nn.Conv2d(2, 2, 1, bias=False))


def test_a_stranger_names_its_blocks() -> None:
    found = {name.partition(".")[0]: k for name, k in Numbered().parameter_depths().items()}
    assert found == {"first": 0, "part_1": 1, "part_2": 2, "part_10": 3, "head": 4}


def test_no_numbered_blocks_no_depths() -> None:
    class Plain(SegmentationModel):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, facts().num_classes, 1)

    assert Plain().parameter_depths() == {}
