"""Feature maps of one image are resized in the order in which they lie in memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.contracts import Facts
from segacc.model.transformers_model import ChannelsLast, ordered
from segacc.plugins.architectures.segformer import SegformerOptions, build

FACTS = Facts(num_classes=3, class_names=("a", "b", "c"))


def maps(count: int = 1) -> Tensor:
    """Feature maps (N, 8, 4, 6), made of tokens."""
    tokens = torch.randn(count, 24, 8, generator=torch.Generator().manual_seed(0))
    return tokens.permute(0, 2, 1).reshape(count, 8, 4, 6)


def enlarged(given: Tensor) -> Tensor:
    return F.interpolate(given, size=(9, 13), mode="bilinear", align_corners=False)


def test_maps_of_one_image_stay_channels_last() -> None:
    given = maps()
    plain = enlarged(given)
    with ChannelsLast():
        found, same = enlarged(given), enlarged(given.contiguous())
    assert plain.is_contiguous(), "torch takes the order as it is; ChannelsLast is not needed"
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, plain) and torch.allclose(same, plain, atol=1e-6)
    assert enlarged(given).is_contiguous(), "left with the block"


def test_a_convolution_keeps_the_order() -> None:
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    plain = F.conv2d(maps(), weight)
    with ChannelsLast():
        found = F.conv2d(maps(), weight)
    assert plain.is_contiguous(), "torch takes the order as it is; ChannelsLast is not needed"
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_it_is_for_one_image_outside_training(count: int) -> None:
    with ordered(torch.zeros(count, 3, 8, 8), training=True):
        assert enlarged(maps()).is_contiguous()
    with ordered(torch.zeros(count, 3, 8, 8), training=False):
        assert enlarged(maps()).is_contiguous() == (count > 1)


def test_segformer_resizes_so() -> None:
    network = build(SegformerOptions(variant="tiny"), FACTS).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    orders = []
    norm = network.get_submodule("network.decode_head.batch_norm")
    norm.register_forward_pre_hook(lambda _, given: orders.append(given[0].is_contiguous()))
    with torch.no_grad():
        both = network(images).main
        apart = torch.cat([network(one[None]).main for one in images])
    assert orders == [False, False, False]
    assert torch.allclose(both, apart, atol=1e-6)
