"""Losses by rows are those of plain torch on logits of full size, computed in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.kernels import rows
from segacc.kernels.pixel import binary_cross_entropy_sum, cross_entropy_sum, focal_sum

SIZES = [  # K, (h, w), (H, W): up, down, odd, one side only, unchanged
    (1, (5, 5), (9, 11)),
    (2, (7, 9), (33, 50)),
    (19, (16, 16), (64, 64)),
    (150, (13, 17), (101, 77)),
    (19, (40, 30), (20, 17)),
    (5, (8, 6), (8, 20)),
    (5, (8, 6), (30, 6)),
    (3, (8, 8), (8, 8)),
]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide also the small images of these tests."""
    monkeypatch.setattr(rows, "FEW", 0)


Loss = Callable[[Tensor, Tensor], Tensor]


def example(
    num_classes: int, given: tuple[int, int], wanted: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return logits, and labels of which a fifth is ignored."""
    draw = torch.Generator().manual_seed(num_classes)
    logits = 3 * torch.randn(2, num_classes, *given, generator=draw, dtype=torch.float64)
    labels = torch.randint(num_classes, (2, *wanted), generator=draw)
    labels[torch.rand(2, *wanted, generator=draw) < 0.2] = 255
    return logits.to(dtype), labels


def full(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)


def with_gradient(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels)
    (3 * value).backward()  # another loss may follow in the sum
    assert leaf.grad is not None and leaf.grad.dtype == logits.dtype
    return value.detach(), leaf.grad


def assert_equal(ours: Loss, plain: Loss, logits: Tensor, labels: Tensor) -> None:
    value, gradient = with_gradient(ours, logits, labels)
    wanted, slope = with_gradient(plain, logits.double(), labels)
    close = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 8e-3}[logits.dtype]
    assert float(value - wanted) == pytest.approx(0, abs=max(close, 1e-6) * float(wanted) + 1e-6)
    assert float((gradient - slope).norm()) <= close * max(float(slope.norm()), 10.0)
    with torch.no_grad():
        assert torch.equal(ours(logits, labels), value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("num_classes", "given", "wanted"), SIZES)
def test_cross_entropy(
    num_classes: int,
    given: tuple[int, int],
    wanted: tuple[int, int],
    weighted: bool,
    smoothing: float,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "CACHED", 3 * num_classes * wanted[1])  # many steps of three rows
    weights = torch.linspace(0.1, 2, num_classes) if weighted else None
    assert_equal(
        lambda logits, labels: cross_entropy_sum(
            logits, labels, class_weights=weights, label_smoothing=smoothing
        ),
        lambda logits, labels: F.cross_entropy(
            full(logits, labels),
            labels,
            weight=None if weights is None else weights.double(),
            ignore_index=255,
            reduction="sum",
            label_smoothing=smoothing,
        ),
        *example(num_classes, given, wanted, dtype),
    )


@pytest.mark.parametrize(("num_classes", "given", "wanted"), SIZES[1:])
def test_focal(num_classes: int, given: tuple[int, int], wanted: tuple[int, int]) -> None:
    def plain(logits: Tensor, labels: Tensor) -> Tensor:
        chances = full(logits, labels).softmax(1)
        own = chances.gather(1, labels.where(labels != 255, 0)[:, None])[:, 0][labels != 255]
        return ((1 - own) ** 1.5 * -own.log()).sum()

    def ours(logits: Tensor, labels: Tensor) -> Tensor:
        return focal_sum(logits, labels, gamma=1.5)

    assert_equal(ours, plain, *example(num_classes, given, wanted, torch.float64))


def test_binary() -> None:
    def plain(logits: Tensor, labels: Tensor) -> Tensor:
        large = full(logits, labels)
        odds, valid = (large[:, 1] - large[:, 0]), labels != 255
        truth, weight = (labels == 1).double()[valid], torch.tensor(3.0, dtype=torch.float64)
        return F.binary_cross_entropy_with_logits(
            odds[valid], truth, pos_weight=weight, reduction="sum"
        )

    def ours(logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_sum(logits, labels, pos_weight=3.0)

    assert_equal(ours, plain, *example(2, (7, 9), (33, 50), torch.float64))


def test_few_rows_of_one_image_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = example(5, (4, 4), (16, 16), torch.float32)
    monkeypatch.setattr(rows, "CACHED", 3 * 5 * 16)
    seen = []

    def term(part: Tensor, label: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
        seen.append((tuple(part.shape), tuple(label.shape)))
        return part.sum(), torch.ones_like(part)

    rows.summed_by_rows(term, lambda *_: torch.empty(0), logits.requires_grad_(), labels).backward()
    assert seen == 2 * (5 * [((3, 5, 16), (3, 16))] + [((1, 5, 16), (1, 16))])
    assert logits.grad is not None and torch.allclose(logits.grad.sum(), torch.tensor(2560.0))


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits, labels = example(4, (3, 5), (7, 8), torch.float64)
    assert torch.autograd.gradcheck(
        lambda one: cross_entropy_sum(one, labels, label_smoothing=0.1), logits.requires_grad_()
    )


@pytest.mark.parametrize("size", [(7, 9), (33, 50)])
def test_the_memory_format_of_the_logits_does_not_matter(size: tuple[int, int]) -> None:
    logits, labels = example(5, (7, 9), size, torch.float32)
    value, gradient = with_gradient(cross_entropy_sum, logits, labels)
    for other in (logits.to(memory_format=torch.channels_last), logits.mT.contiguous().mT):
        again, slope = with_gradient(cross_entropy_sum, other, labels)
        assert torch.equal(again, value) and torch.equal(slope, gradient)


def test_no_valid_pixel_gives_zero() -> None:
    logits, labels = example(4, (3, 5), (7, 8), torch.float32)
    value, gradient = with_gradient(cross_entropy_sum, logits, torch.full_like(labels, 255))
    assert value == 0 and not gradient.any()
