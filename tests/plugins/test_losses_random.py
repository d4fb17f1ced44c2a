"""All built-in losses over random batches: shapes, classes, absent ones, ignored images."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loss_tools import RECORDS, loss_of, mean_of, sure

each_name = pytest.mark.parametrize("name", RECORDS)
few = settings(max_examples=25, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Case:
    """A random batch: sizes, classes, absent classes, ignored pixels and images."""

    logits: Tensor
    labels: Tensor

    @property
    def classes(self) -> int:
        return self.logits.shape[1]


@st.composite
def cases(choose: Any, *, classes: int = 0, resized: bool = True) -> Case:
    """Draw a batch in float64; labels may leave classes out, images may be all ignored."""
    images, height, width = (choose(st.integers(1, most)) for most in (3, 9, 9))
    num_classes = classes or choose(st.integers(2, 6))
    h, w = (choose(st.integers(1, 9)) for _ in "hw") if resized else (height, width)
    random = torch.Generator().manual_seed(choose(st.integers(0, 2**31)))
    scale = choose(st.sampled_from([0.1, 3.0, 50.0]))
    logits = scale * torch.randn(images, num_classes, h, w, generator=random, dtype=torch.float64)
    known = choose(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=6, unique=True))
    places = torch.randint(len(known), (images, height, width), generator=random)
    labels = torch.tensor(known)[places]
    shares = choose(st.lists(st.sampled_from([0.0, 0.3, 1.1]), min_size=images, max_size=images))
    ignored = torch.tensor(shares)[:, None, None]
    labels[torch.rand(labels.shape, generator=random) < ignored] = 255
    return Case(logits, labels)


def any_case(name: str, **more: Any) -> Any:
    return cases(classes=2 if name == "bce" else 0, **more)


@each_name
@few
@given(st.data())
def test_bounds(name: str, data: Any) -> None:
    case = data.draw(any_case(name))
    loss = loss_of(name, case.classes, weight="1")
    total, count = loss.sum(case.logits, case.labels), loss.count(case.labels)
    assert torch.isfinite(total) and total > -1e-9 and count >= 0
    assert count > 0 or total == 0
    if name in ("dice", "jaccard", "tversky", "lovasz"):
        assert total <= count + 1e-9


@each_name
@few
@given(st.data())
def test_ignored_pixels_get_no_gradient_and_change_nothing(name: str, data: Any) -> None:
    case = data.draw(any_case(name, resized=False))
    loss, leaf = loss_of(name, case.classes), case.logits.clone().requires_grad_()
    total = loss.sum(leaf, case.labels)
    total.backward()
    ignored = (case.labels == 255)[:, None].expand_as(leaf)
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    assert (leaf.grad[ignored] == 0).all()
    other = case.logits.where(~ignored, 7 - case.logits.flip(1))
    torch.testing.assert_close(loss.sum(other, case.labels), total, rtol=1e-12, atol=1e-12)


@each_name
@few
@given(st.data())
def test_the_order_of_images_does_not_matter(name: str, data: Any) -> None:
    case = data.draw(any_case(name))
    loss, order = loss_of(name, case.classes), data.draw(st.permutations(range(len(case.labels))))
    total = loss.sum(case.logits, case.labels)
    moved = loss.sum(case.logits[order], case.labels[order])
    torch.testing.assert_close(moved, total, rtol=1e-12, atol=1e-12)
    assert loss.count(case.labels[order]) == loss.count(case.labels)


@pytest.mark.parametrize("name", sorted(set(RECORDS) - {"bce"}))
@few
@given(st.data())
def test_the_order_of_classes_does_not_matter(name: str, data: Any) -> None:
    case = data.draw(cases())
    loss, order = loss_of(name, case.classes), data.draw(st.permutations(range(case.classes)))
    back = torch.tensor(order).argsort()
    labels = case.labels.where(case.labels == 255, back[case.labels.where(case.labels != 255, 0)])
    total = loss.sum(case.logits, case.labels)
    moved = loss.sum(case.logits[:, order], labels)
    torch.testing.assert_close(moved, total, rtol=1e-9, atol=1e-12)
    assert loss.count(labels) == loss.count(case.labels)


@pytest.mark.parametrize("name", sorted(set(RECORDS) - {"boundary"}))
@few
@given(st.data())
def test_the_order_of_pixels_does_not_matter(name: str, data: Any) -> None:
    case = data.draw(any_case(name, resized=False))
    loss, pixels = loss_of(name, case.classes), case.labels[0].numel()
    order = data.draw(st.permutations(range(pixels)))
    shape = case.logits.shape
    moved = case.logits.flatten(2)[..., order].view(shape)
    labels = case.labels.flatten(1)[:, order].view(case.labels.shape)
    total = loss.sum(case.logits, case.labels)
    torch.testing.assert_close(loss.sum(moved, labels), total, rtol=1e-9, atol=1e-12)


@each_name
@few
@given(st.data())
def test_a_perfect_prediction_costs_nothing(name: str, data: Any) -> None:
    case = data.draw(any_case(name, resized=False))
    loss = loss_of(name, case.classes)
    total = loss.sum(sure(case.labels, case.classes, by=200.0).double(), case.labels)
    assert total.item() == pytest.approx(0, abs=1e-9)


@few
@given(cases())
def test_losses_stand_to_each_other_as_their_definitions_say(case: Case) -> None:
    if (case.labels == 255).all():
        return
    sums = {
        name: loss_of(name, case.classes).sum(case.logits, case.labels)
        for name in ("cross_entropy", "focal", "dice", "jaccard")
    }
    assert sums["focal"] <= sums["cross_entropy"]
    assert sums["dice"] <= sums["jaccard"] + 1e-9
    for logits, labels in zip(case.logits.split(1), case.labels.split(1), strict=True):
        if (labels != 255).any():
            hard = mean_of(loss_of("ohem", case.classes), logits, labels)
            assert hard >= mean_of(loss_of("cross_entropy", case.classes), logits, labels) - 1e-9
