"""Mask2Former, MaskFormer, OneFormer, EoMT: what each needs to train, save and load."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data_tools import facts
from segacc.errors import WeightsError
from segacc.evaluation.predict import predict
from segacc.evaluation.protocol import Protocol, default_protocol
from segacc.hookspecs import Architecture
from segacc.kernels.resize import resize
from segacc.model.contract import CropError
from segacc.model.probe import probe

MODULES = ("mask2former", "oneformer", "eomt")
ARCHITECTURES: dict[str, Architecture] = {
    record.name: record
    for module in MODULES
    for record in importlib.import_module(
        f"segacc.plugins.architectures.{module}"
    ).segacc_architectures()
}
EOMT = ("eomt", "eomt_dinov3")
OTHERS = tuple(name for name in ARCHITECTURES if name not in EOMT)
each = pytest.mark.parametrize("name", ARCHITECTURES)


def build(name: str, num_classes: int = 3, *, seed: int = 0, crop: int = 64, **options: Any) -> Any:
    torch.manual_seed(seed)
    record = ARCHITECTURES[name]
    chosen = record.options(**options) if "config" in options else record.tiny()
    chosen = chosen if "config" in options else replace(chosen, **options)
    return record.build(chosen, facts(num_classes, crop_size=(crop, crop))).eval()


def save(model: Any, folder: Path, names: tuple[str, ...] = ("c0", "c1", "c2")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, names=names, state_dict=model.state_dict())
    return folder


def noise(count: int = 1, height: int = 64, width: int = 64) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=random)


def colored(count: int) -> tuple[Tensor, Tensor]:
    """Draw four squares of a color each, and which color it is."""
    labels = torch.randint(0, 3, (count, 2, 2)).repeat_interleave(32, 1).repeat_interleave(32, 2)
    return (255 * F.one_hot(labels, 3)).permute(0, 3, 1, 2).to(torch.uint8), labels


@pytest.fixture(scope="module")
def trained() -> Any:
    """An EoMT that has learned colors in a few steps."""
    model = build("eomt").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    terms = model.losses(facts(3))
    for step in range(25):
        model.train().on_step(step, 25)
        images, labels = colored(4)
        queries = model(model.normalize(images)).queries
        sums = [term.sum(queries, labels) / term.count(labels) for term in terms.values()]
        optimizer.zero_grad()
        torch.stack(sums).sum().backward()
        optimizer.step()
    return model.eval()


# ------------------------------------------------------------------------------------- the records


@each
def test_tiny_networks_are_small(name: str) -> None:
    model = build(name)
    assert sum(p.numel() for p in model.parameters()) < 500_000
    assert ARCHITECTURES[name].tiny().variant == "tiny"
    assert ARCHITECTURES[name].default_weights(ARCHITECTURES[name].tiny()) is None
    assert "scipy" in ARCHITECTURES[name].summary


@pytest.mark.parametrize(
    ("name", "variant", "millions", "weights"),
    [
        ("mask2former", "swin_tiny", 47.4, "facebook/mask2former-swin-tiny-ade-semantic"),
        ("mask2former", "swin_small", 68.8, "facebook/mask2former-swin-small-ade-semantic"),
        ("mask2former", "swin_large", 215.5, "facebook/mask2former-swin-large-ade-semantic"),
        ("maskformer", "swin_base", 101.8, "facebook/maskformer-swin-base-ade"),
        ("oneformer", "swin_tiny", 50.7, "shi-labs/oneformer_ade20k_swin_tiny"),
        ("oneformer", "swin_base", 110.2, None),
        ("eomt", "large", 316.0, "tue-mps/ade20k_semantic_eomt_large_512"),
        ("eomt", "base", 93.2, "tue-mps/coco_panoptic_eomt_base_640_2x"),
        ("eomt_dinov3", "small", 23.3, "tue-mps/eomt-dinov3-coco-panoptic-small-640"),
        ("eomt_dinov3", "large", 315.0, "tue-mps/eomt-dinov3-ade-semantic-large-512"),
    ],
)
def test_variants_have_the_sizes_of_the_papers(
    name: str, variant: str, millions: float, weights: str | None
) -> None:
    record = ARCHITECTURES[name]
    options = record.options(variant=variant)
    with torch.device("meta"):
        model: Any = record.build(options, facts(150, crop_size=(512, 512)))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert record.default_weights(options) == weights


@each
def test_without_scipy_its_name_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    for module in ("scipy.optimize", "segacc.kernels.masks", "segacc.model.mask_classification"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ModuleNotFoundError) as error:
        build(name)
    assert error.value.name in ("scipy", "scipy.optimize")


@each
def test_fsdp_finds_its_units(name: str) -> None:
    model = build(name)
    kinds = {type(module).__name__ for module in model.modules()}
    assert model._no_split_modules and set(model._no_split_modules) <= kinds


@each
def test_the_encoder_and_what_no_gradient_reaches(name: str) -> None:
    model = build(name)
    encoder = [n for n, _ in model.named_parameters() if not model.is_head(n)]
    unused = probe(model, (64, 64)).unused
    if name in EOMT:
        assert all(n.split(".")[1] in ("embeddings", "layers", "layernorm") for n in encoder)
        assert unused == ()
    else:
        assert all(n.startswith("network.model.pixel_level_module.encoder.") for n in encoder)
        assert {n.rsplit(".", 2)[-2] for n in unused} <= {"layernorm", "criterion"}


# ------------------------------------------------------------------------------------ image sizes


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("size", [(67, 93), (33, 40), (32, 32), (16, 130)])
def test_any_size_is_taken(name: str, size: tuple[int, int]) -> None:
    model = build(name)
    assert model.size_rule.complaint(size) == ""
    main = model(model.normalize(noise(1, *size))).main
    assert main.shape[:2] == (1, 3) and main.isfinite().all()


@pytest.mark.parametrize("name", EOMT)
def test_eomt_takes_the_size_it_was_built_for(name: str) -> None:
    model = build(name, crop=96)
    assert model.size_rule.fixed == (96, 96)
    assert default_protocol(model, (96, 96)).text() == "slide:crop=96,stride=64"
    assert predict(model, model, noise(1, 70, 130)[0], default_protocol(model, (96, 96))).shape == (
        *(70, 130),
    )
    for crop in ((64, 96), (72, 72)):
        with pytest.raises(CropError, match="; 64x64 fits"):
            ARCHITECTURES[name].build(ARCHITECTURES[name].tiny(), facts(crop_size=crop))


# ------------------------------------------------------------------------------ saving, predicting


def auto(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    network, info = AutoModelForUniversalSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    return network.eval(), AutoImageProcessor.from_pretrained(folder)


@each
@torch.no_grad()
def test_a_saved_folder_gives_the_same_scores_in_transformers(name: str, tmp_path: Path) -> None:
    model = build(name)
    if name in EOMT:
        model.train().on_step(9, 10)
    network, processor = auto(save(model.eval(), tmp_path))
    assert network.criterion.empty_weight.tolist() == [1, 1, 1, pytest.approx(0.1)]
    for height, width in [(64, 64)] if name in EOMT else [(64, 64), (67, 93), (450, 500)]:
        pixels = noise(1, height, width)
        picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
        given = processor(images=picture, return_tensors="pt")
        torch.testing.assert_close(given["pixel_values"], model.normalize(pixels))
        task = {"task_inputs": model.get_buffer("task")} if name == "oneformer" else {}
        (theirs,) = processor.post_process_semantic_segmentation(
            network(**given, **task), [(height, width)], return_segmentation_scores=True
        )
        ours = resize(model(model.normalize(pixels)).main, (height, width))[0]
        torch.testing.assert_close(ours, theirs["segmentation_scores"], rtol=1e-4, atol=1e-5)


def test_the_pipeline_predicts_what_segacc_does(trained: Any, tmp_path: Path) -> None:
    from transformers import pipeline

    pipe: Any = pipeline("image-segmentation", model=str(save(trained, tmp_path)))
    torch.manual_seed(5)
    images, labels = colored(1)
    mine = predict(trained, trained, images[0], Protocol()).numpy()
    assert (mine == labels[0].numpy()).mean() > 0.9, "it has learned something"
    theirs = np.full(mine.shape, 255)
    for one in pipe(Image.fromarray(images[0].permute(1, 2, 0).numpy()), subtask="semantic"):
        theirs[np.array(one["mask"]) > 0] = int(one["label"][1:])
    assert (mine == theirs).all()


@pytest.mark.parametrize("name", ["mask2former", "maskformer", "eomt_dinov3"])
def test_the_pipeline_takes_any_size(name: str, tmp_path: Path) -> None:
    from transformers import pipeline

    model = build(name)
    pipe: Any = pipeline("image-segmentation", model=str(save(model, tmp_path)))
    pixels = noise(1, 67, 93)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    masks = {one["label"]: np.array(one["mask"]) for one in pipe(picture, subtask="semantic")}
    assert sum(mask > 0 for mask in masks.values()).sum() == 67 * 93
    if name not in EOMT:
        mine = predict(model, model, pixels[0], Protocol()).numpy()
        assert all(((mask > 0) == (mine == int(key[1:]))).all() for key, mask in masks.items())


@each
def test_config_rebuilds_a_saved_network(name: str, tmp_path: Path) -> None:
    model = build(name, no_object_weight=0.3, num_queries=5)
    folder = save(model, tmp_path)
    again = build(name, seed=1, crop=64 if name in EOMT else 256, config=folder)
    report = again.load_weights(str(folder), class_names=("c0", "c1", "c2"))
    assert report.new == report.dropped == ()
    mine, theirs = again.network.config.to_dict(), model.network.config.to_dict()
    assert {key: one for key, one in mine.items() if one != theirs.get(key)} == {}
    assert again.num_queries == 5
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    assert again.losses(facts(3))["class"].count(labels).item() == pytest.approx(1 + 4 * 0.3)


@each
def test_weights_of_other_classes_keep_no_object(name: str, tmp_path: Path) -> None:
    theirs = build(name, seed=1)
    folder = save(theirs, tmp_path)
    ours = build(name, 2, seed=2, no_object_weight=0.4)
    ours.load_weights(str(folder), class_names=("c2", "new"))
    key = ours.classifiers[0]
    mine, other = (one.get_submodule(key).weight for one in (ours, theirs))
    assert mine.shape[0] == 3
    assert torch.equal(mine[0], other[2]) and torch.equal(mine[-1], other[-1])
    weight = [1, 1, pytest.approx(0.4)]
    assert ours.network.criterion.empty_weight.tolist() == weight
    same = build(name, seed=2, no_object_weight=0.4)
    same.load_weights(str(folder), class_names=("c0", "c1", "c2"))
    assert same.network.criterion.empty_weight.tolist() == [1, *weight]


@each
@pytest.mark.parametrize("theirs", [4, 9])
def test_weights_of_other_queries_give_what_they_have(
    name: str, theirs: int, tmp_path: Path
) -> None:
    other, model = build(name, seed=1, num_queries=theirs), build(name, seed=2)
    before = {key: one.clone() for key, one in model.state_dict().items()}
    report = model.load_weights(str(save(other, tmp_path)), class_names=("c0", "c1", "c2"))
    assert report.new == ()
    found, mine = other.state_dict(), model.state_dict()
    keys = [key for key, one in mine.items() if one.shape != found[key].shape]
    assert keys and all("quer" in key for key in keys)
    taken = min(theirs, 6) - 1
    for key in keys:
        assert torch.equal(mine[key][:taken], found[key][:taken])
        assert torch.equal(mine[key][-1], found[key][-1])
        assert torch.equal(mine[key][taken:-1], before[key][taken:-1])


def bare_swin(folder: Path) -> str:
    from transformers import SwinModel

    model = build("mask2former", seed=7)
    SwinModel(model.network.config.backbone_config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["mask2former", "oneformer"])
def test_a_bare_encoder_is_loaded(name: str, tmp_path: Path) -> None:
    model = build(name)
    report = model.load_weights(bare_swin(tmp_path), class_names=("c0", "c1", "c2"))
    norms = [one for one in report.new if not model.is_head(one)]
    assert all("hidden_states_norms" in one for one in norms)


def test_maskformer_says_why_not(tmp_path: Path) -> None:
    source = bare_swin(tmp_path)
    with pytest.raises(WeightsError) as error:
        build("maskformer").load_weights(source)
    assert str(error.value) == (
        f"{source}: contains a bare Swin encoder. MaskFormer uses another Swin, whose tensors "
        "have other names. Give weights of a whole MaskFormer, or choose mask2former, which can "
        "load this folder."
    )


# ------------------------------------------------------------------------------ one's own matters


@pytest.mark.parametrize("name", EOMT)
def test_another_image_size_is_interpolated(name: str, tmp_path: Path) -> None:
    folder = save(build(name, seed=1), tmp_path)
    model = build(name, seed=2, crop=96)
    report = model.load_weights(str(folder), class_names=("c0", "c1", "c2"))
    assert not [one for one in report.new if "empty_weight" not in one]
    assert model(model.normalize(noise(1, 96, 96))).main.shape[-2:] == (96, 96)


@pytest.mark.parametrize("name", EOMT)
def test_half_annealed_networks_predict_without_chance(name: str, tmp_path: Path) -> None:
    model = build(name).train()
    model.on_step(3, 8)
    assert 0 < model.network.attn_mask_probs[0] < 1
    save(model, tmp_path)
    network, _ = auto(tmp_path)
    assert network.attn_mask_probs.tolist() == [1, 1]
    images = model.normalize(noise(2))
    assert torch.equal(model.eval()(images).main, model(images).main)


def test_oneformer_is_told_the_task_and_has_no_text_encoder() -> None:
    """The tokens are CLIP's for "the task is semantic", from its published vocabulary."""
    model = build("oneformer")
    task = model.get_buffer("task")[0]
    assert task[:8].tolist() == [49406, 518, 10549, 533, 29119, 1550, 49407, 0]
    assert task.shape == (77,) and not task[7:].any()
    assert model.network.model.text_mapper is None
    assert "contrastive" in ARCHITECTURES["oneformer"].summary
    assert not [key for key in model.state_dict() if key.endswith("task")]


def test_oneformer_published_for_training_is_built_without_texts(tmp_path: Path) -> None:
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    config = build("oneformer").network.config.to_dict()
    more = {"is_training": True, "text_encoder_width": 64, "text_encoder_num_layers": 1}
    more |= {"text_encoder_vocab_size": 99, "text_encoder_n_ctx": 2}
    OneFormerForUniversalSegmentation(OneFormerConfig(**{**config, **more})).save_pretrained(
        tmp_path
    )
    model = build("oneformer", config=tmp_path)
    report = model.load_weights(str(tmp_path), class_names=("c0", "c1", "c2"))
    assert report.new == ()
    assert report.dropped and all("text_mapper" in one for one in report.dropped)
    assert model.train()(model.normalize(noise())).main.isfinite().all()


def test_the_deep_layers_of_maskformer_are_normalized() -> None:
    """The last of them, as transformers predicts it; the others through the same norm and heads."""
    model = build("maskformer").train()
    images = model.normalize(noise())
    found = model(images).queries
    whole = model.network(pixel_values=images)
    assert len(found) == 2
    torch.testing.assert_close(found[0].masks, whole.masks_queries_logits)
    torch.testing.assert_close(found[0].classes, whole.class_queries_logits)
    states: list[Tensor] = []
    decoder = model.network.model.transformer_module.decoder
    decoder.layers[0].register_forward_hook(lambda module, given, out: states.append(out))
    again = model(images).queries
    state = states[0][0] if isinstance(states[0], tuple) else states[0]
    expected = model.network.class_predictor(decoder.layernorm(state))
    torch.testing.assert_close(again[1].classes, expected)
