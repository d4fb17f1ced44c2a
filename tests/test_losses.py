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
from segacc.plugins.losses import CrossEntropy, CrossEntropyOptions, segacc_losses


def loss_of(name: str, classes: int = 3, **values: Any) -> Any:
    (record,) = [record for record in segacc_losses() if record.name == name]
    assert isinstance(record, Loss)
    return record.build(decode(record.options, values, f"--loss {name}"), facts(classes))


def cross_entropy(**values: Any) -> Any:
    return loss_of("cross_entropy", 5, **values)


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
        ({"class_weights": "0/0"}, "--loss: class_weights: no weight is above 0."),
        (
            {"class_weights": "inf/1"},
            "--loss: \"class_weights\" is 'inf', expected list of number >= 0: "
            "input should be a finite number.",
        ),
    ],
)
def test_options_out_of_range(values: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as error:
        decode(CrossEntropyOptions, values, "--loss")
    assert str(error.value) == message


def test_class_weights_are_torchs_weighted_mean() -> None:
    weights, generator = (0.5, 1.0, 4.0), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator)
    labels[0, :3] = 255
    loss = loss_of("cross_entropy", class_weights=weights)
    full = F.interpolate(logits, size=(16, 16), mode="bilinear", align_corners=False)
    wanted = F.cross_entropy(full, labels, weight=torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(loss.sum(logits, labels) / loss.count(labels), wanted)


def test_class_weights_must_be_one_for_each_class() -> None:
    with pytest.raises(OptionError) as error:
        loss_of("cross_entropy", class_weights=(1.0, 2.0))
    assert str(error.value) == (
        "--loss cross_entropy: class_weights has 2 numbers, the data set 3 classes: c0, c1, c2."
    )


def test_class_weights_of_the_run_are_those_of_the_option() -> None:
    weights, generator = (0.5, 1.0, 4.0), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator)
    record = next(record for record in segacc_losses() if record.name == "cross_entropy")
    asked = record.build(CrossEntropyOptions(), facts(3, class_weights=weights))
    option = loss_of("cross_entropy", class_weights=weights)
    assert record.class_weighted
    assert asked.count(labels) == option.count(labels)
    assert asked.sum(logits, labels) == option.sum(logits, labels)
    assert asked.sum(logits, labels) != loss_of("cross_entropy").sum(logits, labels)


def test_class_weights_are_given_once() -> None:
    with pytest.raises(OptionError) as error:
        options = CrossEntropyOptions(class_weights=(1.0, 1.0, 2.0))
        CrossEntropy(options, facts(3, class_weights=(1.0, 1.0, 1.0)))
    assert str(error.value) == (
        "--loss cross_entropy: class_weights is given here and as --class-weights; give one of "
        "them."
    )


def test_dice_heeds_no_class_weights() -> None:
    record = next(record for record in segacc_losses() if record.name == "dice")
    assert not record.class_weighted


def test_dice_is_its_definition_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 5, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 2, (3, 5, 7), generator=generator)  # class 2 is nowhere
    labels[0, 1], labels[2] = 255, 255
    loss, wanted, pairs = loss_of("dice", weight=2.0), 0.0, 0
    chances = logits.detach().softmax(1)
    for chance, label in zip(chances, labels, strict=True):
        for k in range(3):
            truth = [float(label[y, x] == k) for y in range(5) for x in range(7)]
            seen = [float(label[y, x] != 255) for y in range(5) for x in range(7)]
            if not sum(truth):
                continue
            p = [float(chance[k, y, x]) for y in range(5) for x in range(7)]
            both = sum(a * b for a, b in zip(p, truth, strict=True))
            all_ = sum(a * b for a, b in zip(p, seen, strict=True)) + sum(truth)
            wanted, pairs = wanted + 1 - 2 * both / all_, pairs + 1
    total = loss.sum(logits, labels)
    assert total.item() == pytest.approx(2 * wanted, rel=1e-5)
    assert loss.count(labels).item() == pairs == 4
    total.backward()
    assert logits.grad is not None and logits.grad[2].eq(0).all() and logits.grad[0].ne(0).any()


def test_dice_at_another_resolution_is_that_of_resized_logits() -> None:
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 9, 9))
    labels[0, :2] = 255
    full = F.interpolate(logits.detach().float(), size=(9, 9), mode="bilinear")
    loss = loss_of("dice")
    torch.testing.assert_close(loss.sum(logits, labels), loss.sum(full, labels))
