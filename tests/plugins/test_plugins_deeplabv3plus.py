"""DeepLabV3+: what is built on which network of timm, trained, saved and loaded.

tests/model/test_mmseg_weights.py compares its logits with mmsegmentation's structure.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from data_tools import facts
from segacc.errors import OptionError
from segacc.kernels.pixel import cross_entropy_sum
from segacc.model.contract import SizeRule
from segacc.plugins.architectures import deeplabv3plus
from segacc.plugins.architectures.backbones import timm_facts
from segacc.plugins.architectures.deeplabv3plus import (
    NARROW,
    DeepLabV3PlusOptions,
    segacc_architectures,
)
from segacc.registry import choose, load_registry

[RECORD] = segacc_architectures()
Options = DeepLabV3PlusOptions


def tiny(num_classes: int = 3, *, num_channels: int = 3, **values: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"backbone": "tiny", "hidden_size": 16, "auxiliary_channels": 8}
    given = facts(num_classes, num_channels=num_channels)
    return RECORD.build(Options(**{**sizes, **values}), given).eval()


def images(count: int = 2, height: int = 64, width: int = 96, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(0))


def test_the_default_is_mmsegmentations_resnet_with_timms_weights() -> None:
    with torch.device("meta"):
        model: Any = RECORD.build(Options(), facts(19))
        maps = model.network.backbone(images(1, 65, 97).to("meta")).feature_maps
    assert [tuple(one.shape[1:]) for one in maps] == [(256, 17, 25), (1024, 9, 13), (2048, 9, 13)]
    assert model.mean == (0.485, 0.456, 0.406)
    assert RECORD.default_weights(Options()) == "timm/resnet50c.gluon_in1k"
    assert RECORD.weights_license(Options()) == "Apache-2.0"


def test_without_published_weights() -> None:
    for options in (Options(backbone="tiny"), Options(config=Path("x"))):
        assert RECORD.default_weights(options) is None
    assert RECORD.weights_license(Options(backbone="tiny")) == ""


@pytest.mark.parametrize("stride", [8, 16])
def test_the_stride_sets_the_dilations(stride: int) -> None:
    model = tiny(output_stride=stride)
    low, middle, high = model.network.backbone(images()).feature_maps
    assert low.shape[-2:] == (16, 24)
    assert middle.shape[-2:] == high.shape[-2:] == (64 // stride, 96 // stride)
    modules = model.network.decode_head.aspp_modules
    found = [one.depthwise_conv.conv.dilation[0] for one in modules[1:]]
    assert found == ([12, 24, 36] if stride == 8 else [6, 12, 18])
    with torch.device("meta"):
        paper = RECORD.build(Options(backbone="timm/xception41", output_stride=stride), facts())
    assert paper.size_rule == SizeRule(minimum=stride)


def test_any_size_trains_and_the_head_is_known() -> None:
    model = tiny(5)
    for height, width in ((64, 96), (65, 33), (8, 9)):
        assert model.size_rule.complaint((height, width)) == ""
        logits = model(images(1, height, width))
        assert logits.main.shape == (1, 5, -(-height // 4), -(-width // 4))
        assert logits.auxiliary == ()
    assert model.min_batch_size == 2
    logits = model.train()(images())
    [(auxiliary, weight)] = logits.auxiliary
    assert (auxiliary.shape, weight) == ((2, 5, 8, 12), 0.4)
    labels = torch.zeros(2, 64, 96, dtype=torch.int64)
    loss = cross_entropy_sum(logits.main, labels) + cross_entropy_sum(auxiliary, labels)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert model.is_head(name) is (".backbone." not in name)


def test_heads_start_like_mmsegmentations() -> None:
    model = tiny(200, hidden_size=64)
    convolution, last = model.network.decode_head.bottleneck.conv, model.classifiers
    assert convolution.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert last == ("network.decode_head.conv_seg", "network.auxiliary_head.conv_seg")
    classifier = model.get_submodule(last[0])
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not classifier.bias.any()
    dropped = [one.p for one in model.modules() if isinstance(one, nn.Dropout2d)]
    assert dropped == [0.1, 0.1]
    bare = tiny(auxiliary=0.0, dropout=0.0)
    assert bare.train()(images()).auxiliary == () and len(bare.classifiers) == 1


def test_a_saved_folder_gives_the_same_logits(tmp_path: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation

    model, names = tiny(4, output_stride=16), ("sky", "road", "car", "tree")
    model.save_pretrained(tmp_path, names=names, state_dict=model.state_dict())
    loaded, info = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()) and loaded.config.id2label == dict(enumerate(names))
    labels = torch.randint(4, (2, 64, 96), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = loaded(images(), labels=labels)
        torch.testing.assert_close(found.logits, model(images()).main)
        early = loaded.auxiliary_head(loaded.backbone(images()).feature_maps[1])
    wanted = cross_entropy_sum(found.logits, labels) + 0.4 * cross_entropy_sum(early, labels)
    torch.testing.assert_close(found.loss, wanted / labels.numel())
    again = RECORD.build(RECORD.options(config=tmp_path), facts(4, num_channels=4))
    report = again.load_weights(str(tmp_path), class_names=names)
    assert (report.new, report.dropped, len(report.adapted)) == ((), (), 1)
    own = tmp_path / "model.safetensors"  # a file with the network's own names
    assert not tiny(4, output_stride=16).load_file(own, class_names=names).new


def test_timms_encoder_is_loaded_from_a_folder_and_a_file(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("resnet50c", **NARROW)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50c"}))
    for load in ("load_weights", "load_file"):
        model = tiny()
        source = tmp_path if load == "load_weights" else tmp_path / "model.safetensors"
        report = getattr(model, load)(str(source))
        assert all(model.is_head(name) for name in report.new)
        assert [name.split(".")[-2] for name in report.dropped] == ["fc", "fc"]
        mine = model.network.backbone._backbone.layer4[1].conv2.weight
        assert torch.equal(mine, theirs.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (
            "resnet50c",
            '--arch deeplabv3plus: backbone="resnet50c" is no network of timm; write timm/NAME, '
            "such as timm/resnet50c.",
        ),
        ("timm/resnet19", 'timm has no network "resnet19"'),
        ("timm/vit_tiny_patch16_224", "timm/vit_tiny_patch16_224 cannot have output_stride=8: Ty"),
    ],
)
def test_other_backbones_are_refused(typed: str, wanted: str) -> None:
    with pytest.raises(OptionError) as error:
        given = choose(load_registry(), "architecture", f"deeplabv3plus:backbone={typed}", "--arch")
        RECORD.build(given.options, facts())
    assert str(error.value).startswith(wanted)


def test_a_network_that_would_ignore_the_stride_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored = timm_facts("resnet18")
    monkeypatch.setattr(deeplabv3plus, "timm_facts", lambda name, stride: ignored)
    with pytest.raises(OptionError) as error:
        RECORD.build(Options(backbone="timm/resnet18"), facts())
    assert str(error.value) == (
        "--arch deeplabv3plus: backbone=timm/resnet18: with output_stride=8, its feature maps have "
        "the strides 2, 4, 8, 16, 32; one of 4, at least one more and a last one of 8 are needed."
    )
