"""The boundary loss, against scipy's distances and the definition of its paper."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loss_tools import draw, loss_of, sure
from segacc.kernels import boundary
from segacc.kernels.boundary import distances

ndimage = pytest.importorskip("scipy.ndimage", reason="the distances are compared with scipy's")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (30, 7), (7, 30), (64, 65)], ids=str)
def test_distances_are_scipys(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "BLOCK", 10 * min(size))  # several parts
    random = np.random.default_rng(size)
    inside = random.random((4, *size)) < np.array([0.5, 0.02, 0.0, 1.0])[:, None, None]
    inside[:, random.integers(size[0]), random.integers(size[1])] = True
    wanted = np.stack([ndimage.distance_transform_edt(~one) for one in inside])
    np.testing.assert_allclose(distances(torch.from_numpy(inside)), wanted, rtol=1e-6)


def signed_distances(label: Any, k: int) -> Any:
    """Return phi (H, W) of one class as the paper's code has it, ignored pixels on no side."""
    inside, others = label == k, (label != k) & (label != 255)
    outside_in = ndimage.distance_transform_edt(~inside)
    inside_out = ndimage.distance_transform_edt(~others)
    return outside_in * ~inside - (inside_out - 1) * inside


def paper(logits: Tensor, label: Tensor, *, whole: bool) -> Tensor:
    """Sum over classes the mean of phi p, or with `whole` of phi (p - y), of one image."""
    chances, valid = logits.softmax(0), label != 255
    total = chances.new_zeros(())
    for k in label[valid].unique().tolist():
        phi = torch.from_numpy(signed_distances(label.numpy(), k)).to(chances.dtype)
        truth = (label == k).to(phi.dtype) * whole
        total = total + (phi * (chances[k] - truth))[valid].mean()
    return total


def blocks(seed: int) -> Tensor:
    """Draw a label (12, 15) of blocks of the classes 0, 1 and 3, some ignored."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.tensor([0, 1, 3, 255])[torch.randint(4, (4, 5), generator=random)]
    return kinds.repeat_interleave(3, 0).repeat_interleave(3, 1)


def test_value_and_gradient_are_the_papers() -> None:
    loss = loss_of("boundary", 4, weight=1)
    labels = torch.stack([blocks(seed) for seed in range(4)])
    logits = 3 * torch.randn(4, 4, 12, 15, generator=torch.Generator().manual_seed(0))
    leaf, plain = (logits.double().requires_grad_() for _ in range(2))
    total = loss.sum(leaf, labels)
    pairs = list(zip(plain, labels, strict=True))
    wanted = sum(paper(*pair, whole=True) for pair in pairs)
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=0)
    total.backward()
    sum(paper(*pair, whole=False) for pair in pairs).backward()  # as the paper has it
    torch.testing.assert_close(leaf.grad, plain.grad, rtol=1e-6, atol=1e-9)
    assert loss.count(labels).item() == sum(
        len(set(label.flatten().tolist()) - {255}) for label in labels
    )


def test_an_image_of_one_class_has_no_boundary() -> None:
    logits, labels = draw((3, 3, 8, 8), (8, 8), ignored=(0.2, 0.2, 1.1))
    labels[1] = labels[1].where(labels[1] == 255, 2)
    loss, leaf = loss_of("boundary", weight=1), logits.clone().requires_grad_()
    total = loss.sum(leaf, labels)
    assert loss.count(labels).item() == 3
    torch.testing.assert_close(total, loss.sum(logits[:1], labels[:1]))
    total.backward()
    assert leaf.grad[0].ne(0).any() and leaf.grad[1:].eq(0).all()


def test_a_wrong_pixel_costs_its_distance() -> None:
    label = torch.zeros(1, 1, 10, dtype=torch.int64)
    label[..., 5:] = 1
    for place, distance in ((0, 5 + 4), (4, 1 + 0), (5, 1 + 0), (9, 5 + 4)):
        guess = label.clone()
        guess[..., place] = 1 - guess[..., place]
        total = loss_of("boundary", 2, weight=1).sum(sure(guess, 2, by=100.0), label)
        assert total.item() == pytest.approx(distance / 10)


def test_its_weight_is_that_of_the_paper_unless_told() -> None:
    logits, labels = draw((2, 3, 8, 8), (8, 8))
    plain = loss_of("boundary", weight=1).sum(logits, labels)
    torch.testing.assert_close(loss_of("boundary").sum(logits, labels), 0.01 * plain)
