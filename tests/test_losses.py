"""The built-in loss: a sum and a count that do not depend on how a batch is cut."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_tools import facts
from segacc.errors import OptionError
from segacc.hookspecs import Loss
from segacc.options import decode
from segacc.plugins.losses import CrossEntropyOptions, segacc_losses


def cross_entropy(**values: Any) -> Any:
    (record,) = segacc_losses()
    assert isinstance(record, Loss) and record.name == "cross_entropy"
    return record.build(decode(record.options, values, "--loss cross_entropy"), facts(5))


def draw() -> tuple[Tensor, Tensor]:
    """Six images of unequal weight: one all ignored, one nearly."""
    random = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(6, 5, 6, 7, generator=random)
    labels = torch.randint(5, (6, 21, 26), generator=random)
    shares = torch.tensor([0.0, 0.1, 0.5, 0.99, 1.1, 0.3])
    labels[torch.rand(labels.shape, generator=random) < shares[:, None, None]] = 255
    return logits, labels


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_sum_and_count_are_plain_torchs(weight: float, smoothing: float) -> None:
    logits, labels = draw()
    loss = cross_entropy(weight=weight, label_smoothing=smoothing)
    full = F.interpolate(logits, size=(21, 26), mode="bilinear", align_corners=False)
    settings: Any = {"ignore_index": 255, "label_smoothing": smoothing}
    total = F.cross_entropy(full, labels, reduction="sum", **settings)
    torch.testing.assert_close(loss.sum(logits, labels), weight * total, rtol=1e-6, atol=0)
    assert loss.count(labels).dtype == torch.float32
    assert loss.count(labels).item() == sum(label != 255 for label in labels.flatten().tolist())
    mean = F.cross_entropy(full, labels, reduction="mean", **settings)
    divided = loss.sum(logits, labels) / loss.count(labels)
    torch.testing.assert_close(divided, weight * mean, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (4, 1, 1), (1,) * 6], ids=str)
def test_sum_count_and_gradient_do_not_depend_on_the_cut(sizes: tuple[int, ...]) -> None:
    logits, labels = draw()
    loss = cross_entropy()
    whole = logits.clone().requires_grad_()
    total, count = loss.sum(whole, labels), loss.count(labels)
    (total / count).backward()
    cut = logits.clone().requires_grad_()
    parts = list(zip(cut.split(sizes), labels.split(sizes), strict=True))
    assert sum(loss.count(label) for _, label in parts) == count
    sums = [loss.sum(part, label) for part, label in parts]
    torch.testing.assert_close(sum(sums), total, rtol=1e-6, atol=0)
    for one in sums:
        (one / count).backward()
    torch.testing.assert_close(cut.grad, whole.grad, rtol=1e-5, atol=1e-9)


def test_an_all_ignored_batch_is_zero_with_a_zero_gradient() -> None:
    logits, labels = draw()
    loss, leaf = cross_entropy(), logits.clone().requires_grad_()
    total = loss.sum(leaf, torch.full_like(labels, 255))
    total.backward()
    assert (total.item(), loss.count(torch.full_like(labels, 255)).item()) == (0.0, 0.0)
    assert torch.equal(leaf.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"label_smoothing": "1"},
            "--loss: \"label_smoothing\" is '1', expected number >= 0 < 1: "
            "input should be less than 1.",
        ),
        (
            {"weight": "0"},
            "--loss: \"weight\" is '0', expected number > 0: input should be greater than 0.",
        ),
    ],
)
def test_options_out_of_range(values: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as error:
        decode(CrossEntropyOptions, values, "--loss")
    assert str(error.value) == message
