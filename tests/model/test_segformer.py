"""SegFormer's decoder gives what transformers' does, with fewer operations."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from segacc.contracts import Facts
from segacc.model.networks.segformer import FusedFirstHead
from segacc.plugins.architectures.segformer import SegformerOptions, build

FACTS = Facts(num_classes=3, class_names=("a", "b", "c"))
TINY = SegformerOptions(variant="tiny", dropout=0.0, drop_path=0.0)
DECODERS = ("authors", "mmseg")


def network_of(options: SegformerOptions) -> Any:
    torch.manual_seed(0)
    return build(options, FACTS).get_submodule("network")


def as_transformers(network: Any) -> Any:
    """Copy a network; the decoder of the copy is called as transformers calls it."""
    other = deepcopy(network)
    other.decode_head.linear_fuse.register_forward_hook(lambda *_: None)
    return other


def images_of(size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *size, generator=random, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(64, 64), (75, 130), (29, 33)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=str
)
def test_logits_and_gradients_are_those_of_transformers(
    decoder: Any, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    ours = network_of(replace(TINY, decoder=decoder)).to(dtype).train()
    theirs = as_transformers(ours)
    images = images_of(size, dtype)
    found, expected = (one(images).logits for one in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for logits in (found, expected):
        logits.backward(torch.linspace(-1, 1, logits.numel(), dtype=dtype).view_as(logits))
    total = torch.cat([one.grad.flatten() for one in theirs.parameters()]).norm()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad - other.grad).norm() <= tolerance * total, name
    buffers = zip(ours.buffers(), theirs.buffers(), strict=True)
    for mine, other in buffers:  # the statistics of batch norm
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


def test_half_precision_is_as_close_as_transformers_own() -> None:
    ours = network_of(replace(TINY, variant="b0")).eval()
    theirs = as_transformers(ours)
    images = images_of((64, 96), torch.float32)
    with torch.no_grad():
        exact = theirs(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            errors = [(one(images).logits - exact).square().mean().sqrt() for one in (ours, theirs)]
    assert errors[0] <= 1.25 * errors[1], errors


def test_it_is_transformers_network_with_the_same_weights() -> None:
    ours = network_of(TINY)
    torch.manual_seed(0)
    plain = SegformerForSemanticSegmentation(ours.config)
    assert type(ours) is SegformerForSemanticSegmentation
    assert type(plain.decode_head) is SegformerDecodeHead
    assert type(ours.decode_head) is FusedFirstHead
    states = ours.state_dict(), plain.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(map(torch.equal, states[0].values(), states[1].values()))


class Doubled(nn.Linear):
    """A layer that does not apply its weight alone."""

    def forward(self, given: Tensor) -> Tensor:
        return 2 * super().forward(given)


@pytest.mark.parametrize("way", ["replaced", "hook", "forward"])
def test_a_changed_layer_is_called(way: str) -> None:
    network = network_of(TINY).eval()
    images = images_of((64, 64), torch.float32)
    projection = network.decode_head.linear_projections[1]
    with torch.no_grad():
        plain = network(images).logits
        match way:
            case "replaced":
                changed = Doubled(projection.proj.in_features, projection.proj.out_features)
                changed.load_state_dict(projection.proj.state_dict())
                projection.proj = changed
            case "hook":
                projection.proj.register_forward_hook(lambda _, given, result: 2 * result)
            case "forward":
                own = projection.proj.forward
                projection.proj.forward = lambda given: 2 * own(given)
        found = network(images).logits
        with_doubled_weights = network_of(TINY).eval()
        for one in with_doubled_weights.decode_head.linear_projections[1].parameters():
            one.mul_(2)
        expected = with_doubled_weights(images).logits
    assert not torch.allclose(found, plain, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("decoder", "share"), [("authors", 0.1), ("mmseg", 0.4)])
def test_it_takes_fewer_operations(decoder: Any, share: float) -> None:
    with torch.device("meta"):
        ours = network_of(SegformerOptions(decoder=decoder)).eval()
        theirs, images = as_transformers(ours), torch.empty(1, 3, 512, 512)
    counts = []
    for one in (ours, theirs):
        with FlopCounterMode(display=False) as counter:
            one(images)
        counted = counter.get_flop_counts()[f"{type(one).__name__}.decode_head"]
        counts.append(sum(counted.values()))
    assert counts[0] < share * counts[1], counts
