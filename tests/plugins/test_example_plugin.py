"""The components of tests/example_plugin keep the promises that strangers copy them for."""

import ast
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from launches import ROOT
from segacc import Facts, LossOptions

FACTS = Facts(num_classes=3, class_names=("background", "rectangle", "circle"))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(ROOT / "tests" / "example_plugin")
    import segacc_example

    yield segacc_example
    for name in set(sys.modules) - before:
        if name.startswith("segacc_example"):
            del sys.modules[name]


def unet(plugin: ModuleType, **options: int) -> Any:
    torch.manual_seed(0)
    return plugin.build_unet(plugin.UNetOptions(**options), FACTS)


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (64, 48)])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_unet_takes_images_of_any_size(
    plugin: ModuleType, depth: int, size: tuple[int, int]
) -> None:
    logits = unet(plugin, width=4, depth=depth)(torch.rand(2, 3, *size))
    assert logits.main.shape == (2, 3, *size)


def test_unet_does_not_mix_the_images_of_a_batch(plugin: ModuleType) -> None:
    network, images = unet(plugin, width=4, depth=2).train(), torch.rand(3, 3, 32, 32)
    alone = torch.cat([network(image[None]).main for image in images])
    torch.testing.assert_close(network(images).main, alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_of_unet_gets_a_gradient(plugin: ModuleType) -> None:
    network = unet(plugin)
    network(torch.rand(1, 3, 33, 33)).main.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    heads = [name for name, _ in network.named_parameters() if network.is_head(name)]
    assert heads == ["head.weight", "head.bias"]


def test_dice_has_one_gradient_however_the_batch_is_cut(plugin: ModuleType) -> None:
    loss = plugin.Dice(LossOptions(), FACTS)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (4, 16, 16), generator=generator)
    labels[1], labels[2, :5] = 255, 255  # one image with nothing to learn from, one in part
    logits = torch.randn(4, 3, 8, 8, generator=generator)

    def gradient(cuts: list[int]) -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        parts = list(zip(torch.split(leaf, cuts), torch.split(labels, cuts), strict=True))
        total = sum(loss.sum(*part) for part in parts)
        (total / sum(loss.count(label) for _, label in parts)).backward()
        assert leaf.grad is not None
        return leaf.grad

    whole = gradient([4])
    assert whole[[0, 2, 3]].abs().sum(dim=(1, 2, 3)).gt(0).all()
    assert whole[1].eq(0).all(), "an ignored image teaches nothing"
    assert loss.count(labels) == 3
    torch.testing.assert_close(gradient([1, 1, 1, 1]), whole)
    torch.testing.assert_close(gradient([3, 1]), whole)


def test_dice_of_perfect_and_of_empty(plugin: ModuleType) -> None:
    loss = plugin.Dice(LossOptions(), FACTS)
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[:, 4:] = 2
    right = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2) * 100.0
    assert loss.sum(right, labels) == pytest.approx(0, abs=1e-6)
    # All wrong: classes 0 and 2 are swapped, so they score 1 / 65; class 1 is rightly absent.
    assert loss.sum(right.flip(1), labels) == pytest.approx(1 - (2 / 65 + 1) / 3, abs=1e-6)
    nothing = torch.full_like(labels, 255)
    assert (loss.sum(right, nothing), loss.count(nothing)) == (0, 0)


def test_shapes_are_a_function_of_seed_and_index(plugin: ModuleType) -> None:
    first, again = (plugin.build_shapes(plugin.ShapesOptions(num_images=8)) for _ in range(2))
    other = plugin.build_shapes(plugin.ShapesOptions(num_images=8, seed=1))
    train = list(first.splits["train"])
    assert (len(train), len(first.splits["validation"])) == (8, 2)
    assert train[3] == again.splits["train"][3]
    images = {sample.image for sample in [*train, *first.splits["validation"]]}
    assert len(images) == 10, "no image is in both splits"
    assert images.isdisjoint(sample.image for sample in other.splits["train"])
    image, label = (
        np.array(Image.open(io.BytesIO(data))) for data in (train[0].image, train[0].label)
    )
    assert (image.shape, label.shape) == ((64, 64, 3), (64, 64))
    assert image.dtype == label.dtype == np.uint8
    assert set(np.unique(first.labels.apply(label, train[0].id))) == {0, 1, 2}


def test_pixel_counts_add_up(plugin: ModuleType) -> None:
    labels = torch.tensor([[[0, 0, 1, 255]], [[2, 2, 1, 1]]])
    predictions = torch.tensor([[[0, 1, 1, 2]], [[0, 2, 1, 1]]], dtype=torch.uint8)
    whole, halves, part = (plugin.PixelCounts(None, FACTS) for _ in range(3))
    whole.update(predictions, labels)
    for index in range(2):
        part = plugin.PixelCounts(None, FACTS)
        part.update(predictions[index : index + 1], labels[index : index + 1])
        for name, counts in part.state.items():
            halves.state[name] += counts
    assert whole.compute() == halves.compute()
    assert whole.compute() == {
        "area_error": pytest.approx(1 / 7),
        "labelled_pixels": {"background": 2, "rectangle": 3, "circle": 2},
        "predicted_pixels": {"background": 2, "rectangle": 4, "circle": 1},
    }


def test_quarter_turn_moves_image_and_label_together(plugin: ModuleType) -> None:
    from torchvision import tv_tensors

    values = torch.arange(12, dtype=torch.uint8).view(1, 4, 3)
    turned, change = values[0].mT.flip(0), plugin.build_quarter_turn(None, FACTS)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        image, label = change(tv_tensors.Image(values), tv_tensors.Mask(values[0]))
        seen.add(label.shape == turned.shape)
        wanted = turned if label.shape == turned.shape else values[0]
        assert torch.equal(image[0], wanted) and torch.equal(label, wanted)
    assert seen == {True, False}, "half of the images are turned"


def glue(source: str) -> int:
    """Count the lines, not blank, of imports, options, hooks and records."""
    lines, count = source.splitlines(), 0
    for node in ast.parse(source).body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.If():
                first = node.lineno
            case ast.ClassDef(name=name) if name.endswith("Options"):
                first = node.decorator_list[0].lineno
            case ast.FunctionDef(name=name) if name.startswith("segacc_"):
                first = node.decorator_list[0].lineno
            case _:
                continue
        count += sum(bool(line.strip()) for line in lines[first - 1 : node.end_lineno])
    return count


def test_five_kinds_need_at_most_50_lines_of_glue(plugin: ModuleType) -> None:
    kinds = [name for name in vars(plugin) if name.startswith("segacc_")]
    assert len(kinds) == 5
    assert 40 < glue(Path(str(plugin.__file__)).read_text(encoding="utf-8")) <= 50
