"""Losses by rows are those of plain torch on logits of full size, computed in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.kernels import bands, rows
from segacc.kernels.pixel import (
    binary_cross_entropy_sum,
    cross_entropy_sum,
    focal_sum,
    hard_examples_sum,
)
from segacc.kernels.region import tversky_sum
from tensor_tools import Largest

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
    monkeypatch.setattr(bands, "CACHED", 0)


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
    _, rounded = with_gradient(plain, logits, labels)
    close = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 8e-3}[logits.dtype]
    assert float(value - wanted) == pytest.approx(0, abs=max(close, 1e-6) * float(wanted) + 1e-6)
    off, rounding = (float((one - slope).norm()) for one in (gradient, rounded))
    size = float(slope.norm())
    assert off <= close * max(size, 10.0)
    if logits.shape[1] > 1:  # of one class, it is 0
        assert off <= close * size + rounding  # that of plain torch in the same format
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
    monkeypatch.setattr(bands, "CACHED", 3 * num_classes * wanted[1])  # many bands of three rows
    weights = torch.linspace(0.1, 2, num_classes) if weighted else None
    assert_equal(
        lambda logits, labels: cross_entropy_sum(
            logits, labels, class_weights=weights, label_smoothing=smoothing
        ),
        lambda logits, labels: F.cross_entropy(
            full(logits, labels),
            labels,
            weight=None if weights is None else weights.to(full(logits, labels).dtype),
            ignore_index=255,
            reduction="sum",
            label_smoothing=smoothing,
        ),
        *example(num_classes, given, wanted, dtype),
    )


def chances_of(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all probabilities, those of the labels' classes, and which pixels are labelled."""
    chances = full(logits, labels).softmax(1)
    valid = labels != 255
    return chances, chances.gather(1, labels.where(valid, 0)[:, None])[:, 0], valid


def plain_focal(logits: Tensor, labels: Tensor) -> Tensor:
    _, own, valid = chances_of(logits, labels)
    return ((1 - own[valid]) ** 1.5 * -own[valid].log()).sum()


def plain_hard_examples(logits: Tensor, labels: Tensor) -> Tensor:
    """Average each image's pixels below 0.3, or the worst half."""
    _, own, valid = chances_of(logits, labels)
    total = own.new_zeros(())
    for one, here in zip(own, valid, strict=True):
        costs = -one[here].log()
        least = costs.sort(descending=True).values[-(-len(costs) // 2) - 1]
        total = total + costs[(costs >= least) | (one[here] < 0.3)].mean()
    return total


def plain_tversky(logits: Tensor, labels: Tensor, power: float = 1.0) -> Tensor:
    chances, _, valid = chances_of(logits, labels)
    total = chances.new_zeros(())
    for image, label, here in zip(chances, labels, valid, strict=True):
        for k in label[here].unique().tolist():
            inside, claimed = label == k, image[k]
            hit = claimed[inside].sum()
            costs = 0.3 * claimed[here & ~inside].sum() + 0.7 * (1 - claimed[inside]).sum()
            total = total + (1 - hit / (hit + costs)).clamp(min=1e-6 * (power < 1)) ** power
    return total


OTHERS = {
    "focal": (lambda *given: focal_sum(*given, gamma=1.5), plain_focal),
    "ohem": (
        lambda *given: hard_examples_sum(*given, thresh=0.3, min_kept=0.5),
        plain_hard_examples,
    ),
    "tversky": (lambda *given: tversky_sum(*given, alpha=0.3, beta=0.7), plain_tversky),
    "focal tversky": (
        lambda *given: tversky_sum(*given, alpha=0.3, beta=0.7, gamma=4 / 3),
        lambda *given: plain_tversky(*given, power=3 / 4),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("num_classes", "given", "wanted"), SIZES)
def test_other_losses(
    num_classes: int,
    given: tuple[int, int],
    wanted: tuple[int, int],
    name: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bands, "CACHED", 3 * num_classes * wanted[1])
    assert_equal(*OTHERS[name], *example(num_classes, given, wanted, dtype))


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
    monkeypatch.setattr(bands, "CACHED", 3 * 5 * 16)
    seen = []

    def term(part: Tensor, label: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
        seen.append((tuple(part.shape), tuple(label.shape)))
        return part.sum(), torch.ones_like(part)

    loss = rows.of_rows(term)
    rows.summed_by_rows(loss, lambda *_: torch.empty(0), logits.requires_grad_(), labels).backward()
    assert seen == 2 * (5 * [((3, 5, 16), (3, 16))] + [((1, 5, 16), (1, 16))])
    assert logits.grad is not None and torch.allclose(logits.grad.sum(), torch.tensor(2560.0))


@pytest.mark.parametrize("name", ["cross_entropy", *OTHERS])
def test_no_tensor_is_larger_than_a_few_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = example(40, (16, 16), (64, 64), torch.float32)
    monkeypatch.setattr(bands, "CACHED", 2 * 40 * 64)
    with Largest() as largest:
        OTHERS.get(name, (cross_entropy_sum,))[0](logits.requires_grad_(), labels).backward()
    assert largest.bytes == logits.numel() * 4, "the gradient, of 4 * 2 * 40 * 64 * 64 bytes"


@pytest.mark.parametrize("name", ["cross_entropy", *OTHERS])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    logits, labels = example(3, (2, 3), (5, 4), torch.float64)
    smoothed = (lambda *given: cross_entropy_sum(*given, label_smoothing=0.1),)
    loss = OTHERS.get(name, smoothed)[0]
    assert torch.autograd.gradcheck(lambda one: loss(one, labels), logits.requires_grad_())


@pytest.mark.parametrize("size", [(7, 9), (33, 50)])
def test_the_memory_format_of_the_logits_does_not_matter(size: tuple[int, int]) -> None:
    logits, labels = example(5, (7, 9), size, torch.float32)
    value, gradient = with_gradient(cross_entropy_sum, logits, labels)
    for other in (logits.to(memory_format=torch.channels_last), logits.mT.contiguous().mT):
        again, slope = with_gradient(cross_entropy_sum, other, labels)
        assert torch.equal(again, value) and torch.equal(slope, gradient)


@pytest.mark.parametrize("name", ["cross_entropy", *OTHERS])
def test_no_valid_pixel_gives_zero(name: str) -> None:
    logits, labels = example(4, (3, 5), (7, 8), torch.float32)
    loss = OTHERS.get(name, (cross_entropy_sum,))[0]
    value, gradient = with_gradient(loss, logits, torch.full_like(labels, 255))
    assert value == 0 and not gradient.any()
