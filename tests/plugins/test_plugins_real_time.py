"""DDRNet and PIDNet, compared with what the authors' code gives for the same tensors.

The numbers are those of github.com/XuJiacong/PIDNet (4c158cf) and github.com/ydhongHIT/DDRNet
(de0db31, with BatchNorm2d for SyncBatchNorm).
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_tools import facts
from segacc.kernels.pixel import cross_entropy_sum
from segacc.model.boundary_head import BoundaryModel
from segacc.model.networks import pidnet
from segacc.plugins.architectures.real_time import (
    DDRNetOptions,
    PIDNetOptions,
    segacc_architectures,
)

RECORDS = {record.name: record for record in segacc_architectures()}
NAMES = ["ddrnet", "pidnet"]


def tiny(name: str, num_classes: int = 3, *, seed: int = 0, **values: Any) -> Any:
    torch.manual_seed(seed)
    record = RECORDS[name]
    return record.build(record.options(variant="tiny", **values), facts(num_classes)).eval()


def images(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn((count, 3, height, width), generator=random)


@pytest.mark.parametrize(
    ("name", "variant", "plain", "trained", "digest"),
    [
        ("pidnet", "s", 7_625_715, 7_720_935, "e7aab0d6f8a00163"),
        ("pidnet", "m", 28_538_515, 28_763_111, "26d712995fa0edf2"),
        ("pidnet", "l", 36_939_571, 37_314_311, "68124aacf48c22b7"),
        ("ddrnet", "23_slim", 5_695_987, 5_734_342, "9e1489d49c89d693"),
        ("ddrnet", "23", 20_148_947, 20_299_366, "4f1140220d231f27"),
    ],
)
def test_tensors_are_the_authors(
    name: str, variant: str, plain: int, trained: int, digest: str
) -> None:
    """Number of parameters without and with the heads for training; names and shapes."""
    record, few = RECORDS[name], {"auxiliary": 0.0, "boundary": 0.0}
    if name == "ddrnet":
        few.pop("boundary")
    with torch.device("meta"):
        whole = record.build(record.options(variant=variant), facts(19))
        bare = record.build(record.options(variant=variant, **few), facts(19))
    counts = [sum(one.numel() for one in model.parameters()) for model in (bare, whole)]
    assert counts == [plain, trained]
    shapes = sorted((key, tuple(one.shape)) for key, one in whole.network.state_dict().items())
    told = "".join(f"{key}{shape}" for key, shape in shapes)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == digest


def fill(network: Any) -> None:
    """Set all tensors to waves, those of norms and biases around 1."""
    for index, (_, tensor) in enumerate(sorted(network.state_dict().items())):
        if tensor.is_floating_point():
            wave = torch.cos(0.7 * torch.arange(tensor.numel()).double() + index).view(tensor.shape)
            tensor.copy_(1 + wave / 3 if tensor.ndim == 1 else wave / 3)


@pytest.mark.parametrize(
    ("name", "sizes", "wanted"),
    [
        (
            "pidnet",
            (4, 2, 2, 4, 4),
            [
                (1.467798, 1.273928, 1.670469, 2.310782),
                (0.741969, 0.308199, 1.018795, 0.064614),
                (0.599364, 0.281706, 0.017474, 0.712333),
            ],
        ),
        (  # the large one has other modules
            "pidnet",
            (4, 3, 2, 4, 4),
            [
                (1.535053, 1.255703, 2.064637, 1.876285),
                (0.518339, 1.057143, 0.942751, -0.800935),
                (0.096746, 0.657752, 0.142259, 0.739530),
            ],
        ),
        (
            "ddrnet",
            (4, 4, 4),
            [(1.534549, 1.277419, 1.486010, 1.927494), (0.562049, 1.226994, -0.929610, -1.730430)],
        ),
    ],
    ids=["pidnet", "pidnet-large", "ddrnet"],
)
def test_logits_are_the_authors(
    name: str, sizes: Any, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean, standard deviation and two values of the main logits and of the other heads."""
    if name == "pidnet":
        monkeypatch.setitem(pidnet.SIZES, "tiny", sizes)
    model = tiny(name).double().train()
    fill(model.network)
    with torch.no_grad():
        found = model(torch.cos(0.37 * torch.arange(49152).double()).view(2, 3, 64, 128))
    heads = found.queries or (found.main, *(one for one, _ in found.auxiliary))
    for one, numbers in zip(heads, wanted, strict=True):
        own = one.mean(), one.std(), one[0, 0, 0, 0], one[1, -1, 5, 3]
        assert torch.stack(own).tolist() == pytest.approx(numbers, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_any_size_trains_and_the_head_is_known(name: str) -> None:
    model = tiny(name, 5)
    for height, width in ((64, 96), (65, 33), (1, 1)):
        assert model.size_rule.complaint((height, width)) == ""
        logits = model(images(1, height, width))
        assert logits.main.shape == (1, 5, -(-height // 8), -(-width // 8))
        assert (logits.auxiliary, logits.queries) == ((), None)
    found = model.train()(images())
    heads = found.queries or (found.main, found.auxiliary[0][0])
    sum(one.square().mean() for one in heads).backward()
    assert all(one.grad is not None for one in model.parameters())
    parts = {key.split(".")[1] for key, _ in model.named_parameters() if model.is_head(key)}
    extra = {"pidnet": {"dfm", "seghead_p", "seghead_d"}, "ddrnet": {"seghead_extra"}}[name]
    assert parts == {"spp", "final_layer"} | extra
    assert not any(model.is_head(f"network.{one}.0.weight") for one in ("conv1", "layer5_"))


def test_heads_can_be_left_out() -> None:
    ours, plain, bare = (
        tiny("pidnet", **more).train()
        for more in ({}, {"boundary": 0.0}, {"auxiliary": 0.0, "boundary": 0.0})
    )
    assert isinstance(ours, BoundaryModel) and ours.class_weighted
    assert list(ours.losses(facts())) == ["semantic", "boundary", "boundary_semantic"]
    assert ours(images()).queries.boundary.shape == (2, 1, 8, 12)
    for model, weights in ((plain, [0.4]), (bare, [])):
        logits = model(images())
        assert model.losses(facts()) == {} and logits.queries is None
        assert [weight for _, weight in logits.auxiliary] == weights
        assert len(model.classifiers) == 1 + len(weights)
    own = tiny("pidnet", auxiliary=0.0).train()
    assert own(images()).queries.auxiliary is None
    assert [weight for _, weight in tiny("ddrnet", auxiliary=0.25).train()(images()).auxiliary] == [
        0.25
    ]
    assert tiny("ddrnet", auxiliary=0.0).train()(images()).auxiliary == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_folder_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation

    model, names = tiny(name, 4), ("sky", "road", "car", "tree")
    model.save_pretrained(tmp_path, names=names, state_dict=model.state_dict())
    loaded, info = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()) and loaded.config.id2label == dict(enumerate(names))
    labels = torch.randint(4, (2, 64, 96), generator=torch.Generator().manual_seed(1))
    labels[:, :9] = 255
    with torch.no_grad():
        found = loaded(images(), labels=labels)
        torch.testing.assert_close(found.logits, model(images()).main)
        early = getattr(loaded, "seghead_p" if name == "pidnet" else "seghead_extra")
        seen: list[Tensor] = []
        early.register_forward_hook(lambda *given: seen.append(given[-1]))
        loaded(images(), labels=labels)
    wanted = cross_entropy_sum(found.logits, labels) + 0.4 * cross_entropy_sum(seen[0], labels)
    torch.testing.assert_close(found.loss, wanted / (labels != 255).sum())
    again = RECORDS[name].build(RECORDS[name].options(config=tmp_path), facts(4))
    report = again.load_weights(str(tmp_path), class_names=names)
    assert (report.new, report.dropped) == ((), ())
    assert all(torch.equal(one, again.state_dict()[key]) for key, one in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_first_loss_is_near_that_of_equal_chances(name: str) -> None:
    torch.manual_seed(0)
    options = {"ddrnet": DDRNetOptions(), "pidnet": PIDNetOptions()}[name]
    model = RECORDS[name].build(options, facts(11)).train()
    labels = torch.randint(11, (2, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loss = cross_entropy_sum(model(images(2, 64, 64)).main, labels) / labels.numel()
    assert loss.item() == pytest.approx(math.log(11), abs=0.5)
