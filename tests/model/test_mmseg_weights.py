"""Files of mmsegmentation: the same logits as a plain network with its structure and names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation, SwinConfig, UperNetConfig

import mmseg_networks as theirs
from data_tools import facts
from segacc.errors import WeightsError
from segacc.model import SegmentationModel
from segacc.model.weight_files import mmseg
from segacc.plugins.architectures import deeplabv3plus, segformer, upernet

NAMES = ("road", "building", "sky")
WIDTHS = (8, 8, 16, 16)  # of the variant `tiny`
NORMED = segformer.SegformerOptions(variant="tiny", decoder="mmseg", dropout=0.0, drop_path=0.0)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def their_segformer(num_classes: int = 3) -> Any:
    head = theirs.SegformerHead(WIDTHS, 16, num_classes)
    return theirs.randomized(theirs.Segmentor(theirs.MiT(WIDTHS, (1, 1, 2, 2)), head, None))


def their_upernet(backbone: nn.Module, widths: tuple[int, ...]) -> Any:
    head = theirs.UPerHead(widths, 16, 3)
    return theirs.randomized(theirs.Segmentor(backbone, head, theirs.FCNHead(widths[2], 8, 3)))


def write(
    path: Path, state: dict[str, Tensor], names: tuple[str, ...] = NAMES, config: str = "a = 1"
) -> Path:
    """Write a checkpoint as mmsegmentation 1.x publishes it."""
    meta = {"dataset_meta": {"classes": names, "palette": [[0, 0, 0]]}, "seed": 1, "cfg": config}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


def facts_of(names: tuple[str, ...] = NAMES) -> Any:
    return replace(facts(len(names)), class_names=names)


def our_upernet(kind: str, folder: Path) -> SegmentationModel:
    """Build segacc's network on a Swin with shifted windows, or on the tiny ConvNeXt."""
    if kind != "swin":
        options = upernet.UperNetOptions(size="test", hidden_size=16, auxiliary_channels=8)
        return upernet.build(options, facts_of())
    maps = [f"stage{k}" for k in range(1, 5)]
    sizes = {"embed_dim": 8, "depths": [2, 2, 1, 1], "num_heads": [2] * 4, "window_size": 2}
    config = UperNetConfig(
        backbone_config=SwinConfig(**sizes, out_features=maps),
        hidden_size=16,
        auxiliary_channels=8,
        num_labels=3,
    )
    config.save_pretrained(folder)
    return upernet.build(upernet.UperNetOptions(config=folder), facts_of())


@torch.no_grad()
def test_segformer_gives_the_logits_of_mmsegmentation(tmp_path: Path) -> None:
    network = their_segformer()
    file = write(tmp_path / "segformer.pth", network.state_dict())
    ours = segformer.build(NORMED, facts_of())
    report = ours.load_file(file, class_names=NAMES)
    assert (report.new, report.dropped, report.carried) == ((), (), None)
    images = torch.randn(2, 3, 64, 96)
    logits, wanted = ours.eval()(images).main, network(images)
    assert wanted.std() > 0.1
    torch.testing.assert_close(logits, wanted, **CLOSE)
    ours.save_pretrained(tmp_path, names=NAMES, state_dict=ours.state_dict())
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(images).logits, wanted, **CLOSE)
    read = segformer.build(segformer.SegformerOptions(config=tmp_path), facts_of())
    assert not read.load_weights(str(tmp_path), class_names=NAMES).new


def test_the_decoder_of_mmsegmentation_starts_from_a_published_encoder(tmp_path: Path) -> None:
    plain = segformer.build(replace(NORMED, decoder="authors"), facts_of())
    plain.save_pretrained(tmp_path, names=NAMES, state_dict=plain.state_dict())
    ours = segformer.build(NORMED, facts_of())
    new = ours.load_weights(str(tmp_path), fresh_head=True).new
    assert set(new) == {name for name in ours.state_dict() if ours.is_head(name)}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["swin", "convnext", "convnext of convolutions"])
def test_upernet_gives_the_logits_of_mmsegmentation(kind: str, tmp_path: Path) -> None:
    widths = (8, 16, 32, 64) if kind == "swin" else (4, 8, 16, 32)
    if kind == "swin":
        backbone: nn.Module = theirs.Swin(8, (2, 2, 1, 1), 2, 2)
    else:
        backbone = theirs.ConvNeXt(widths, linear=kind == "convnext")
    network = their_upernet(backbone, widths)
    file = write(tmp_path / "upernet.pth", network.state_dict())
    ours = our_upernet(kind, tmp_path / "config")
    report = ours.load_file(file, class_names=NAMES)
    assert {name for name in report.new if ".swin.layernorm." not in name} == set()
    assert report.dropped == ()
    images = torch.randn(1, 3, 100, 68) if kind == "swin" else torch.randn(1, 3, 96, 64)
    logits, wanted = ours.eval()(images).main, network(images)
    assert wanted.std() > 0.1
    torch.testing.assert_close(
        logits, F.interpolate(wanted, logits.shape[2:], mode="bilinear"), **CLOSE
    )
    third = network.auxiliary_head(network.backbone(images))
    mine: Any = ours
    maps = mine.network.backbone(images).feature_maps
    torch.testing.assert_close(mine.network.auxiliary_head(maps), third, **CLOSE)


DeepLab = deeplabv3plus.DeepLabV3PlusOptions


def their_deeplab(*, second: bool = True) -> Any:
    """DeepLabV3+ of the sizes of `backbone=tiny`; without `second`, DeepLabV3."""
    backbone = theirs.ResNet((1, 1, 2, 2), 4)
    head = theirs.SepASPPHead(16, 128, 16, 3, second=second)
    return theirs.randomized(theirs.Segmentor(backbone, head, theirs.FCNHead(64, 8, 3)))


def our_deeplab(**more: Any) -> Any:
    sizes = {"backbone": "tiny", "hidden_size": 16, "auxiliary_channels": 8}
    return deeplabv3plus.build(DeepLab(**{**sizes, **more}), facts_of())


@torch.no_grad()
def test_deeplabv3plus_gives_the_logits_of_mmsegmentation(tmp_path: Path) -> None:
    network = their_deeplab()
    ours = our_deeplab()
    report = ours.load_file(write(tmp_path / "a.pth", network.state_dict()), class_names=NAMES)
    assert (report.new, report.dropped, report.carried) == ((), (), None)
    images = torch.randn(1, 3, 310, 301)  # maps of 39 x 38 positions, for dilations up to 36
    logits, wanted = ours.eval()(images).main, network(images)
    assert wanted.std() > 0.1
    torch.testing.assert_close(logits, wanted, **CLOSE)
    third = network.auxiliary_head(network.backbone(images))
    _, middle, _ = ours.network.backbone(images).feature_maps
    torch.testing.assert_close(ours.network.auxiliary_head(middle), third, **CLOSE)


@pytest.mark.parametrize(
    ("name", "blocks", "deep"),
    [
        ("resnet50c", (3, 4, 6, 3), True),
        ("resnet101c", (3, 4, 23, 3), True),
        ("resnet50", (3, 4, 6, 3), False),
    ],
)
def test_all_tensors_of_deeplabv3plus_are_mapped(
    name: str, blocks: tuple[int, ...], deep: bool
) -> None:
    with torch.device("meta"):
        backbone = theirs.ResNet(blocks, 64, deep=deep)
        head, auxiliary = theirs.SepASPPHead(256, 2048, 512, 3), theirs.FCNHead(1024, 256, 3)
        network = theirs.Segmentor(backbone, head, auxiliary)
        ours = deeplabv3plus.build(DeepLab(backbone=f"timm/{name}"), facts_of())
    found = ours.own_names(network.state_dict(), fresh_head=False)
    assert {key: one.shape for key, one in found.items()} == {
        key: one.shape for key, one in ours.state_dict().items()
    }
    assert mmseg.resnet_name(ours.network.state_dict()) == name


def test_another_decoder_or_encoder_is_no_deeplabv3plus(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pth", their_deeplab(second=False).state_dict())
    with pytest.raises(WeightsError) as error:
        our_deeplab().load_file(file)
    assert str(error.value) == (
        f"{file}: its decoder (decode_head) has no sep_bottleneck, so it is not that of "
        "DeepLabV3+, but another one, such as DeepLabV3's. Load the encoder alone by --head fresh."
    )
    ours = our_deeplab()
    report = ours.load_file(file, fresh_head=True)
    assert set(report.new) == {name for name in ours.state_dict() if ours.is_head(name)}
    with torch.device("meta"):
        other = deeplabv3plus.build(DeepLab(backbone="timm/resnet50"), facts_of())
    own = other.network.state_dict()
    whole = their_deeplab().state_dict()
    with pytest.raises(WeightsError) as error:
        mmseg.deeplabv3plus(whole, own, False)
    assert str(error.value) == (
        "its encoder is resnet1-1-2-2c by the names of timm, and that of the chosen architecture "
        "is resnet50. Choose backbone=timm/resnet1-1-2-2c."
    )


def test_multi_grid_dilations_are_known_from_the_configuration(tmp_path: Path) -> None:
    state, config = their_deeplab().state_dict(), "backbone=dict(depth=101, multi_grid=(1, 2, 4))"
    file = write(tmp_path / "a.pth", state, config=config)
    older = tmp_path / "older.pth"  # of mmsegmentation 0.x
    torch.save({"meta": {"CLASSES": NAMES, "config": config}, "state_dict": state}, older)
    for path in (file, older):
        with pytest.raises(WeightsError) as error:
            our_deeplab().load_file(path)
        assert str(error.value) == (
            f"{path}: its encoder has other dilations in its last stage (multi_grid in the "
            "configuration that the file contains) than the networks of timm, so that logits would "
            "differ. Load the encoder alone by --head fresh."
        )
    assert our_deeplab().load_file(file, fresh_head=True).loaded


def encoder_of(counts: tuple[int, ...], *more: str) -> dict[str, Tensor]:
    """Return a tensor of each block, and others by which a kind of ResNet is known."""
    names = [f"layer{k}.{j}.conv1" for k, count in enumerate(counts, 1) for j in range(count)]
    return {f"backbone.{name}.weight": torch.zeros(1) for name in (*names, *more)}


@pytest.mark.parametrize(
    ("given", "name", "hint"),
    [
        (encoder_of((2, 2, 2, 2), "stem.0"), "resnet18c", "timm has no such network."),
        (encoder_of((3, 4, 6, 3), "conv1"), "resnet34", "Choose backbone=timm/resnet34."),
        (
            encoder_of((3, 4, 6, 3), "stem.0", "layer1.0.conv3", "layer2.0.downsample.2"),
            *("resnet50d", "Choose backbone=timm/resnet50d."),
        ),
    ],
)
def test_encoders_that_timm_dilates_otherwise(
    given: dict[str, Tensor], name: str, hint: str
) -> None:
    own = dict.fromkeys(encoder_of((3, 4, 6, 3), "conv1.0", "layer1.0.conv3"), torch.zeros(1))
    own = {key.replace("backbone.", mmseg.TIMM): one for key, one in own.items()}
    with pytest.raises(WeightsError) as error:
        mmseg.deeplabv3plus({**given, mmseg.SECOND: torch.zeros(1)}, own, False)
    assert str(error.value) == (
        f"its encoder is {name} by the names of timm, which dilates it otherwise than "
        "mmsegmentation, so that logits would differ. DeepLabV3+ on ResNet and ResNetV1c with 50, "
        "101 or 152 layers can be loaded; of others, the encoder alone by --head fresh."
    )
    with pytest.raises(WeightsError) as error:
        mmseg.deeplabv3plus(given, own, True)
    assert str(error.value) == (
        f"its encoder is {name} by the names of timm, and that of the chosen architecture is "
        f"resnet50c. {hint}"
    )


def authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an encoder of one block per stage as in the repository of SegFormer's authors."""
    found: dict[str, Tensor] = {}
    for name, one in state.items():
        stage, part, rest = name.removeprefix("layers.").split(".", 2)
        number = int(stage) + 1
        if part == "0":
            found[f"patch_embed{number}.{rest.replace('projection', 'proj')}"] = one
        elif part == "2":
            found[f"norm{number}.{rest}"] = one
        elif "in_proj_" in rest:
            width, kind = one.shape[0] // 3, rest.rpartition("_")[2]
            found[f"block{number}.0.attn.q.{kind}"] = one[:width]
            found[f"block{number}.0.attn.kv.{kind}"] = one[width:]
        else:
            old = rest.removeprefix("0.").replace("attn.attn.out_proj", "attn.proj")
            for k, new in ((0, "fc1"), (1, "dwconv.dwconv"), (4, "fc2")):
                old = old.replace(f"ffn.layers.{k}", f"mlp.{new}")
            linear = one.ndim == 4 and old.endswith(("fc1.weight", "fc2.weight"))
            found[f"block{number}.0.{old}"] = one[..., 0, 0] if linear else one
    return found


@torch.no_grad()
def test_files_of_the_authors_of_segformer_are_read_too(tmp_path: Path) -> None:
    encoder = their_segformer().backbone
    state = authors_names(encoder.state_dict())
    torch.save(state, tmp_path / "mit.pth")  # an encoder alone has no prefix
    ours: Any = segformer.build(replace(NORMED, decoder="authors"), facts_of()).eval()
    head = {name for name in ours.state_dict() if ours.is_head(name)}
    assert set(ours.load_file(tmp_path / "mit.pth").new) == head
    images = torch.randn(1, 3, 64, 64)
    maps = ours.network.segformer(images, output_hidden_states=True).hidden_states
    for mine, wanted in zip(maps, encoder(images), strict=True):
        torch.testing.assert_close(mine, wanted, **CLOSE)
    whole = {f"backbone.{name}": one for name, one in state.items()}
    head_of = {"linear_pred": "classifier", "linear_fuse.conv": "linear_fuse"}
    head_of |= {f"linear_c{k + 1}.proj": f"linear_projections.{k}.proj" for k in range(4)}
    for old, new in {**head_of, "linear_fuse.bn": "batch_norm"}.items():
        for name, one in ours.network.decode_head.get_submodule(new).state_dict().items():
            whole[f"decode_head.{old}.{name}"] = torch.full_like(one, 0.25)
    whole["decode_head.conv_seg.weight"] = torch.ones(3, 16, 1, 1)  # which they do not use
    report = ours.load_file(write(tmp_path / "whole.pth", whole), class_names=NAMES)
    assert (report.new, report.dropped) == ((), ())
    assert all(ours.state_dict()[name].eq(0.25).all() for name in head if "tracked" not in name)


def test_other_classes_are_matched_by_name(tmp_path: Path) -> None:
    network = their_segformer()
    file = write(tmp_path / "segformer.pth", network.state_dict())
    names = ("sky", "lake", "Road", "hill")
    ours = segformer.build(NORMED, facts_of(names))
    report = ours.load_file(file, class_names=names)
    assert report.lines()[1:] == ["head: weights of 2 of 4 classes reused by name: sky, Road"]
    rows = ours.state_dict()["network.decode_head.classifier.bias"]
    assert torch.equal(rows[[0, 2]], network.decode_head.conv_seg.bias[[2, 0]])
    fresh = segformer.build(NORMED, facts_of(names)).load_file(
        file, class_names=("a", "b", "c", "d")
    )
    last = "new: decode_head.classifier.bias, decode_head.classifier.weight"
    assert last in fresh.lines()


KNOWN = (
    "Of mmsegmentation's weights, those of SegFormer, of UPerNet on Swin and ConvNeXt, of "
    "DeepLabV3+ on ResNet, and of ResNet encoders can be loaded."
)


def test_what_cannot_be_loaded_is_told_in_one_paragraph(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pth", their_segformer().state_dict())
    plain = segformer.build(replace(NORMED, decoder="authors"), facts_of())
    with pytest.raises(WeightsError) as error:
        plain.load_file(file)
    assert str(error.value) == (
        f"{file}: its decoder is mmsegmentation's, with batch norm and ReLU after the convolution "
        "of each feature map. Add decoder=mmseg to --arch segformer to load it, or leave it out by "
        "--head fresh."
    )
    report = plain.load_file(file, fresh_head=True)
    assert all(name.startswith("network.decode_head.") for name in report.new)
    with pytest.raises(WeightsError) as error:
        our_upernet("convnext", tmp_path).load_file(file)
    assert str(error.value) == (
        f"{file}: none of its tensors (backbone.layers.0.0.projection.weight, "
        "backbone.layers.0.0.projection.bias, backbone.layers.0.0.norm.weight and 121 more) is "
        f"known to this architecture. {KNOWN} Choose the architecture and variant that the file "
        "was saved from."
    )


def test_the_encoder_of_a_resnet_keeps_its_names() -> None:
    one = torch.zeros(1)
    plain = {"backbone.conv1.weight": one, "decode_head.conv_seg.weight": one}
    with pytest.raises(WeightsError, match=r"^its head \(decode_head\) is mmsegmentation's, which"):
        mmseg.resnet(plain, {}, False)
    assert mmseg.resnet(plain, {}, True) == plain
    assert set(mmseg.resnet({"layer1.0.conv1.weight": one}, {}, False)) == {
        "backbone.layer1.0.conv1.weight"
    }
    with pytest.raises(WeightsError, match=r"^its encoder is ResNetV1c or V1d, which begin with"):
        mmseg.resnet({"backbone.stem.0.weight": one}, {}, True)
