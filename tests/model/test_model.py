"""The contract with a network, transformers' networks behind it, and SegFormer."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_tools import facts, tiny_segformer
from segacc.errors import WeightsError
from segacc.kernels.pixel import cross_entropy_sum
from segacc.model import Logits, SegmentationModel, SizeRule, TransformersModel
from segacc.model.transfer import LoadReport
from segacc.plugins.architectures.segformer import (
    SegformerOptions,
    build,
    default_weights,
    segacc_architectures,
)


def images(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=random)


# --------------------------------------------------------------------------- the input-size rule


@pytest.mark.parametrize(
    ("rule", "size", "complaint"),
    [
        (SizeRule(), (31, 77), ""),
        (SizeRule(multiple=32), (64, 96), ""),
        (SizeRule(multiple=32), (64, 100), "supports only multiples of 32 pixels"),
        (SizeRule(multiple=32), (65, 96), "supports only multiples of 32 pixels"),
        (SizeRule(square=True), (64, 64), ""),
        (SizeRule(square=True), (64, 96), "supports only square images"),
        (SizeRule(square=True, multiple=14), (64, 64), "supports only multiples of 14 pixels"),
        (SizeRule(fixed=(512, 640)), (512, 640), ""),
        (SizeRule(fixed=(512, 640)), (640, 512), "supports only 512x640 pixels"),
    ],
)
def test_a_size_rule_says_what_does_not_fit(
    rule: SizeRule, size: tuple[int, int], complaint: str
) -> None:
    assert rule.complaint(size) == complaint


# -------------------------------------------------------------------------------- normalization


def test_normalize_does_what_the_image_processor_does() -> None:
    from transformers import SegformerImageProcessor

    processor = SegformerImageProcessor(do_resize=False)
    wanted = processor(list(images()), return_tensors="pt").pixel_values
    model = tiny_segformer()
    found = model.normalize(images())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(SegmentationModel().normalize(images()), wanted, rtol=0, atol=1e-6)


def test_a_processor_of_bgr_without_normalization_is_followed() -> None:
    from transformers import MobileViTImageProcessor

    processor = MobileViTImageProcessor(do_resize=False, do_center_crop=False)
    wanted = processor(list(images()), return_tensors="pt").pixel_values
    model = TransformersModel(tiny_segformer().network, processor)
    assert (model.channel_order, model.mean, model.std) == ("bgr", (0.0,) * 3, (1.0,) * 3)
    torch.testing.assert_close(model.normalize(images()), wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(wanted[0, 0].mul(255).round().numpy(), images()[0, 2].numpy())


def test_a_processor_of_another_mean_is_followed() -> None:
    from transformers import SegformerImageProcessor

    processor = SegformerImageProcessor(
        do_resize=False, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.5, 0.7]
    )
    wanted = processor(list(images()), return_tensors="pt").pixel_values
    found = TransformersModel(tiny_segformer().network, processor).normalize(images())
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


# ------------------------------------------------------------------------------------ SegFormer


def test_segformer_is_registered() -> None:
    (record,) = segacc_architectures()
    assert (record.name, record.build, record.options) == ("segformer", build, SegformerOptions)
    assert record.default_weights is default_weights
    assert default_weights(SegformerOptions(variant="b3")) == "nvidia/mit-b3"
    assert default_weights(record.tiny()) is None


@pytest.mark.parametrize(
    ("variant", "millions", "encoder"),  # tables 1 and 6 of the paper, on ADE20K
    [
        ("b0", 3.8, 3.4),
        ("b1", 13.7, 13.1),
        ("b2", 27.5, 24.2),
        ("b3", 47.3, 44.0),
        ("b4", 64.1, 60.8),
        ("b5", 84.7, 81.4),
    ],
)
def test_variants_have_the_parameters_of_the_paper(
    variant: Any, millions: float, encoder: float
) -> None:
    with torch.device("meta"):
        model = build(SegformerOptions(variant=variant), facts(150))
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(counts.values()) / 1e6 == pytest.approx(millions, abs=0.06)
    inner = sum(count for name, count in counts.items() if not model.is_head(name))
    assert inner / 1e6 == pytest.approx(encoder, abs=0.15)


@pytest.mark.parametrize(("variant", "millions"), [("b0", 3.7), ("b5", 84.6), ("tiny", 0.024)])
def test_the_sizes_that_the_help_tells(variant: Any, millions: float) -> None:
    with torch.device("meta"):
        model = build(SegformerOptions(variant=variant), facts(2))
    found = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert found == pytest.approx(millions, rel=0.01)


def test_b0_has_the_tensors_of_transformers_own_defaults() -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    with torch.device("meta"):
        model = build(SegformerOptions(variant="b0"), facts(150))
        wanted = SegformerForSemanticSegmentation(SegformerConfig(num_labels=150))
    assert isinstance(model, TransformersModel)
    found = {name: tensor.shape for name, tensor in model.network.state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in wanted.state_dict().items()}


def test_segformer_gives_logits_at_a_quarter_and_takes_any_size() -> None:
    model = tiny_segformer(5)
    assert model.min_batch_size == 1
    for height, width in ((64, 96), (61, 33)):
        assert model.size_rule.complaint((height, width)) == ""
        logits = model(model.normalize(images(2, height, width)))
        assert isinstance(logits, Logits)
        assert logits.main.shape == (2, 5, -(-height // 4), -(-width // 4))
        assert (logits.auxiliary, logits.queries) == ((), None)


def test_the_options_reach_the_network() -> None:
    model = build(SegformerOptions(variant="tiny", drop_path=0.3, dropout=0.4), facts(4))
    assert isinstance(model, TransformersModel)
    config = model.network.config
    assert (config.drop_path_rate, config.classifier_dropout_prob) == (0.3, 0.4)
    assert config.id2label == {0: "c0", 1: "c1", 2: "c2", 3: "c3"}
    assert config.semantic_loss_ignore_index == 255
    many = build(SegformerOptions(variant="tiny"), facts(num_channels=5))
    assert many(torch.zeros(1, 5, 32, 32)).main.shape == (1, 3, 8, 8)


def test_the_head_is_all_that_is_not_the_encoder() -> None:
    model = tiny_segformer()
    heads = {name for name, _ in model.named_parameters() if model.is_head(name)}
    wanted = {name for name, _ in model.named_parameters() if "decode_head" in name}
    assert heads == wanted and heads
    model.head_prefixes = ("network.decode_head.classifier.",)
    assert sum(model.is_head(name) for name, _ in model.named_parameters()) == 2


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    labels = images(2, 64, 96)[:, 0].long() % 3
    cross_entropy_sum(model(model.normalize(images())).main, labels).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    model = tiny_segformer().train()
    model.freeze_batchnorm()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    plain = gradients(model)
    assert model.enable_gradient_checkpointing()
    state = (
        "is_activation_checkpointing",
        "is_gradient_checkpointing",
    )  # new and old
    assert getattr(model.network, state[0] if hasattr(model.network, state[0]) else state[1])
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-3)
    assert not SegmentationModel().enable_gradient_checkpointing()


# ------------------------------------------------------------------------------- frozen batch norm


def after_training(*, frozen: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the head's batch norm before and after two training steps around an evaluation."""
    model = tiny_segformer()
    if frozen:
        model.freeze_batchnorm()
    norm = model.network.decode_head.batch_norm
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model.train()
        assert norm.training is not frozen and model.network.decode_head.dropout.training
        labels = images(2, 64, 96)[:, 0].long() % 3
        optimizer.zero_grad()
        cross_entropy_sum(model(model.normalize(images())).main, labels).backward()
        optimizer.step()
        assert not model.eval().training
    return before, norm.state_dict()


def test_frozen_batch_norm_stays_as_it_is() -> None:
    before, after = after_training(frozen=True)
    assert set(before) >= {"weight", "bias", "running_mean", "running_var"}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_batch_norm_that_is_not_frozen_learns() -> None:
    before, after = after_training(frozen=False)
    assert not any(torch.equal(before[name], after[name]) for name in before)


# ------------------------------------------------------------------------ saved for transformers


def test_a_saved_folder_gives_the_same_logits_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    model, names = tiny_segformer(4), ("sky", "road", "grün, nass", "a/b: c")
    model.save_pretrained(tmp_path, names=names, state_dict=model.state_dict())
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded.config.id2label == dict(enumerate(names))
    assert loaded.config.label2id == {name: k for k, name in enumerate(names)}
    assert (loaded.config.num_labels, loaded.dtype) == (4, torch.float32)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(model.normalize(images())).main
        logits = loaded(model.normalize(images())).logits
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)
        seen = processor(list(images()), return_tensors="pt").pixel_values
        assert seen.shape == (2, 3, 64, 96)  # no resize, no crop
        torch.testing.assert_close(loaded(seen).logits, wanted, rtol=0, atol=1e-5)
    assert not processor.do_reduce_labels
    assert (tmp_path / "model.safetensors").is_file()


def test_other_weights_than_the_networks_own_can_be_saved(tmp_path: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation

    model, other = tiny_segformer(seed=0), tiny_segformer(seed=1)
    model.save_pretrained(tmp_path, names=("a", "b", "c"), state_dict=other.state_dict())
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    for name, tensor in other.network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


# ----------------------------------------------------------------------- a network of plain torch


def unet(example_plugin: ModuleType, *, seed: int, num_classes: int = 3, width: int = 4) -> Any:
    torch.manual_seed(seed)
    options = example_plugin.UNetOptions(width=width, depth=2)
    return example_plugin.build_unet(options, facts(num_classes)).eval()


def saved(model: Any, folder: Path, num_classes: int = 3) -> Path:
    names = [f"c{k}" for k in range(num_classes)]
    model.save_pretrained(folder, names=names, state_dict=model.state_dict())
    return folder


def test_a_plain_network_is_saved_and_loaded(example_plugin: ModuleType, tmp_path: Path) -> None:
    first, second = unet(example_plugin, seed=0), unet(example_plugin, seed=1)
    report = second.load_weights(str(saved(first, tmp_path)))
    assert report == LoadReport(str(tmp_path), len(first.state_dict()))
    x = first.normalize(images())
    torch.testing.assert_close(second(x).main, first(x).main, rtol=1e-5, atol=1e-6)


def test_a_plain_networks_head_is_new_for_other_classes(
    example_plugin: ModuleType, tmp_path: Path
) -> None:
    saved(unet(example_plugin, seed=0), tmp_path)
    model = unet(example_plugin, seed=1, num_classes=7)
    head = model.head.weight.clone()
    report = model.load_weights(str(tmp_path))
    assert report.new == report.dropped == ("head.bias", "head.weight")
    assert report.text() == (
        f"weights: {tmp_path}: {report.loaded} tensors loaded; new: head.bias, head.weight; "
        "not used: head.bias, head.weight"
    )
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.down[0][0].weight, unet(example_plugin, seed=0).down[0][0].weight)


def test_weights_of_another_plain_network_are_refused(
    example_plugin: ModuleType, tmp_path: Path
) -> None:
    saved(unet(example_plugin, seed=0, width=6), tmp_path)
    with pytest.raises(WeightsError) as error:
        unet(example_plugin, seed=1).load_weights(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}: these weights do not belong to this network: ")
    assert str(error.value).endswith(
        "Choose the architecture and variant that the weights were saved from, or use "
        "--weights none."
    )


def test_half_precision_weights_of_a_plain_network_become_float32(
    example_plugin: ModuleType, tmp_path: Path
) -> None:
    half = unet(example_plugin, seed=0).bfloat16()
    model = unet(example_plugin, seed=1)
    model.load_weights(str(saved(half, tmp_path)))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.head.weight, half.head.weight.float())


def test_a_folder_without_or_with_broken_weights(
    example_plugin: ModuleType, tmp_path: Path
) -> None:
    model = unet(example_plugin, seed=0)
    with pytest.raises(WeightsError) as error:
        model.load_weights(str(tmp_path))
    assert str(error.value) == f"{tmp_path}: no model.safetensors in this folder."
    path = saved(model, tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError) as error:
        model.load_weights(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}: the weights cannot be read: ")


class Bare(SegmentationModel):
    """The least that a stranger writes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> Logits:
        return Logits(self.layer(images))


def test_the_least_network_has_every_answer() -> None:
    model = Bare()
    assert not any(model.is_head(name) for name, _ in model.named_parameters())
    assert model.on_step(0, 10) is None
    assert (model.size_rule, model.min_batch_size) == (SizeRule(), 1)
    model.freeze_batchnorm()
    assert model.train().training
    assert model(model.normalize(images())).main.shape == (2, 2, 64, 96)


# ------------------------------------------------------------------------------------ LoadReport


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (LoadReport("random"), "weights: random"),
        (LoadReport("a/b", 7), "weights: a/b: 7 tensors loaded"),
        (
            LoadReport("a/b", 7, ("head.b", "head.w"), ("old.w",)),
            "weights: a/b: 7 tensors loaded; new: head.b, head.w; not used: old.w",
        ),
        (
            LoadReport("a/b", 7, tuple(f"{m}.{k}.w" for m in ("head", "body") for k in range(3))),
            "weights: a/b: 7 tensors loaded; new: 6 tensors of body, head",
        ),
    ],
)
def test_a_report_in_one_line(report: LoadReport, text: str) -> None:
    assert report.text() == text
