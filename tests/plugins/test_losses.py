"""All built-in losses: sums and counts that do not depend on the cut, gradients, options."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_tools import facts
from loss_tools import RECORDS, draw, loss_of, sure
from segacc.errors import OptionError
from segacc.hookspecs import Chosen, Loss, LossOptions
from segacc.settings.options import decode
from segacc.training.setup import build_term

VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("bce", {"pos_weight": "3", "label_smoothing": "0.1"}),
    ("boundary", {"weight": "1"}),
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": "0.2"}),
    ("dice", {}),
    ("focal", {}),
    ("focal", {"gamma": "0.5"}),
    ("jaccard", {}),
    ("lovasz", {}),
    ("ohem", {}),
    ("ohem", {"thresh": "0", "min_kept": "0.4"}),
    ("tversky", {"alpha": "0.2", "beta": "1.5"}),
)
each = pytest.mark.parametrize(
    ("name", "values"), VARIANTS, ids=lambda value: value if isinstance(value, str) else str(value)
)
each_name = pytest.mark.parametrize("name", RECORDS)


def classes_of(name: str, most: int = 5) -> int:
    return 2 if name == "bce" else most


def test_every_built_in_loss_is_tried_here() -> None:
    assert {name for name, _ in VARIANTS} == set(RECORDS)
    class_weighted = {name for name, record in RECORDS.items() if record.class_weighted}
    assert class_weighted == {"cross_entropy", "focal", "ohem"}


# -------------------------------------------------------------------------------------- the cut


@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (4, 1, 1), (1,) * 6], ids=str)
@each
def test_sum_count_and_gradient_do_not_depend_on_the_cut(
    name: str, values: dict[str, str], sizes: tuple[int, ...]
) -> None:
    classes = classes_of(name)
    logits, labels = draw((6, classes, 6, 7))
    loss = loss_of(name, classes, **values)
    whole = logits.clone().requires_grad_()
    total, count = loss.sum(whole, labels), loss.count(labels)
    (total / count).backward()
    cut = logits.clone().requires_grad_()
    parts = list(zip(cut.split(sizes), labels.split(sizes), strict=True))
    assert sum(loss.count(label) for _, label in parts) == count > 0
    sums = [loss.sum(part, label) for part, label in parts]
    torch.testing.assert_close(sum(sums), total, rtol=1e-6, atol=0)
    for one in sums:
        (one / count).backward()
    torch.testing.assert_close(cut.grad, whole.grad, rtol=1e-5, atol=1e-9)


@each
def test_memory_holds_few_images_at_full_size(
    name: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segacc.kernels import resize as resizing

    classes = classes_of(name)
    logits, labels = draw((6, classes, 6, 7))
    loss = loss_of(name, classes, **values)
    wanted = loss.sum(logits, labels)
    monkeypatch.setattr(resizing, "CHUNK", 2 * classes * labels[0].numel())
    sizes, resize = [], resizing.resize

    def measured(*given: Any) -> Tensor:
        sizes.append(len(full := resize(*given)))
        return full

    monkeypatch.setattr(resizing, "resize", measured)
    torch.testing.assert_close(loss.sum(logits, labels), wanted, rtol=1e-6, atol=0)
    assert sizes == [2, 2, 2]


# ------------------------------------------------------------------------- gradients and precision


@pytest.mark.parametrize("size", [(3, 3), (6, 5)], ids=str)
@each
def test_gradients_are_those_of_the_value_in_float64(
    name: str, values: dict[str, str], size: tuple[int, int]
) -> None:
    classes = classes_of(name, 3)
    logits, labels = draw((2, classes, 3, 3), size, ignored=(0.2, 1.1))
    loss, leaf = loss_of(name, classes, **values), logits.double().requires_grad_()
    assert loss.sum(leaf, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda given: loss.sum(given, labels), (leaf,))


@each
def test_half_precision_and_autocast_are_computed_in_float32(
    name: str, values: dict[str, str]
) -> None:
    classes = classes_of(name)
    logits, labels = draw((6, classes, 6, 7))
    loss, half = loss_of(name, classes, **values), logits.bfloat16()
    wanted = loss.sum(half.float().requires_grad_(), labels)
    leaf = half.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = loss.sum(leaf, labels)
    assert total.dtype == torch.float32 and torch.equal(total, wanted)
    total.backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16
    exact = loss.sum(half.double(), labels)
    torch.testing.assert_close(total.double(), exact, rtol=1e-5, atol=0)


@each
def test_an_all_ignored_batch_is_zero_with_a_zero_gradient(
    name: str, values: dict[str, str]
) -> None:
    classes = classes_of(name)
    logits, labels = draw((6, classes, 6, 7))
    nothing = torch.full_like(labels, 255)
    loss, leaf = loss_of(name, classes, **values), logits.clone().requires_grad_()
    total = loss.sum(leaf, nothing)
    total.backward()
    assert (total.item(), loss.count(nothing).item()) == (0.0, 0.0)
    assert torch.equal(leaf.grad, torch.zeros_like(logits))


@each
def test_logits_that_are_sure_give_finite_gradients(name: str, values: dict[str, str]) -> None:
    classes = classes_of(name)
    _, labels = draw((6, classes, 21, 26))
    loss = loss_of(name, classes, **values)
    for sign in (-1e4, 1e4):
        leaf = (sign * sure(labels, classes, by=1.0)).requires_grad_()
        total = loss.sum(leaf, labels)
        total.backward()
        assert torch.isfinite(total) and torch.isfinite(leaf.grad).all()


# --------------------------------------------------------------------------------------- options


@each_name
def test_weight_is_a_factor_of_the_sum_alone(name: str) -> None:
    classes = classes_of(name)
    logits, labels = draw((6, classes, 6, 7))
    one, more = loss_of(name, classes, weight="1"), loss_of(name, classes, weight="2.5")
    torch.testing.assert_close(more.sum(logits, labels), 2.5 * one.sum(logits, labels))
    assert more.count(labels) == one.count(labels)
    assert one.count(labels).dtype == torch.float32 and one.count(labels).ndim == 0


def test_weight_is_applied_once() -> None:
    """By the run for LossOptions, to the last bit; by the loss itself for other options."""

    @dataclass(frozen=True)
    class Own:
        weight: float = 3.0

    logits, labels = draw()
    bare = RECORDS["dice"].build(LossOptions(), facts(5))
    total = bare.sum(logits, labels)
    for options, factor in ((LossOptions(weight=0.3), 0.3), (Own(), 1)):
        record = Loss(name="loss", summary="s", options=type(options), build=lambda *_: bare)
        found = build_term(Chosen(record, options, "loss"), facts(5))
        assert torch.equal(found.sum(logits, labels), factor * total)
        assert torch.equal(found.count(labels), bare.count(labels))


@each_name
@pytest.mark.parametrize(
    ("weight", "kind"), [("inf", "finite number"), ("nan", "finite number"), ("0", "number")]
)
def test_a_weight_that_is_none(name: str, weight: str, kind: str) -> None:
    with pytest.raises(OptionError) as error:
        decode(RECORDS[name].options, {"weight": weight}, "--loss")
    assert str(error.value) == f"--loss: weight: expected a {kind} > 0; found '{weight}'."


def test_another_resolution_is_that_of_resized_logits() -> None:
    for name, values in VARIANTS:
        classes = classes_of(name)
        logits, labels = draw((6, classes, 6, 7))
        full = F.interpolate(logits, size=(21, 26), mode="bilinear", align_corners=False)
        loss = loss_of(name, classes, **values)
        torch.testing.assert_close(loss.sum(logits, labels), loss.sum(full, labels))
