"""Losses of regions, against segmentation_models_pytorch and their definitions.

Theirs take a class's region over a whole batch, ours in each image; so one image is compared. Their
mean is over all classes, those that are not in the label with 0; ours over those in the label.
"""

from typing import Any

import numpy as np
import pytest
import torch
from segmentation_models_pytorch import losses as smp
from torch import Tensor

from loss_tools import draw, loss_of, mean_of
from segacc.kernels.region import jaccard_gains, present_classes

MULTICLASS: dict[str, Any] = {"mode": "multiclass", "ignore_index": 255}
THEIRS = {
    "dice": (smp.DiceLoss(**MULTICLASS), {}),
    "jaccard": (smp.JaccardLoss(**MULTICLASS), {}),
    "tversky": (
        smp.TverskyLoss(alpha=0.3, beta=0.9, **MULTICLASS),
        {"alpha": "0.3", "beta": "0.9"},
    ),
}


def one_image(seed: int, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    """Draw logits (1, 5, 13, 17) and a label (1, 13, 17) without class 3."""
    logits, labels = draw((1, 5, 13, 17), (13, 17), seed=seed, ignored=(ignored,))
    return logits, labels.where(labels != 3, 1)


def both(function: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = function(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize("ignored", [0.0, 0.4])
@pytest.mark.parametrize("name", THEIRS)
def test_smps_value_and_gradient_for_one_image(name: str, ignored: float) -> None:
    theirs, values = THEIRS[name]
    loss = loss_of(name, 5, **values)
    for seed in range(3):
        logits, label = one_image(seed, ignored)
        mine, gradient = both(lambda x: mean_of(loss, x, label), logits)  # noqa: B023
        value, wanted = both(lambda x: theirs(x, label), logits)  # noqa: B023
        assert loss.count(label).item() == 4
        torch.testing.assert_close(mine, value * 5 / 4, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, wanted * 5 / 4, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_lovasz_is_that_of_its_author(ignored: float) -> None:
    """segmentation_models_pytorch has the author's code, which leaves absent classes out, too."""
    theirs = smp.LovaszLoss(per_image=True, **MULTICLASS)
    for seed in range(3):
        logits, label = one_image(seed, ignored)
        loss = loss_of("lovasz", 5)
        mine, gradient = both(lambda x: mean_of(loss, x, label), logits)  # noqa: B023
        value, wanted = both(lambda x: theirs(x, label), logits)  # noqa: B023
        torch.testing.assert_close(mine, value, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


def test_lovasz_of_whole_errors_is_the_jaccard_loss() -> None:
    """It extends that set function: at errors of 0 and 1 it is its value (Berman et al. 2018)."""
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        truth, guess = (torch.rand(2, 40, generator=random) < 0.4).unbind()
        truth[0] = True
        errors = (truth != guess).double()
        value = (errors * jaccard_gains(errors, truth)).sum()
        union, overlap = (truth | guess).sum(), (truth & guess).sum()
        torch.testing.assert_close(value, 1 - overlap.double() / union)


def test_lovasz_keeps_its_precision_over_many_pixels() -> None:
    random = np.random.default_rng(0)
    errors, inside = random.random(300_000), random.random(300_000) < 0.3
    hit = inside[np.argsort(-errors)]
    loss = 1 - (hit.sum() - hit.cumsum()) / (hit.sum() + (~hit).cumsum())
    wanted = np.empty_like(errors)
    wanted[np.argsort(-errors)] = np.diff(loss, prepend=0)
    single = torch.from_numpy(errors).float()
    ranked = np.argsort(-single.numpy(), kind="stable")
    distinct = np.diff(single.numpy()[ranked]) < 0  # float32 makes some errors equal
    gains = jaccard_gains(single, torch.from_numpy(inside)).numpy()
    alone = ranked[1:-1][distinct[:-1] & distinct[1:]]
    assert len(alone) > 250_000
    np.testing.assert_allclose(gains[alone], wanted[alone], rtol=1e-5)


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
            overlap = sum(a * b for a, b in zip(p, truth, strict=True))
            all_ = sum(a * b for a, b in zip(p, seen, strict=True)) + sum(truth)
            wanted, pairs = wanted + 1 - 2 * overlap / all_, pairs + 1
    total = loss.sum(logits, labels)
    assert total.item() == pytest.approx(2 * wanted, rel=1e-5)
    assert loss.count(labels).item() == pairs == 4
    total.backward()
    assert logits.grad is not None and logits.grad[2].eq(0).all() and logits.grad[0].ne(0).any()


def test_a_focal_tversky_loss_of_a_perfect_prediction_has_a_finite_gradient() -> None:
    _, label = one_image(0)
    logits = 100.0 * torch.nn.functional.one_hot(label.where(label != 255, 0), 5).movedim(3, 1)
    loss = loss_of("tversky", 5, gamma="1.3333")
    value, gradient = both(lambda x: loss.sum(x, label), logits)
    assert 0 <= value < 1e-3 and gradient.isfinite().all()
    assert loss_of("tversky", 5, gamma="1").sum(logits, label) == 0


def test_tversky_at_equal_costs_is_dice_and_jaccard() -> None:
    logits, labels = draw()
    for name, cost in (("dice", 0.5), ("jaccard", 1.0)):
        tversky = loss_of("tversky", 5, alpha=cost, beta=cost)
        assert torch.equal(tversky.sum(logits, labels), loss_of(name, 5).sum(logits, labels))


def test_classes_that_are_present() -> None:
    labels = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [255, 255]]])
    assert present_classes(labels, 3).tolist() == [[True, False, True], [False] * 3]
