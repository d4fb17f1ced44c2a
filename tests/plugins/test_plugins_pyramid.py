"""Mask2Former and DPT on plain ViTs: the pyramid and the decoder, weights, folders, errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_tools import facts
from segacc.errors import OptionError, WeightsError
from segacc.model.probe import probe
from segacc.plugins.architectures import dpt, eomt, mask2former
from segacc.plugins.architectures.backbones import TEST, pyramid_config
from segacc.plugins.architectures.dpt import DptOptions
from segacc.plugins.architectures.mask2former import Mask2FormerOptions

NAMES = ("c0", "c1", "c2")
MASKS = {"num_queries": 6, "train_num_points": 64}
PATCHES = {"dinov3_vit": 16, "dinov2": 14}
ENCODER = "network.model.pixel_level_module.encoder."


def build(name: str, backbone: str = "dinov3_vit", seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    if name == "dpt":
        options = DptOptions(**more) if more else DptOptions(backbone=backbone, size=TEST)
        return dpt.build(options, facts(3, crop_size=(64, 64))).eval()
    chosen: Any = more or {"backbone": backbone, "size": TEST, **MASKS}
    return mask2former.build_mask2former(
        Mask2FormerOptions(**chosen), facts(3, crop_size=(64, 64))
    ).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: build(name) for name in ("mask2former", "dpt")}


def batch(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def bare(model: Any, folder: Path) -> Any:
    """Save the encoder alone, with random weights, as those on the Hub are; return it."""
    from transformers import AutoModel

    config = model.network.config.backbone_config
    torch.manual_seed(5)
    encoder = AutoModel.from_config(getattr(config, "backbone_config", config)).eval()
    encoder.save_pretrained(folder)
    return encoder


def patches_of(encoder: Any, images: Tensor) -> Tensor:
    """Compute the last feature map (N, C, h, w) from the tokens of the whole ViT."""
    patch = encoder.config.patch_size
    height, width = images.shape[-2] // patch, images.shape[-1] // patch
    tokens = encoder(images).last_hidden_state[:, -height * width :]
    return tokens.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-any-return]


def norm(maps: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Normalize over channels as ViTDet's LayerNorm does, from mean and variance."""
    mean, spread = maps.mean(1, keepdim=True), maps.var(1, keepdim=True, unbiased=False)
    scale, shift = (state[f"{name}.{one}"][:, None, None] for one in ("weight", "bias"))
    return (maps - mean) / (spread + 1e-6).sqrt() * scale + shift


def simple_pyramid(last: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """Compute ViTDet's simple feature pyramid from its description, by functions only."""

    def up(maps: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.conv_transpose2d(maps, weight, bias, stride=2)

    quarter = up(F.gelu(norm(up(last, "0.0"), state, "0.1")), "0.3")
    maps = [quarter, up(last, "1.0"), last, F.max_pool2d(last, 2)]
    found = []
    for level, (one, first) in enumerate(zip(maps, (4, 1, 0, 1), strict=True)):
        names = [f"{level}.{first + k}" for k in range(4)]
        one = norm(F.conv2d(one, state[f"{names[0]}.weight"]), state, names[1])
        one = F.conv2d(one, state[f"{names[2]}.weight"], padding=1)
        found.append(norm(one, state, names[3]))
    return found


@torch.no_grad()
def test_the_pyramid_is_vitdets_on_the_vits_last_map(
    models: dict[str, Any], tmp_path: Path
) -> None:
    model = models["mask2former"]
    encoder = bare(model, tmp_path)
    report = model.load_weights(str(tmp_path))
    assert report.dropped == () and not [one for one in report.new if not model.is_head(one)]
    pyramid, images = model.network.model.pixel_level_module.encoder, batch()
    wanted = simple_pyramid(patches_of(encoder, images), pyramid.levels.state_dict())
    found = pyramid(images).feature_maps
    assert [one.shape[1:] for one in found] == [
        *((64, 16, 24), (64, 8, 12), (64, 4, 6), (64, 2, 3)),
    ]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["dinov3_vit", "dinov2"])
def test_dpt_reassembles_four_layers(backbone: str, models: dict[str, Any], tmp_path: Path) -> None:
    """The decoder is transformers', given whole token sequences whose class token it ignores."""
    model = models["dpt"] if backbone == "dinov3_vit" else build("dpt", backbone)
    encoder = bare(model, tmp_path)
    assert not [one for one in model.load_weights(str(tmp_path)).new if not model.is_head(one)]
    patch = PATCHES[backbone]
    images, size = batch(4 * patch, 6 * patch), (4, 6)
    states = encoder(images, output_hidden_states=True).hidden_states[1:]
    last_norm = getattr(encoder, "norm", None) or encoder.layernorm
    tokens = [last_norm(one[:, -24:]) for one in states]
    assert len(tokens) == 4
    whole = [torch.cat([one.new_full((1, 1, 16), 7.0), one], dim=1) for one in tokens]
    network = model.network
    theirs = network.head(network.neck(whole, *size))
    assert theirs.shape == (1, 3, 64, 96)
    torch.testing.assert_close(model(images).main, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_eomt_starts_from_a_bare_dinov3(tmp_path: Path) -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(5)
    encoder = DINOv3ViTModel(
        DINOv3ViTConfig(**sizes, intermediate_size=128, num_register_tokens=4, layer_norm_eps=1e-6)
    ).eval()
    encoder.save_pretrained(tmp_path)
    model: Any = eomt.build_eomt_dinov3(eomt.tiny(), facts(3, crop_size=(64, 64))).eval()
    report = model.load_weights(str(tmp_path))
    assert report.dropped == () and not [one for one in report.new if not model.is_head(one)]
    seen: list[Tensor] = []
    model.network.layers[0].register_forward_hook(lambda *call: seen.append(call[2]))
    images = batch(64, 64)
    model(images)
    wanted = encoder(images, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(seen[0], wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.network.layernorm.weight, encoder.norm.weight)


@torch.no_grad()
@pytest.mark.parametrize(("patch", "side"), [(16, 4), (14, 4), (16, 6)])
def test_eomt_starts_from_a_bare_dinov2_with_registers(
    patch: int, side: int, tmp_path: Path
) -> None:
    """Also one for images of another size, and one with other patches."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(5)
    encoder = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**sizes, patch_size=patch, image_size=patch * side)
    ).eval()
    for one in encoder.parameters():  # also those that begin with zeros and ones
        one.add_(0.1 * torch.randn_like(one))
    encoder.save_pretrained(tmp_path)
    model: Any = eomt.build_eomt(eomt.tiny(), facts(3, crop_size=(64, 64))).eval()
    report = model.load_weights(str(tmp_path))
    assert report.dropped == () and not [one for one in report.new if not model.is_head(one)]
    places, patches = "position_embeddings.weight", "patch_embeddings.projection.weight"
    resized = ([places] if side != 4 else []) + ([patches] if patch != 16 else [])
    assert report.resized == tuple(f"network.embeddings.{one}" for one in resized)
    seen: list[Tensor] = []
    model.network.layers[0].register_forward_hook(lambda *call: seen.append(call[2]))
    images = batch(64, 64)
    own = model.network.embeddings
    if patch == 16:
        model(images)
        states = encoder(images, output_hidden_states=True).hidden_states
        torch.testing.assert_close(seen[0], states[1], rtol=1e-5, atol=1e-5)
        for name, one in encoder.encoder.layer[2].named_parameters():
            for theirs, ours in eomt.DINOV2.items():  # block 0 proves them right
                name = f".{name}".replace(theirs, ours).removeprefix(".")
            assert torch.equal(model.network.layers[2].get_parameter(name), one), name
    else:  # the same response to an image with larger patches
        small = torch.randn(2, 3, 14, 14)
        large = F.interpolate(small, (16, 16), mode="bicubic", antialias=True)
        wanted = encoder.embeddings.patch_embeddings(small)
        found = own.patch_embeddings.projection(large).flatten(2).mT
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.network.layernorm.weight, encoder.layernorm.weight)


def test_a_dinov2_without_registers_is_no_start_of_eomt(tmp_path: Path) -> None:
    bare(build("dpt", "dinov2"), tmp_path)
    model: Any = eomt.build_eomt(eomt.tiny(), facts(3, crop_size=(64, 64)))
    with pytest.raises(WeightsError) as error:
        model.load_weights(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: contains a dinov2 network, but the chosen architecture needs eomt or "
        "dinov2_with_registers. Give weights of the same kind, or choose the architecture that "
        "they belong to."
    )


def test_all_blocks_are_trained_and_the_rest_is_the_head(models: dict[str, Any]) -> None:
    for name, model in models.items():
        prefix = f"{ENCODER}backbone." if name == "mask2former" else "network.backbone."
        for one, _ in model.named_parameters():
            assert model.is_head(one) is not one.startswith(prefix)
        unused = probe(model, (64, 64)).unused
        inside = [one for one in unused if not model.is_head(one)]
        assert inside == [f"{prefix}embeddings.mask_token"]
        assert all("layers.0.residual_layer1" in one for one in unused if one not in inside)
        assert max(model.parameter_depths().values()) == 5
        kinds = {type(module).__name__ for module in model.modules()}
        assert "DINOv3ViTLayer" in model._no_split_modules
        assert set(model._no_split_modules) <= kinds
        assert model.enable_gradient_checkpointing()
        rules = {"mask2former": "multiples of 16, at least 32", "dpt": "multiples of 32"}
        assert model.size_rule.text() == rules[name]


@torch.no_grad()
@pytest.mark.parametrize("name", ["mask2former", "dpt"])
def test_a_saved_folder_is_that_network(name: str, models: dict[str, Any], tmp_path: Path) -> None:
    from transformers import (
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    )

    model = models[name].eval()
    model.save_pretrained(tmp_path, names=NAMES, state_dict=model.state_dict())
    auto: Any = AutoModelForUniversalSegmentation
    if name == "dpt":
        auto = AutoModelForSemanticSegmentation
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    images = batch()
    key = "logits" if name == "dpt" else "masks_queries_logits"
    assert torch.equal(loaded.eval()(images)[key], model.network(images)[key])
    again = build(name, seed=3, config=tmp_path)
    report = again.load_weights(str(tmp_path), class_names=NAMES)
    assert report.new == report.dropped == ()
    assert torch.equal(again.eval()(images).main, model(images).main)


def test_steps_lower_the_loss_of_dpts_two_heads() -> None:
    model = build("dpt").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images, labels = batch(64, 64), torch.arange(64).div(22).long().expand(1, 64, 64)
    losses = []
    for _ in range(4):
        logits = model(images)
        ((auxiliary, weight),) = logits.auxiliary
        assert (auxiliary.shape, weight) == ((1, 3, 32, 32), 0.4)
        small = labels[:, ::2, ::2]
        loss = F.cross_entropy(logits.main, labels) + 0.4 * F.cross_entropy(auxiliary, small)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.95 * losses[0]


WRONG = [
    (Mask2FormerOptions, {"variant": "swin_base", "backbone": "dinov3_vit"}, "two encoders"),
    (Mask2FormerOptions, {"size": "base"}, "size is the size of backbone, which is missing"),
    (Mask2FormerOptions, {"backbone": "resnet", "drop_path": 0.1}, "resnet does not support"),
    (DptOptions, {"variant": "large", "backbone": "dinov3_vit"}, "two encoders"),
    (DptOptions, {"drop_path": 0.1}, "drop_path is that of backbone, which is missing"),
    (DptOptions, {"backbone": "dinov3"}, 'Did you mean "dinov3_vit"'),
]


@pytest.mark.parametrize(("options", "typed", "why"), WRONG)
def test_what_does_not_go_together_is_refused(
    options: Any, typed: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        options(**typed)


def test_other_feature_maps_are_refused() -> None:
    with pytest.raises(OptionError) as error:
        build("dpt", backbone="convnext")
    assert str(error.value) == (
        "--arch dpt: backbone=convnext: DPT needs a plain ViT, such as dinov3_vit; convnext has "
        "feature maps of several sizes, for which there is upernet."
    )
    with pytest.raises(OptionError) as error:
        pyramid_config("timm/levit_128s")
    assert str(error.value) == (
        "timm/levit_128s: the last feature maps have the strides 16, 32, 64; 4, 8, 16, 32 are "
        "needed."
    )
