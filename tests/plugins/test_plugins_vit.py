"""BEiT, Data2Vec-Vision, DPT, MobileViT, MobileViTV2: what each needs to train, save and load."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_tools import facts
from segacc.errors import OptionError
from segacc.evaluation.predict import predict
from segacc.evaluation.protocol import Protocol
from segacc.hookspecs import Architecture
from segacc.kernels.pixel import cross_entropy_sum
from segacc.model.probe import probe
from segacc.plugins.architectures import beit, dpt, mobile

ARCHITECTURES: dict[str, Architecture] = {
    record.name: record
    for module in (beit, dpt, mobile)
    for record in module.segacc_architectures()
    if record.name != "mobilenet_v2"
}
WITH_AUXILIARY = ("beit", "data2vec_vision", "dpt")


@dataclass(frozen=True)
class Case:
    """What a tiny network of crop 64 must be."""

    encoder: str
    """Class of the bare encoder in transformers."""
    stride: int
    unused: tuple[str, ...]
    """Beginnings of the names of parameters that no gradient reaches."""
    taken: tuple[tuple[int, int], ...]
    refused: tuple[tuple[int, int], ...]


CASES = {
    "beit": Case(
        "BeitModel", 4, ("beit.layers.3.",), ((64, 64), (32, 112), (96, 64)), ((72, 64), (16, 64))
    ),
    "data2vec_vision": Case("Data2VecVisionModel", 4, (), ((64, 64),), ((64, 96), (96, 96))),
    "dpt": Case(
        "DPTModel",
        1,
        ("dpt.layernorm.", "neck.fusion_stage.layers.0.residual_layer1."),
        ((64, 64), (32, 32), (96, 96)),
        ((64, 96), (80, 80)),
    ),
    "mobilevit": Case("MobileViTModel", 16, (), ((64, 64), (33, 47), (70, 130)), ()),
    "mobilevitv2": Case("MobileViTV2Model", 16, (), ((64, 64), (96, 32)), ((80, 64), (33, 47))),
}
each = pytest.mark.parametrize("name", CASES)


def build(name: str, num_classes: int = 3, *, seed: int = 0, crop: int = 64, **options: Any) -> Any:
    """Build a tiny network whose logits tell positions and classes apart."""
    torch.manual_seed(seed)
    record = ARCHITECTURES[name]
    chosen = record.options(**options) if "config" in options else record.tiny()
    chosen = chosen if "config" in options else replace(chosen, **options)
    model = record.build(chosen, facts(num_classes, crop_size=(crop, crop)))
    for key, tensor in model.network.named_parameters():
        if "position" in key or "cls_token" in key:
            torch.nn.init.normal_(tensor)
    for norm in model.batchnorms().values():
        norm.momentum = None  # the average of all that was seen, which keeps activations in range
    with torch.no_grad():
        model.train()(noise(2, 3, *(2 * [model.network.config.image_size])))
    return model.eval()


def save(model: Any, folder: Path, names: tuple[str, ...] = ("c0", "c1", "c2")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, names=names, state_dict=model.state_dict())
    return folder


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: Any, size: tuple[int, int] = (64, 64)) -> Tensor:
    found: Tensor = model(noise(2, 3, *size)).main
    return found


# -------------------------------------------------------------------------- sizes and gradients


@each
def test_logits_cover_the_image_at_every_size_that_the_rule_takes(name: str) -> None:
    model, case = build(name), CASES[name]
    assert sum(one.numel() for one in model.parameters()) < 500_000
    for size in case.taken:
        assert not model.size_rule.complaint(size), size
        images = noise(1, 3, *size).requires_grad_()
        found = model(images).main
        height, width = (-(-side // case.stride) for side in size)
        assert found.shape == (1, 3, height, width), size
        found.square().sum().backward()
        for edge in (images.grad[..., -2:, :], images.grad[..., -2:]):
            assert (edge.abs().amax(dim=(0, 1)) > 0).all(), size
    for size in case.refused:
        assert model.size_rule.complaint(size), size


@each
def test_what_no_gradient_reaches_is_known(name: str) -> None:
    findings = probe(
        build(name, auxiliary=True) if name in WITH_AUXILIARY else build(name), (64, 64)
    )
    unused = {one.removeprefix("network.") for one in findings.unused}
    assert all(one.startswith(CASES[name].unused) for one in unused), unused
    assert all(any(one.startswith(start) for one in unused) for start in CASES[name].unused)
    model = build(name)
    assert findings.min_batch_size == model.min_batch_size == (1 if name == "dpt" else 2)
    kinds = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= kinds and model._no_split_modules


def test_odd_feature_maps_of_mobilevitv2_lose_their_last_row() -> None:
    """The reason of its size rule: transformers sets what patches of 2 x 2 do not cover to 0."""
    model = build("mobilevitv2")
    maps: list[Tensor] = []
    layer = model.network.mobilevitv2.encoder.layer[3]
    layer.conv_projection.register_forward_pre_hook(lambda module, given: maps.append(given[0]))
    with torch.no_grad():
        model(noise(1, 3, 80, 64))
        model(noise(1, 3, 64, 64))
    odd, even = maps
    assert odd.shape[-2:] == (5, 4) and not odd[..., -1, :].any()
    assert even[..., -1, :].any()


@pytest.mark.parametrize("name", ["data2vec_vision", "dpt"])
def test_crops_that_do_not_fit_are_refused_when_the_network_is_built(name: str) -> None:
    record = ARCHITECTURES[name]
    multiple = 32 if name == "dpt" else 16
    for crop, complaint, right in (
        ((64, 96), "supports only square images", 64),
        ((200, 200), f"supports only multiples of {multiple} pixels", 192),
    ):
        with pytest.raises(OptionError) as error:
            record.build(record.tiny(), facts(crop_size=crop))
        assert str(error.value) == (
            f"crop_size: {crop[0]}x{crop[1]}: the architecture {complaint}; {right}x{right} fits."
        )


# -------------------------------------------------------------------------------- auxiliary head


@pytest.mark.parametrize("name", WITH_AUXILIARY)
def test_the_auxiliary_loss_is_that_of_transformers(name: str) -> None:
    model = build(name, auxiliary_weight=0.7)
    images, labels = noise(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    labels[:, :9] = 255
    assert model(images).auxiliary == ()
    model.train()
    if name == "dpt":  # its dropout is the option's, the auxiliary head's too
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    main, auxiliary, _ = model(images)
    assert [weight for _, weight in auxiliary] == [0.7]
    count = (labels != 255).sum()
    ours = sum(
        weight * cross_entropy_sum(one, labels) / count for one, weight in ((main, 1), *auxiliary)
    )
    theirs = model.network(pixel_values=images, labels=labels).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WITH_AUXILIARY)
def test_the_auxiliary_head_can_be_left_out(name: str) -> None:
    model = build(name, auxiliary=False).train()
    assert model(noise(2, 3, 64, 64)).auxiliary == ()
    assert not any("auxiliary" in key for key in model.state_dict())


# ------------------------------------------------------------------------------- save and load


@each
def test_saved_networks_are_loaded_by_transformers_and_rebuilt_by_config(
    name: str, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    given = {"auxiliary_weight": 0.25} if name in WITH_AUXILIARY else {"output_stride": 8}
    model = build(name, seed=1, **given)
    folder = save(model, tmp_path)
    theirs, info = AutoModelForSemanticSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        plain = theirs.eval()(noise(2, 3, 64, 64)).logits
        torch.testing.assert_close(plain, logits(model), rtol=1e-5, atol=1e-6)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor) is type(model.image_processor)
    again = build(name, seed=2, crop=256, config=folder)
    report = again.load_weights(str(folder))
    assert (report.new, report.dropped) == ((), ())
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-6)
    assert (again.size_rule, again.min_batch_size) == (model.size_rule, model.min_batch_size)
    if name in WITH_AUXILIARY:
        assert again.train()(noise(2, 3, 64, 64)).auxiliary[0][1] == 0.25


@each
def test_rows_of_known_classes_are_carried_over(name: str, tmp_path: Path) -> None:
    trained = build(name, seed=1)
    folder = save(trained, tmp_path, ("sky", "c1", "c0"))
    model = build(name, 4, seed=2)
    fresh = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    report = model.load_weights(str(folder), class_names=("c0", "c1", "c2", "c3"))
    assert report.carried == ("c0", "c1") and not report.new
    own, theirs = model.state_dict(), trained.state_dict()
    heads = 2 if name in WITH_AUXILIARY else 1
    rows = [key for key in own if own[key].shape != theirs[key].shape]
    assert len(rows) == len(model.classifiers) * 2 == heads * 2
    for key in rows:
        assert torch.equal(own[key][0], theirs[key][2])
        assert torch.equal(own[key][1], theirs[key][1])
        assert torch.equal(own[key][2:], fresh[key][2:])


@each
def test_a_bare_encoder_leaves_only_the_head_new(name: str, tmp_path: Path) -> None:
    import transformers

    encoder = getattr(transformers, CASES[name].encoder)(build(name, seed=1).network.config)
    encoder.save_pretrained(tmp_path)
    model = build(name, seed=2)
    before = model.network.config.to_dict()
    report = model.load_weights(str(tmp_path))
    head = {key for key in model.state_dict() if model.is_head(key)}
    assert set(report.new) == head
    assert all("pooler" in key or "conv_1x1_exp" in key for key in report.dropped)
    assert model.network.config.to_dict() == before
    again = build(name, config=tmp_path)  # the encoder's own sizes, our head on top
    assert again.network.config.to_dict()["id2label"] == {0: "c0", 1: "c1", 2: "c2"}
    assert set(again.load_weights(str(tmp_path)).new) == head
    assert again(noise(2, 3, 64, 64)).main.shape[1] == 3


@each
def test_the_pipeline_of_transformers_predicts_what_we_predict(name: str, tmp_path: Path) -> None:
    from transformers import pipeline

    model = build(name, seed=1)
    size = (32, 96) if name == "beit" else (64, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    with torch.no_grad():  # no class is ahead of the others everywhere
        means = model(model.normalize(image[None])).main.mean(dim=(0, 2, 3))
        model.get_parameter(f"{model.classifiers[0]}.bias").sub_(means)
    folder = save(model, tmp_path)
    ours = predict(model, model, image, Protocol()).numpy()
    segment = pipeline("image-segmentation", model=str(folder), device="cpu")
    theirs = np.full(size, 255)
    for part in segment(Image.fromarray(pixels), subtask="semantic"):
        theirs[np.asarray(part["mask"]) > 0] = int(part["label"].removeprefix("c"))
    assert (ours == theirs).mean() > 0.999 and len(np.unique(ours)) > 1


# ------------------------------------------------------------------ blocks, positions, variants


def test_fine_tuned_networks_keep_the_blocks_they_were_trained_with(tmp_path: Path) -> None:
    for name, ours, theirs in (
        ("beit", [1, 2, 3, 4], [0, 1, 2, 3]),
        ("data2vec_vision", [2, 3, 4, 5], [1, 2, 3, 4]),
    ):
        trained = build(name, seed=1)
        assert trained.network.config.out_indices == ours
        trained.network.config.out_indices = theirs
        folder = save(trained, tmp_path / name)
        model = build(name, seed=2)
        model.load_weights(str(folder))
        assert model.network.config.out_indices == theirs
        torch.testing.assert_close(logits(model), logits(trained), rtol=1e-5, atol=1e-6)
        assert build(name, config=folder).network.config.out_indices == theirs


@pytest.mark.parametrize(("variant", "blocks"), [("base", 12), ("large", 24)])
def test_beit_has_the_output_of_all_blocks_but_the_last(variant: str, blocks: int) -> None:
    """transformers allows no index behind the last block; Data2Vec-Vision's last one is used."""
    from transformers import BeitConfig

    record = ARCHITECTURES["beit"]
    with torch.device("meta"):
        model: Any = record.build(record.options(variant=variant), facts())
    places = model.network.config.out_indices
    assert places[-1] == blocks  # the input of the last block, counted from 1
    with pytest.raises(ValueError, match="valid indices"):
        BeitConfig(num_hidden_layers=blocks, out_indices=[place + 1 for place in places])


@pytest.mark.parametrize("name", ["beit", "dpt"])
def test_positions_of_another_image_size_are_interpolated(name: str, tmp_path: Path) -> None:
    small = build(name, seed=1, crop=64)
    folder = save(small, tmp_path)
    model = build(name, seed=2, crop=96)
    report = model.load_weights(str(folder))
    assert report.new == ()
    wanted = logits(small, (96, 96))  # interpolated by transformers, in the forward pass
    if name == "beit":
        torch.testing.assert_close(logits(model, (96, 96)), wanted)
    key = "network.dpt.embeddings.position_embeddings"
    if name == "dpt":
        assert model.state_dict()[key].shape == (1, 37, 16)
        assert torch.equal(model.state_dict()[key][:, 0], small.state_dict()[key][:, 0])


def test_data2vec_vision_starts_from_a_table_shared_by_all_blocks(tmp_path: Path) -> None:
    """Facebook's pretrained weights share one table, at 224 pixels; ours have one a block."""
    from transformers import Data2VecVisionConfig, Data2VecVisionModel

    config = build("data2vec_vision").network.config.to_dict()
    config |= {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}
    encoder = Data2VecVisionModel(Data2VecVisionConfig.from_dict(config)).eval()
    shared = encoder.encoder.relative_position_bias.relative_position_bias_table
    torch.nn.init.normal_(shared)
    encoder.save_pretrained(tmp_path)
    for crop in (64, 96):
        model = build("data2vec_vision", crop=crop)
        report = model.load_weights(str(tmp_path))
        assert all(model.is_head(key) for key in report.new)
        tables = [one for key, one in model.state_dict().items() if key.endswith(beit.TABLE)]
        assert len(tables) == 4 and all(torch.equal(one, tables[0]) for one in tables)
        if crop == 64:
            assert torch.equal(tables[0], shared)
            images = noise(1, 3, 64, 64)
            inner = model.network.data2vec_vision
            with torch.no_grad():
                mine = inner(images, output_hidden_states=True).hidden_states[-1]
                theirs = encoder(images, output_hidden_states=True).hidden_states[-1]
            torch.testing.assert_close(mine, theirs)


def test_dpt_hybrid_takes_one_size_only(tmp_path: Path) -> None:
    backbone = {
        "model_type": "bit",
        "global_padding": "same",
        "layer_type": "bottleneck",
        "depths": [1, 1, 1],
        "embedding_size": 8,
        "hidden_sizes": [16, 16, 16],
        "num_groups": 2,
        "out_features": ["stage1", "stage2", "stage3"],
        "embedding_dynamic_padding": True,
    }
    config = build("dpt").network.config.to_dict() | {
        "is_hybrid": True,
        "backbone_config": backbone,
        "backbone_featmap_shape": [1, 16, 4, 4],
        "neck_ignore_stages": [0, 1],
        "neck_hidden_sizes": [16, 16, 16, 16],
        "reassemble_factors": [1, 1, 1, 0.5],
    }
    from transformers import DPTConfig

    DPTConfig.from_dict(config).save_pretrained(tmp_path / "hybrid")
    model = build("dpt", config=tmp_path / "hybrid", seed=1)
    assert model.size_rule.fixed == (64, 64) and logits(model).shape == (2, 3, 64, 64)
    kinds = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= kinds
    folder = save(model, tmp_path / "saved")
    again = build("dpt", config=folder, seed=2)
    assert not again.load_weights(str(folder)).new
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-6)


def test_default_weights_are_named_for_the_variants_that_are_published() -> None:
    wanted: list[tuple[Callable[[Any], str | None], Any, str | None]] = [
        (
            beit.beit_weights,
            beit.BeitOptions(variant="large"),
            "microsoft/beit-large-patch16-224-pt22k-ft22k",
        ),
        (beit.data2vec_vision_weights, beit.BeitOptions(), "facebook/data2vec-vision-base"),
        (dpt.default_weights, dpt.DptOptions(), "Intel/dpt-large-ade"),
        (dpt.default_weights, dpt.DptOptions(variant="hybrid"), "Intel/dpt-hybrid-midas"),
        (
            mobile.mobilevit_weights,
            mobile.MobileViTOptions(variant="xx_small"),
            "apple/mobilevit-xx-small",
        ),
        (
            mobile.mobilevitv2_weights,
            mobile.MobileViTV2Options(),
            "apple/mobilevitv2-1.0-imagenet1k-256",
        ),
    ]
    for default_weights, options, name in wanted:
        assert default_weights(options) == name
    for record in ARCHITECTURES.values():
        assert record.default_weights(record.tiny()) is None


@pytest.mark.parametrize("name", ["mobilevit", "mobilevitv2"])
def test_batch_norm_starts_at_one(name: str) -> None:
    """transformers draws its scales around 0, which hides the image from a fresh head."""
    norms = [one for one in build(name).modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert norms and all((one.weight == 1).all() for one in norms)


# Parameters in millions for 150 classes; ARCHITECTURES.md section 1 has 344.3 for dpt-large-ade,
# 6.39 and 13.4 for the MobileViTs, 162.5 for BEiT without its tables of position biases.
SIZES = [
    ("beit", {"variant": "base"}, 163.1),
    ("beit", {"variant": "large"}, 440.4),
    ("data2vec_vision", {}, 163.1),
    ("dpt", {"variant": "large"}, 344.4),
    ("dpt", {"variant": "hybrid"}, 123.7),
    ("mobilevit", {"variant": "xx_small"}, 1.89),
    ("mobilevit", {"variant": "x_small"}, 2.98),
    ("mobilevit", {"variant": "small"}, 6.39),
    ("mobilevitv2", {}, 13.38),
    ("mobilevitv2", {"width_multiplier": 2.0}, 34.02),
]


@pytest.mark.parametrize(("name", "options", "millions"), SIZES)
def test_variants_have_their_published_sizes(
    name: str, options: dict[str, Any], millions: float
) -> None:
    record = ARCHITECTURES[name]
    with torch.device("meta"):
        model = record.build(record.options(**options), facts(150, crop_size=(512, 512)))
    count = sum(one.numel() for one in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=2e-3)
