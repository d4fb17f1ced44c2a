"""The dry pass finds what a loop must know, and leaves the network as it was."""

import pytest
import torch
from torch import Tensor, nn

from segacc.errors import OptionError
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.probe import freeze, probe, unused_parameters


class Net(SegmentationModel):
    """Stride 4; one layer that is never used, one that is used only by auxiliary logits."""

    def __init__(self, *, pooled: bool = False, item: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head, self.second = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.idle = nn.Linear(4, 4)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)) if pooled else None
        self.item, self.sizes = item, []

    def forward(self, images: Tensor) -> Logits:
        self.sizes.append((str(images.device), *images.shape))
        features = self.body(images)
        if self.item:
            assert features.mean().item() < 1e9
        if self.pool is not None:
            features = features + self.pool(features)
        return Logits(self.head(features), ((self.second(features), 0.4),))


@pytest.mark.parametrize("item", [False, True])
def test_unused_parameters_stride_and_batch(item: bool) -> None:
    network = Net(item=item)
    found = probe(network, (64, 96))
    assert found.unused == ("idle.weight", "idle.bias")
    assert (found.stride, found.min_batch_size) == (4.0, 1)
    assert found.lines() == ["frozen, since no gradient reaches them: idle"]
    freeze(network, found.unused)
    assert [name for name, one in network.named_parameters() if not one.requires_grad] == [
        "idle.weight",
        "idle.bias",
    ]
    assert unused_parameters(network, (64, 96)) == ()


def test_a_pooled_batch_norm_needs_two_images_unless_it_is_frozen() -> None:
    network = Net(pooled=True)
    assert probe(network, (64, 64)).min_batch_size == 2
    network.freeze_batchnorm()
    assert probe(network, (64, 64)).min_batch_size == 1


def test_the_network_and_random_numbers_stay_as_they_were() -> None:
    for item in (False, True):  # on the meta device, and computed
        network = Net(item=item).eval()
        before = {name: one.clone() for name, one in network.state_dict().items()}
        random = torch.get_rng_state()
        probe(network, (64, 64))
        assert torch.equal(random, torch.get_rng_state()) and not network.training
        for name, one in network.state_dict().items():
            assert torch.equal(one, before[name]), name
        assert all(one.grad is None for one in network.parameters())


def test_shapes_alone_are_computed_where_that_is_enough() -> None:
    network = Net()
    probe(network, (2048, 2048))
    assert network.sizes == [("meta", 2, 3, 2048, 2048), ("meta", 1, 3, 2048, 2048)]
    network = Net(item=True)
    assert probe(network, (2048, 2048)).size == (128, 128)
    assert network.sizes[1] == ("cpu", 2, 3, 128, 128)
    network.size_rule = SizeRule(fixed=(160, 160))
    assert probe(network, (160, 160)).size == (160, 160)


def test_images_that_the_network_cannot_take_are_named() -> None:
    with pytest.raises(OptionError) as error:
        probe(Net(), (64, 64), num_channels=4)
    assert str(error.value).startswith(
        "--arch: the network cannot take 2 images of 64x64 pixels and 4 channels: "
    )
