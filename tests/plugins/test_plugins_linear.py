"""A linear head on a backbone: frozen, cheap, and loaded from a bare encoder's folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_tools import facts
from segacc.errors import OptionError, WeightsError
from segacc.kernels.pixel import cross_entropy_sum
from segacc.model import TransformersModel
from segacc.model.probe import probe
from segacc.plugins.architectures.linear import (
    LinearOptions,
    build,
    segacc_architectures,
)

VITS = ["dinov2", "dinov2_with_registers", "dinov3_vit"]
NAMES = ("c0", "c1", "c2")


def linear(
    backbone: str = "dinov2", *, seed: int = 0, num_classes: int = 3, **options: Any
) -> TransformersModel:
    torch.manual_seed(seed)
    given = LinearOptions(backbone=backbone, size="test", **options)
    model = build(given, facts(num_classes, crop_size=(64, 64)))
    assert isinstance(model, TransformersModel)
    return model.eval()


def images(model: TransformersModel, count: int = 2) -> Tensor:
    """Draw images that are not square."""
    multiple = model.size_rule.multiple
    side = 64 // multiple * multiple
    random = torch.Generator().manual_seed(0)
    return torch.randn((count, 3, side, side + multiple), generator=random)


def test_it_is_registered() -> None:
    (record,) = segacc_architectures()
    assert (record.name, record.model_types) == ("linear", ("segacc_linear",))
    default_weights = record.default_weights
    assert default_weights(record.tiny()) is None
    assert default_weights(LinearOptions()) == "facebook/dinov2-small"
    given = LinearOptions(backbone="dinov3_vit", size="large")
    assert default_weights(given) == "facebook/dinov3-vitl16-pretrain-lvd1689m"
    model = record.build(record.tiny(), facts())
    assert sum(one.numel() for one in model.parameters()) == pytest.approx(23e3, rel=0.02)
    assert all(one.requires_grad for one in model.network.head.parameters())
    assert probe(model, (56, 70)).unused == ("network.backbone.embeddings.mask_token",)


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("backbone", [*VITS, "swin", "beit", "hiera"])
def test_logits_have_the_resolution_of_the_first_map(backbone: str, layers: int) -> None:
    model = linear(backbone, layers=layers, num_classes=5)
    x = images(model)
    if model.size_rule.fixed:
        x = x[..., : model.size_rule.fixed[0], : model.size_rule.fixed[1]]
    assert model.size_rule.complaint(tuple(x.shape[-2:])) == ""
    maps = model.network.backbone(x).feature_maps
    assert len(maps) == layers
    logits = model(x).main
    assert logits.shape == (2, 5, *maps[0].shape[-2:])
    if backbone in VITS:
        patch = model.size_rule.multiple
        assert logits.shape[-2:] == (x.shape[-2] // patch, x.shape[-1] // patch)
    stages = [stage for stage in model.network.backbone.stage_names if stage != "stem"]
    assert model.network.config.backbone_config.out_features == stages[-layers:]


def test_the_head_is_a_batch_norm_and_one_linear_layer() -> None:
    model = linear(layers=4).train()
    x = images(model)
    stacked = torch.cat(model.network.backbone(x).feature_maps, dim=1)
    head = model.network.head.classifier
    flat = stacked.permute(0, 2, 3, 1).reshape(-1, stacked.shape[1])
    normal = (flat - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt()
    wanted = normal @ head.weight[:, :, 0, 0].T + head.bias
    found = model(x).main.permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["dinov2", "resnet"])
def test_a_frozen_backbone_stays_as_it_is(backbone: str) -> None:
    model = linear(backbone)
    inner = model.network.backbone
    before = {name: tensor.clone() for name, tensor in inner.state_dict().items()}
    head = model.network.head.classifier.weight.clone()
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=0.1)
    x = images(model)
    labels = (x[:, 0] > 0).long()
    losses = []
    for _ in range(4):
        model.train()
        assert model.network.head.norm.training
        assert not any(module.training for module in inner.modules())
        loss = cross_entropy_sum(model(x).main, labels)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
    assert all(torch.equal(one, before[name]) for name, one in inner.state_dict().items())
    assert not any(one.requires_grad for one in inner.parameters())
    assert not torch.equal(model.network.head.classifier.weight, head) and losses[-1] < losses[0]
    assert {name for name, one in model.named_parameters() if one.requires_grad} == {
        name for name, _ in model.named_parameters() if model.is_head(name)
    }


def test_a_frozen_backbone_keeps_nothing_for_a_backward_pass() -> None:
    model = linear().train()
    seen: list[Tensor] = []
    model.network.backbone.register_forward_hook(lambda *call: seen.append(call[2].feature_maps[0]))
    assert model(images(model)).main.requires_grad and not seen[0].requires_grad
    free = linear(unfreeze=True).train()
    assert all(module.training for module in free.network.backbone.modules())
    cross_entropy_sum(free(images(free)).main, torch.zeros(2, 56, 70).long()).backward()
    silent = {name for name, one in free.named_parameters() if one.grad is None}
    assert silent == {"network.backbone.embeddings.mask_token"}


@pytest.mark.parametrize("backbone", ["dinov2", "swin", "dinov3_vit"])
def test_a_saved_folder_gives_the_same_logits(backbone: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    model = linear(backbone, layers=2)
    model.save_pretrained(tmp_path, names=NAMES, state_dict=model.state_dict())
    loaded, info = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()) and loaded.config.freeze_backbone
    assert not any(one.requires_grad for one in loaded.backbone.parameters())
    x = images(model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x).logits, model(x).main, rtol=1e-5, atol=1e-6)
    assert not AutoImageProcessor.from_pretrained(tmp_path).do_resize
    again = build(LinearOptions(config=tmp_path), facts(3))
    report = again.load_weights(str(tmp_path), class_names=NAMES)
    assert (report.new, report.dropped) == ((), ())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x).main, model(x).main, rtol=1e-5, atol=1e-6)


def test_a_head_for_other_classes_starts_as_a_fresh_one(tmp_path: Path) -> None:
    model = linear()
    model.save_pretrained(tmp_path, names=NAMES, state_dict=model.state_dict())
    loaded = type(model.network).from_pretrained(
        tmp_path,
        id2label={k: str(k) for k in range(200)},
        label2id={str(k): k for k in range(200)},
        ignore_mismatched_sizes=True,
    )
    weight = loaded.head.classifier.weight
    assert weight.shape == (200, 16, 1, 1) and not loaded.head.classifier.bias.any()
    assert weight.std().item() == pytest.approx(0.01, rel=0.1)
    fresh = linear(num_classes=200).network.head.classifier.weight
    assert fresh.std().item() == pytest.approx(0.01, rel=0.1)


def bare(backbone: str, folder: Path, seed: int = 3) -> Any:
    """Save a bare encoder, as those on the Hub are; return it."""
    from transformers import AutoModel

    torch.manual_seed(seed)
    config = linear(backbone).network.config.backbone_config
    encoder = AutoModel.from_config(config).eval()
    encoder.save_pretrained(folder)
    return encoder


@pytest.mark.parametrize("backbone", VITS)
def test_a_bare_encoder_fills_the_backbone(backbone: str, tmp_path: Path) -> None:
    encoder = bare(backbone, tmp_path)
    model = linear(backbone)
    report = model.load_weights(str(tmp_path))
    assert all(name.startswith("network.head.") for name in report.new) and report.dropped == ()
    assert not any(one.requires_grad for one in model.network.backbone.parameters())
    x = images(model)
    with torch.no_grad():
        tokens = encoder(x).last_hidden_state
        found = model.network.backbone(x).feature_maps[-1]
        patches = tokens[:, tokens.shape[1] - found.shape[-2] * found.shape[-1] :]
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), patches)


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    bare("dinov3_vit", tmp_path)
    with pytest.raises(WeightsError) as error:
        linear().load_weights(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: contains a dinov3_vit network, but the chosen architecture needs "
        "segacc_linear or dinov2. Give weights of the same kind, or choose the architecture that "
        "they belong to."
    )


def test_more_layers_than_there_are_is_told() -> None:
    with pytest.raises(OptionError) as error:
        linear("swin", layers=5)
    assert str(error.value) == "--arch linear: layers=5: swin has only 4 layers."


def test_transformers_own_loss_is_right() -> None:
    model = linear()
    x = images(model)
    labels = (x[:, 0] > 0).long()
    labels[:, :9] = 255
    out = model.network(x, labels=labels)
    wanted = cross_entropy_sum(out.logits, labels) / (labels != 255).sum()
    torch.testing.assert_close(out.loss, wanted)
