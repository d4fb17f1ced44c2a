"""The dry pass finds what a loop must know, and leaves the network as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_tools import facts
from segacc.errors import OptionError, PluginError
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.model.probe import freeze, probe

META = (160, 192)
"""Too large to be passed on the CPU."""


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


@pytest.mark.parametrize(("size", "item"), [((64, 96), False), (META, False), (META, True)])
def test_unused_parameters_stride_and_batch(size: tuple[int, int], item: bool) -> None:
    network = Net(item=item)
    found = probe(network, size)
    assert found.unused == ("idle.weight", "idle.bias")
    assert (found.stride, found.min_batch_size) == (4.0, 1)
    assert found.lines() == ["unused parameters (no gradient), not trained: idle"]
    freeze(network, found.unused)
    assert [name for name, one in network.named_parameters() if not one.requires_grad] == [
        "idle.weight",
        "idle.bias",
    ]
    assert probe(network, size).unused == ()


@pytest.mark.parametrize("size", [(64, 64), META])
def test_a_pooled_batch_norm_needs_two_images_unless_it_is_frozen(size: tuple[int, int]) -> None:
    network = Net(pooled=True)
    assert probe(network, size).min_batch_size == 2
    network.freeze_batchnorm()
    assert probe(network, size).min_batch_size == 1


def test_the_network_and_random_numbers_stay_as_they_were() -> None:
    for item in (False, True):  # on the meta device, and computed
        network = Net(item=item).eval()
        before = {name: one.clone() for name, one in network.state_dict().items()}
        random = torch.get_rng_state()
        probe(network, META)
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
    network = Net()
    probe(network, (128, 96))  # small images are passed sooner than their shapes
    assert network.sizes == [("cpu", 2, 3, 128, 96), ("cpu", 1, 3, 128, 96)]
    network = Net(item=True)
    network.size_rule = SizeRule(fixed=(160, 160))
    assert probe(network, (160, 160)).size == (160, 160)


def test_images_that_the_network_cannot_take_are_named() -> None:
    with pytest.raises(OptionError) as error:
        probe(Net(), (64, 64), num_channels=4)
    assert str(error.value).startswith(
        "--arch: the network does not accept 2 images of 64x64 pixels and 4 channels: "
    )


class Other(SegmentationModel):
    """Return whatever a function makes of good logits (N, 4, h, w)."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.head, self.change = nn.Conv2d(3, 4, 1, 4), change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.head(images))


TENSOR = "expected a tensor of a floating dtype, (2, 4, h, w): one channel per class, and "
PAIR = "are not a pair of a tensor and its loss weight, a number; expected Logits(tensor, "
WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tensor": (lambda x: x, "network returns Tensor; expected segacc.model.Logits, as "),
    "dict": (lambda x: {"out": x}, "network returns dict; expected segacc.model.Logits"),
    "tuple": (lambda x: (x, ()), "network returns tuple; expected segacc.model.Logits"),
    "K + 1": (
        lambda x: Logits(torch.cat([x, x[:, :1]], 1)),
        f"network's logits of 2 images are float32 (2, 5, 16, 16); {TENSOR}",
    ),
    "fewer": (lambda x: Logits(x[:, 1:]), "logits of 2 images are float32 (2, 3, 16, 16); "),
    "integers": (lambda x: Logits(x.long()), "logits of 2 images are int64 (2, 4, 16, 16)"),
    "classes": (lambda x: Logits(x.argmax(1)), "logits of 2 images are int64 (2, 16, 16)"),
    "flat": (lambda x: Logits(x.flatten(2)), "logits of 2 images are float32 (2, 4, 256); "),
    "last": (lambda x: Logits(x.permute(0, 2, 3, 1)), "logits of 2 images are float32 (2, 16, 16"),
    "one": (lambda x: Logits(x[:1]), f"logits of 2 images are float32 (1, 4, 16, 16); {TENSOR}"),
    "squeezed": (lambda x: Logits(x.squeeze(0)), "logits of 1 images are float32 (4, 16, 16); "),
    "none": (lambda x: Logits(None), "network's logits of 2 images are NoneType; expected a "),  # type: ignore[arg-type]
    "empty": (lambda x: Logits(x[..., :0]), "logits of 2 images are float32 (2, 4, 16, 0); "),
    "auxiliary": (
        lambda x: Logits(x, ((x, 0.4), (x[:, 1:], 0.4))),
        f"network's auxiliary logits 2 of 2 images are float32 (2, 3, 16, 16); {TENSOR}",
    ),
    "no weight": (lambda x: Logits(x, (x,)), f"network's auxiliary logits 1 {PAIR}"),  # type: ignore[arg-type]
    "nan": (lambda x: Logits(x, ((x, float("nan")),)), f"network's auxiliary logits 1 {PAIR}"),
    "queries": (
        lambda x: Logits(x, queries=[x]),
        "network returns Logits with queries, but defines no losses that use them; expected ",
    ),
}


@pytest.mark.parametrize("small", [0, 128], ids=["meta", "computed"])
@pytest.mark.parametrize("case", WRONG)
def test_other_logits_are_refused_by_name(
    case: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segacc.model.probe.SMALL", small)
    change, text = WRONG[case]
    with pytest.raises(PluginError) as error:
        probe(Other(change), (64, 64), facts=facts(4), where="--arch odd")
    assert str(error.value).startswith("--arch odd: the ") and text in str(error.value)


def test_queries_are_for_losses_of_its_own() -> None:
    network = Other(lambda x: Logits(x, queries=[x]))
    network.losses = lambda facts: {"own": None}  # type: ignore[method-assign, assignment, return-value]
    assert probe(network, (64, 64), facts=facts(4)).stride == 4
    assert probe(Other(lambda x: Logits(x[:, 1:])), (64, 64)).stride == 4  # classes not known
