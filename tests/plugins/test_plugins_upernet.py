"""UPerNet on every backbone of the table and on timm's: shapes, sizes, weights, errors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import data_tools
from launches import ROOT
from segacc.contracts import Facts
from segacc.errors import OptionError, WeightsError
from segacc.model import SizeRule, TransformersModel
from segacc.plugins.architectures.backbone_table import BACKBONES
from segacc.plugins.architectures.backbones import (
    TEST,
    backbone_config,
    check_backbone,
    evenly_spaced,
)
from segacc.plugins.architectures.upernet import (
    UperNetOptions,
    build,
    default_weights,
)
from segacc.settings.options import decode

TIMM_NETWORKS = ("timm/test_efficientnet", "timm/test_convnext", "timm/test_vit")
EVERY = (*BACKBONES, *TIMM_NETWORKS)
LITE0 = ROOT.parent / "shared" / "data" / "efficientnet_lite0"
HEADS = ("network.decode_head.", "network.auxiliary_head.", "network.backbone.fpn.")
STAGE_NORMS = "network.backbone.hidden_states_norms."


def facts(num_channels: int = 3, crop: tuple[int, int] = (64, 96)) -> Facts:
    return replace(data_tools.facts(5), crop_size=crop, num_channels=num_channels)


def options(backbone: str, **more: Any) -> UperNetOptions:
    size = "" if backbone.startswith("timm/") else TEST
    return UperNetOptions(
        backbone=backbone, size=size, hidden_size=16, auxiliary_channels=8, **more
    )


def upernet(backbone: str, num_channels: int = 3, **more: Any) -> TransformersModel:
    torch.manual_seed(0)
    network = build(options(backbone, **more), facts(num_channels))
    assert isinstance(network, TransformersModel)
    return network


def batch(network: TransformersModel, count: int = 2) -> Tensor:
    height, width = network.size_rule.fit((64, 96))
    random = torch.Generator().manual_seed(1)
    return torch.randn(count, network.num_channels, height, width, generator=random)


# ------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("backbone", EVERY)
def test_every_backbone_trains(backbone: str) -> None:
    network = upernet(backbone).train()
    images = batch(network)
    logits = network(images)
    assert logits.main.shape == (2, 5, *images.shape[2:])
    ((auxiliary, weight),) = logits.auxiliary
    assert auxiliary.shape[:2] == (2, 5)
    assert auxiliary.shape[2] < images.shape[2] and weight == 0.4
    (logits.main.square().mean() + weight * auxiliary.square().mean()).backward()
    unused = {name for name, one in network.named_parameters() if one.grad is None}
    assert all("mask_token" in name or "norm." in name for name in unused), unused
    assert len(unused) <= 2
    assert network.eval()(images).auxiliary == ()


@pytest.mark.parametrize("backbone", EVERY)
def test_every_backbone_takes_four_channels(backbone: str) -> None:
    network = upernet(backbone, num_channels=4).eval()
    assert len(network.mean) == 4
    assert network(batch(network, 1)).main.shape[1] == 5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_units_for_fsdp_are_there(backbone: str) -> None:
    network = upernet(backbone)
    found = {type(module).__name__ for module in network.network.backbone.modules()}
    assert network._no_split_modules and found.issuperset(network._no_split_modules)


@pytest.mark.parametrize("backbone", EVERY)
def test_gradient_checkpointing_is_what_it_says(backbone: str) -> None:
    network = upernet(backbone)
    enabled = network.enable_gradient_checkpointing()
    calls: list[str] = []
    for module in network.network.backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_pre_hook(lambda *_: calls.append("forward"))
    loss = network.train()(batch(network)).main.sum()
    forward = len(calls)
    loss.backward()
    assert (len(calls) > forward) is enabled


def test_heads_and_their_weight() -> None:
    network = upernet("beit")
    names = [name for name, _ in network.named_parameters()]
    assert {name for name in names if network.is_head(name)} == {
        name for name in names if name.startswith(HEADS)
    }
    assert network.classifiers == (
        "network.decode_head.classifier",
        "network.auxiliary_head.classifier",
    )
    without = upernet("resnet", auxiliary_weight=0.0).train()
    assert without.network.auxiliary_head is None
    assert without.classifiers == ("network.decode_head.classifier",)
    assert without(batch(without)).auxiliary == ()


def test_the_normalization_is_the_backbones() -> None:
    assert upernet("convnext").mean == (0.485, 0.456, 0.406)
    assert upernet("beit").mean == upernet("bit").std == (0.5, 0.5, 0.5)
    assert upernet("timm/test_vit").mean == (0.5, 0.5, 0.5)


def test_drop_path_reaches_the_backbone() -> None:
    config = upernet("swin", drop_path=0.25).network.config
    assert config.backbone_config.drop_path_rate == 0.25


# ------------------------------------------------------------------------------- the size rule


def untouched(network: TransformersModel, size: tuple[int, int]) -> bool:
    """Tell whether the last row or column of the input is read by nothing."""
    images = torch.randn(1, 3, *size, requires_grad=True)
    maps = network.network.backbone(images).feature_maps
    total: Any = sum((one * torch.randn_like(one)).sum() for one in maps)
    total.backward()
    assert images.grad is not None
    seen = images.grad.abs().sum((0, 1))
    return not (seen[-1].any() and seen[:, -1].any())


def awake(network: TransformersModel) -> TransformersModel:
    """Give what starts at 0, as layer scales, a value, so that gradients get through."""
    for tensor in network.parameters():
        if tensor.ndim < 2 and not tensor.any():
            nn.init.constant_(tensor, 0.5)
    return network.eval()


@pytest.mark.parametrize("backbone", EVERY)
def test_sizes_that_fit_are_read_whole_and_others_are_not(backbone: str) -> None:
    network = awake(upernet(backbone))
    rule = network.size_rule
    least = max(rule.minimum, rule.multiple)
    sizes = [(64, 96), (112, 84), (65, 67), (48, 48), (least, least), (least + 1, least + 2)]
    for size in [rule.fixed] if rule.fixed else sizes:
        if not rule.complaint(size):
            assert not untouched(network, size), size
            assert network(torch.randn(1, 3, *size)).main.shape[2:] == size
    if backbone in TIMM_NETWORKS:  # timm does not tell its rule, so ours may refuse too much
        return
    more = [] if rule.fixed or least == 1 else [(least + 1, least + 2), (least - 1, 64)]
    for size in filter(rule.complaint, [*sizes[:4], *more]):
        try:
            assert untouched(network, size), size
        except RuntimeError:  # the network says no by itself
            assert rule.fixed or size[0] < least


@pytest.mark.parametrize(
    ("backbone", "rule"),
    [
        ("convnext", SizeRule(multiple=4, minimum=32)),
        ("swin", SizeRule()),
        ("dinov2", SizeRule(multiple=14, minimum=14)),
        ("beit", SizeRule(multiple=16, minimum=32)),
        ("pvt_v2", SizeRule(minimum=29)),
        ("hiera", SizeRule(fixed=(64, 64))),
        ("timm/test_efficientnet", SizeRule(minimum=32)),
        ("timm/test_vit", SizeRule(fixed=(160, 160))),
    ],
)
def test_size_rules(backbone: str, rule: SizeRule) -> None:
    network = upernet(backbone)
    assert network.size_rule == rule
    assert network.image_processor.do_resize is (rule.fixed is not None)


def test_hiera_is_built_for_the_largest_square_in_the_crop() -> None:
    network = build(options("hiera"), facts(crop=(100, 130)))
    assert network.size_rule.fixed == (96, 96)


# ---------------------------------------------------------------------------------- weights


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [*BACKBONES, "timm/test_efficientnet"])
def test_a_saved_network_comes_back(backbone: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    network, names = upernet(backbone).train(), facts().class_names
    network(batch(network))  # moves the statistics of batch norm
    network.eval().save_pretrained(tmp_path, names=list(names), state_dict=network.state_dict())
    wanted = network(batch(network)).main
    again = build(UperNetOptions(config=tmp_path), facts(crop=(128, 32))).eval()
    report = again.load_weights(str(tmp_path), class_names=names)
    assert (report.new, report.dropped, report.adapted) == ((), (), ())
    torch.testing.assert_close(again(batch(network)).main, wanted, rtol=1e-5, atol=1e-6)
    assert (again.size_rule, again.mean, again.head_prefixes, again._no_split_modules) == (
        network.size_rule,
        network.mean,
        network.head_prefixes,
        network._no_split_modules,
    )
    plain = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    logits = plain(pixel_values=batch(network)).logits
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)
    saved = AutoImageProcessor.from_pretrained(tmp_path)
    assert tuple(saved.image_mean) == network.mean
    four = build(UperNetOptions(config=tmp_path), facts(num_channels=4))
    report = four.load_weights(str(tmp_path), class_names=names)
    assert (report.new, len(report.adapted)) == ((), 1)


def save_encoder(backbone: str, folder: Path, **more: Any) -> Any:
    """Save a classifier of a backbone, or the bare encoder where transformers has none."""
    from transformers import AutoModel, AutoModelForImageClassification

    torch.manual_seed(2)
    config = backbone_config(backbone, TEST, image_size=(96, 96), maps=1, **more)
    try:
        encoder = AutoModelForImageClassification.from_config(config)
    except ValueError:
        encoder = AutoModel.from_config(config)
    encoder.save_pretrained(folder)
    return encoder


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_classifiers_encoder_is_loaded(backbone: str, tmp_path: Path) -> None:
    given = save_encoder(backbone, tmp_path)
    network = upernet(backbone)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    report = network.load_weights(str(tmp_path))
    assert all(name.startswith((*HEADS, STAGE_NORMS)) for name in report.new), report.new
    assert all("classifier" in n or "norm" in n or "fc." in n for n in report.dropped)
    theirs = {tensor.double().sum().item() for tensor in given.state_dict().values()}
    for name, tensor in network.state_dict().items():
        if name in report.new:
            assert torch.equal(tensor, before[name]), name
        elif "position_embeddings" not in name:  # Hiera's are resized
            assert tensor.double().sum().item() in theirs, name
    four = upernet(backbone, num_channels=4).load_weights(str(tmp_path))
    assert len(four.adapted) == 1 and four.new == report.new


def test_rows_of_known_classes_are_taken_over(tmp_path: Path) -> None:
    network, names = upernet("convnext"), ["sky", "c1", "tree", "c0", "sea"]
    network.save_pretrained(tmp_path, names=names, state_dict=network.state_dict())
    other = upernet("convnext")
    report = other.load_weights(str(tmp_path), class_names=facts().class_names)
    assert report.carried == ("c0", "c1")
    for head in ("decode_head", "auxiliary_head"):
        mine, theirs = (
            one.network.get_submodule(head).classifier.weight for one in (other, network)
        )
        assert torch.equal(mine[:2], theirs[[3, 1]])


def test_an_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_encoder("swin", tmp_path)
    with pytest.raises(WeightsError, match=r"contains a swin network, .* needs upernet or resnet"):
        upernet("resnet").load_weights(str(tmp_path))
    with pytest.raises(WeightsError, match="contains a swin network, not upernet"):
        build(UperNetOptions(config=tmp_path), facts())


@pytest.mark.skipif(not LITE0.is_dir(), reason="EfficientNet-Lite0 is not beside the repository")
def test_weights_of_timm_are_loaded() -> None:
    network = upernet("timm/tf_efficientnet_lite0")
    assert network.mean == (0.5, 0.5, 0.5)
    report = network.load_weights(str(LITE0))
    assert report.loaded == 288 and all(name.startswith(HEADS) for name in report.new)
    parts = {
        name.removeprefix("network.backbone._backbone.").split(".")[0] for name in report.dropped
    }
    assert parts == {"conv_head", "bn2", "classifier"}
    with pytest.raises(WeightsError, match="contains weights of timm"):
        upernet("convnext").load_weights(str(LITE0))
    with pytest.raises(WeightsError, match="do not belong to this network"):
        upernet("timm/test_efficientnet").load_weights(str(LITE0))


@pytest.mark.parametrize(
    ("backbone", "size", "wanted"),
    [
        ("convnext", "", "openmmlab/upernet-convnext-tiny"),
        ("convnext", "xlarge", "openmmlab/upernet-convnext-xlarge"),
        ("swin", "base", "openmmlab/upernet-swin-base"),
        ("resnet", "", "microsoft/resnet-50"),
        ("dinov2", "giant", "facebook/dinov2-giant"),
        ("dinov3_vit", "small-plus", "facebook/dinov3-vits16plus-pretrain-lvd1689m"),
        ("dinov3_vit", "7b", "facebook/dinov3-vit7b16-pretrain-lvd1689m"),
        ("hgnet_v2", "b0", None),
        ("bit", "101", None),
        ("swin", TEST, None),
        ("timm/resnet18", "", "timm/resnet18.a1_in1k"),
        ("timm/resnet18.tv_in1k", "", "timm/resnet18.tv_in1k"),
        ("timm/nosuch", "", None),
    ],
)
def test_default_weights(backbone: str, size: str, wanted: str | None) -> None:
    assert default_weights(UperNetOptions(backbone=backbone, size=size)) == wanted


def test_a_folder_has_no_default_weights(tmp_path: Path) -> None:
    assert default_weights(UperNetOptions(config=tmp_path)) is None


# ----------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_published_size_can_be_described(backbone: str) -> None:
    for size in BACKBONES[backbone].sizes:
        config = backbone_config(backbone, size)
        assert config.model_type == backbone and len(config.out_features) == 4
    assert set(BACKBONES[backbone].hub) <= set(BACKBONES[backbone].sizes)


@pytest.mark.parametrize(
    ("backbone", "size", "millions"),  # of the encoder; the papers count a classifier besides
    [
        ("convnext", "tiny", 27.8),
        ("convnextv2", "atto", 3.4),
        ("swin", "base", 86.9),
        ("swinv2", "tiny", 27.6),
        ("resnet", "50", 23.5),
        ("dinov2", "base", 86.6),
        ("dinov2_with_registers", "small", 22.1),
        ("dinov3_vit", "small", 21.6),
        ("dinov3_convnext", "tiny", 27.8),
        ("beit", "base", 85.8),
        ("focalnet", "tiny-lrf", 27.9),
        ("hiera", "base-plus", 69.0),
        ("pvt_v2", "b2", 24.9),
        ("hgnet_v2", "b1", 2.2),  # timm: 4.29 with the last convolution of 2.1
        ("bit", "50", 23.5),
    ],
)
def test_sizes_have_the_published_numbers(backbone: str, size: str, millions: float) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    config = backbone_config(backbone, size)
    with torch.device("meta"):
        encoder = MODEL_FOR_BACKBONE_MAPPING[type(config)](config)
    count = sum(one.numel() for name, one in encoder.named_parameters() if "fpn." not in name)
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_maps_are_spread_over_the_stages() -> None:
    stages = [f"stage{k}" for k in range(1, 13)]
    assert evenly_spaced(stages, 4) == ["stage3", "stage6", "stage9", "stage12"]
    assert evenly_spaced(stages[:4], 4) == stages[:4]
    assert evenly_spaced(stages, 1) == ["stage12"]


# ---------------------------------------------------------------------------------- the errors


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"backbone": "convnet"}, 'unknown backbone "convnet". Did you mean "convnext"? Known: '),
        ({"backbone": "vitpose_backbone"}, "cannot be used: it returns sequences of tokens"),
        ({"backbone": "dinat"}, "natten"),
        ({"backbone": "timm/"}, 'unknown backbone "timm/"'),
        (
            {"backbone": "resnet", "size": "51"},
            'resnet has no size "51". Did you mean "50"? Known: 50, 18, 26, 34, 101, 152, test',
        ),
        ({"backbone": "timm/resnet18", "size": "50"}, "timm/resnet18 has only one size"),
        (
            {"backbone": "resnet", "drop_path": 0.1},
            "resnet does not support drop_path; leave it out",
        ),
        ({"backbone": "timm/resnet18", "drop_path": 0.1}, "does not support drop_path"),
    ],
)
def test_wrong_options(values: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        decode(UperNetOptions, values, "--arch upernet")
    assert said in str(caught.value) and str(caught.value).startswith("--arch upernet: ")


def test_a_size_may_be_a_number_in_yaml() -> None:
    assert decode(UperNetOptions, {"backbone": "resnet", "size": 18}, "").size == "18"
    check_backbone("timm/whatever", "")


def test_networks_that_timm_does_not_have_or_that_give_no_maps() -> None:
    with pytest.raises(OptionError, match=r'no network "resnet19"\. Did you mean "resnet1'):
        build(options("timm/resnet19"), facts())
    with pytest.raises(OptionError, match="channels-last"):
        build(options("timm/swin_tiny_patch4_window7_224"), facts())
    with pytest.raises(OptionError, match="only 3 feature maps; 4 are needed"):
        build(options("timm/levit_128s"), facts())


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet", "test_resnet"])
def test_weights_of_timm_find_their_extractors_names(name: str, tmp_path: Path) -> None:
    """Extractors put `model.` in front, or write stages_0 for stages.0, or change nothing."""
    torch.manual_seed(1)
    published = timm.create_model(name)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    network = upernet(f"timm/{name}")
    report = network.load_weights(str(tmp_path))
    assert all(network.is_head(one) for one in report.new), report.new
    own, theirs = network.state_dict(), published.state_dict()
    first = next(iter(theirs))
    assert any(torch.equal(tensor, theirs[first]) for tensor in own.values())
