"""The hot kernels against plain torch and plain numpy."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.kernels import resize as resizing
from segacc.kernels.pixel import cross_entropy_sum
from segacc.kernels.region import tversky_sum
from segacc.kernels.resize import confusion, decide, resize

# N, K, h, w, H, W
SHAPES = [
    (1, 2, 5, 7, 20, 28),
    (5, 3, 6, 4, 17, 23),
    (2, 150, 8, 8, 32, 32),
    (3, 4, 9, 9, 9, 9),
    (2, 5, 16, 12, 7, 5),
    (4, 255, 1, 1, 6, 6),
]


def draw(shape: tuple[int, ...], *, seed: int = 0, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    """Draw logits (N, K, h, w) and labels (N, H, W), a share of them ignored."""
    images, classes, h, w, height, width = shape
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(images, classes, h, w, generator=random)
    labels = torch.randint(classes, (images, height, width), generator=random)
    labels[torch.rand(labels.shape, generator=random) < ignored] = 255
    return logits, labels


def plain_torch(logits: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, labels, ignore_index=255, reduction="sum", **settings)


def value_and_gradient(function: Any, logits: Tensor, labels: Tensor, **settings: Any) -> Any:
    leaf = logits.clone().requires_grad_()
    value = function(leaf, labels, **settings)
    (3 * value).backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("images_at_a_time", [1, 2, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "settings", [{}, {"label_smoothing": 0.2}, {"class_weights": True}], ids=str
)
def test_cross_entropy_is_torchs_own(
    shape: Any, images_at_a_time: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = draw(shape)
    monkeypatch.setattr(resizing, "CHUNK", images_at_a_time * shape[1] * shape[4] * shape[5])
    theirs = dict(settings)
    if settings.get("class_weights"):
        weights = torch.linspace(0.1, 2.0, shape[1])
        settings, theirs = {"class_weights": weights}, {"weight": weights}
    value, gradient = value_and_gradient(cross_entropy_sum, logits, labels, **settings)
    wanted, wanted_gradient = value_and_gradient(plain_torch, logits, labels, **theirs)
    torch.testing.assert_close(value, wanted, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-5, atol=2e-5)
    assert value.dtype == torch.float32


def bilinear_matrix(out: int, into: int) -> np.ndarray[Any, Any]:
    """Weights (out, into) of linear interpolation between pixel centres, written from its rule."""
    matrix = np.zeros((out, into))
    for row in range(out):
        place = min(max((row + 0.5) * into / out - 0.5, 0.0), into - 1.0)
        low = min(int(place), into - 1)
        high = min(low + 1, into - 1)
        matrix[row, low] += 1 - (place - low)
        matrix[row, high] += place - low
    return matrix


def test_cross_entropy_is_the_formula_in_float64() -> None:
    logits, labels = draw((3, 7, 5, 6, 18, 19))
    value, gradient = value_and_gradient(cross_entropy_sum, logits, labels)
    down, across = bilinear_matrix(18, 5), bilinear_matrix(19, 6)
    full = np.einsum("yi,xj,nkij->nkyx", down, across, logits.double().numpy())
    exponents = np.exp(full - full.max(1, keepdims=True))
    soft = exponents / exponents.sum(1, keepdims=True)  # (N, K, H, W)
    valid = labels.numpy() != 255
    truth = np.eye(7)[np.where(valid, labels.numpy(), 0)].transpose(0, 3, 1, 2)
    wanted = -(np.log((soft * truth).sum(1)) * valid).sum()
    wanted_gradient = np.einsum("yi,xj,nkyx->nkij", down, across, (soft - truth) * valid[:, None])
    np.testing.assert_allclose(value.item(), wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient.numpy(), 3 * wanted_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}], ids=str)
def test_nothing_but_ignored_pixels_is_zero_with_a_zero_gradient(settings: Any) -> None:
    logits, labels = draw((2, 4, 3, 3, 12, 12), ignored=2.0)
    assert (labels == 255).all()
    value, gradient = value_and_gradient(cross_entropy_sum, logits, labels, **settings)
    assert value.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_an_ignored_image_adds_nothing_to_a_batch() -> None:
    logits, labels = draw((3, 4, 3, 3, 12, 12))
    labels[1] = 255
    value, gradient = value_and_gradient(cross_entropy_sum, logits, labels)
    rest = [0, 2]
    wanted, others = value_and_gradient(cross_entropy_sum, logits[rest], labels[rest])
    torch.testing.assert_close(value, wanted)
    assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
    torch.testing.assert_close(gradient[rest], others)


def test_logits_without_gradient_give_the_value_alone() -> None:
    logits, labels = draw((2, 3, 4, 4, 9, 9))
    value = cross_entropy_sum(logits, labels)
    assert not value.requires_grad
    torch.testing.assert_close(value, plain_torch(logits, labels))
    with torch.no_grad():
        again = cross_entropy_sum(logits.requires_grad_(), labels)
    assert not again.requires_grad
    assert torch.equal(again, value)


def test_the_gradient_flows_on_into_the_layers_below() -> None:
    _, labels = draw((2, 3, 4, 4, 11, 13))
    features = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    layers = [torch.nn.Conv2d(6, 3, 1), torch.nn.Conv2d(6, 3, 1)]
    layers[1].load_state_dict(layers[0].state_dict())
    cross_entropy_sum(layers[0](features), labels).backward()
    plain_torch(layers[1](features), labels).backward()
    torch.testing.assert_close(layers[0].weight.grad, layers[1].weight.grad, rtol=1e-5, atol=1e-4)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, labels = draw((2, 19, 8, 8, 32, 32))
    half = logits.bfloat16()
    value, gradient = value_and_gradient(cross_entropy_sum, half, labels)
    wanted, wanted_gradient = value_and_gradient(plain_torch, half.float(), labels)
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.float(), wanted_gradient, rtol=2e-2, atol=2e-2)


def test_full_size_logits_of_few_images_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = draw((7, 5, 4, 4, 16, 16))
    monkeypatch.setattr(resizing, "CHUNK", 2 * 5 * 16 * 16)
    sizes = []

    def measured(*given: Any) -> Tensor:
        sizes.append((full := resize(*given)).numel())
        return full

    monkeypatch.setattr(resizing, "resize", measured)
    tversky_sum(logits.requires_grad_(), labels, alpha=0.5, beta=0.5)
    assert sizes == [2 * 5 * 16 * 16] * 3 + [5 * 16 * 16]
    sizes.clear()
    monkeypatch.setattr(resizing, "CHUNK", 7 * 2 * 16 * 16)
    decide(logits.detach(), (16, 16))
    assert sizes == [7 * 2 * 16 * 16] * 2 + [7 * 16 * 16]


def assert_best(prediction: Tensor, wanted: Tensor, full: Tensor) -> None:
    """Assert that each pixel has the best class, or one whose logit rounds to the same."""
    chosen = full.gather(1, prediction.long()[:, None])[:, 0]
    torch.testing.assert_close(chosen, full.max(dim=1).values, rtol=1e-6, atol=1e-6)
    assert (prediction != wanted).float().mean() < 1e-3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("images", "size"), [(1, (130, 97)), (2, (80, 60))])
def test_argmax_is_the_same_in_any_number_of_chunks(
    images: int, size: tuple[int, int], layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, _ = draw((images, 13, 24, 31, *size))
    logits = logits.to(memory_format=layout)
    wanted = resize(logits.contiguous(), size).argmax(1)
    for classes_at_a_time in range(1, 14):
        monkeypatch.setattr(resizing, "CHUNK", classes_at_a_time * images * size[0] * size[1])
        prediction = decide(logits, size).classes
        assert prediction.dtype == torch.uint8
        assert_best(prediction, wanted, resize(logits.contiguous(), size))
    one_chunk = decide(logits, size).classes
    assert torch.equal(one_chunk.long(), wanted)  # to the last pixel


@pytest.mark.parametrize("classes_at_a_time", range(1, 11))
def test_the_first_of_equal_classes_wins_in_any_number_of_chunks(
    classes_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = torch.randint(-9, 9, (2, 5, 90, 70), generator=torch.Generator().manual_seed(0)).float()
    logits = torch.cat([half, half], dim=1)  # each class has a twin, so each pixel is a tie
    monkeypatch.setattr(resizing, "CHUNK", classes_at_a_time * 2 * 90 * 70)
    assert torch.equal(decide(logits, (90, 70)).classes.long(), half.argmax(1))


def test_argmax_follows_numpy_where_nothing_is_resized() -> None:
    logits, _ = draw((3, 255, 6, 7, 6, 7))
    wanted = logits.numpy().argmax(1)
    assert wanted.max() > 127
    np.testing.assert_array_equal(decide(logits, (6, 7)).classes.numpy(), wanted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
@pytest.mark.parametrize("num_classes", [2, 15, 16, 150])
def test_confusion_counts_pixel_by_pixel(num_classes: int, dtype: torch.dtype) -> None:
    random = np.random.default_rng(num_classes)
    labels = random.integers(0, num_classes, (3, 20, 15))
    predictions = random.integers(0, num_classes, (3, 20, 15))
    labels[random.random(labels.shape) < 0.2] = 255
    wanted = np.zeros((num_classes, num_classes), np.int64)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label != 255:
            wanted[label, prediction] += 1
    given = [torch.from_numpy(array).to(dtype) for array in (predictions, labels)]
    found = confusion(*given, num_classes)
    assert (found.dtype, found.shape) == (torch.int64, (num_classes, num_classes))
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_confusion_of_ignored_pixels_is_empty() -> None:
    labels = torch.full((1, 4, 4), 255)
    assert confusion(torch.zeros(1, 4, 4, dtype=torch.int64), labels, 3).tolist() == [[0] * 3] * 3
