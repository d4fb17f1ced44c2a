"""The losses of mask classification: transformers' own, exact however a batch is cut."""

import importlib
import weakref
from collections.abc import Iterator
from dataclasses import astuple, replace
from threading import Event, current_thread
from typing import Any

import pytest
import torch
import transformers
from packaging import version
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.models.mask2former import modeling_mask2former as mask2former
from transformers.models.maskformer import modeling_maskformer as maskformer

from data_tools import facts
from segacc.contracts import IGNORE
from segacc.errors import OptionError
from segacc.hookspecs import Architecture
from segacc.kernels.masks import PointLoss, Prediction, SetLoss, Targets, targets_of
from segacc.model.mask_classification import equal_windows, mask_probabilities

MODULES = ("mask2former", "oneformer", "eomt")
ARCHITECTURES: dict[str, Architecture] = {
    record.name: record
    for module in MODULES
    for record in importlib.import_module(
        f"segacc.plugins.architectures.{module}"
    ).segacc_architectures()
}
each = pytest.mark.parametrize("name", ARCHITECTURES)


def build(name: str, num_classes: int = 4, *, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    record = ARCHITECTURES[name]
    chosen = replace(record.tiny(), **options)
    return record.build(chosen, facts(num_classes, crop_size=(64, 64)))


def noise(count: int) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def blocks(count: int, *, ignored: bool = True) -> Tensor:
    """Draw labels (N, 64, 64) of blocks of 16 pixels, 4 classes, some of them ignored."""
    random = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 4, (count, 4, 4), generator=random)
    if ignored:
        labels[torch.empty(labels.shape).uniform_(generator=random) < 0.2] = IGNORE
    return labels.repeat_interleave(16, 1).repeat_interleave(16, 2)


def results(terms: Any, queries: Any, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Ask as the loop does: (sum, count) of each term, one after the other."""
    counts = {name: term.count(labels) for name, term in terms.items()}
    return {name: (term.sum(queries, labels), counts[name]) for name, term in terms.items()}


@pytest.fixture
def fixed_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every mask the same points, whatever the batch."""

    draw = torch.rand

    def rand(*size: Any, device: Any = None) -> Tensor:
        if len(size) < 3:  # transformers before 5.22 draws a number for each layer, too
            return draw(*size, device=device)
        random = torch.Generator().manual_seed(size[1])
        points = torch.empty(size[1:]).uniform_(generator=random)
        return points.expand(size).clone().to(device)

    monkeypatch.setattr(torch, "rand", rand)
    yield


# -------------------------------------------------------------------------- as transformers has it


@each
def test_one_image_has_the_loss_of_transformers(name: str, fixed_points: None) -> None:
    """MaskFormer's in evaluation: transformers has no working loss for layers before the last."""
    if name == "oneformer" and version.parse(transformers.__version__) < version.parse("5.22"):
        pytest.skip("transformers before 5.22 has no loss of OneFormer without texts")
    model = build(name).train(name != "maskformer")
    images, labels = noise(1), blocks(1, ignored=False)
    classes = labels.unique()
    masks = (labels[0] == classes[:, None, None]).float()
    task = {"task_inputs": model.get_buffer("task")} if name == "oneformer" else {}
    theirs = model.network(
        pixel_values=images, mask_labels=[masks], class_labels=[classes], **task
    ).loss.squeeze()

    found = results(model.losses(facts(4)), model(images).queries, labels)
    assert list(found) == ["class", "mask", "dice"]
    ours = torch.stack([total / count for total, count in found.values()]).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@each
def test_counts_are_what_transformers_divides_by(name: str) -> None:
    terms = build(name, num_queries=6, no_object_weight=0.25).losses(facts(4))
    labels = torch.full((3, 64, 64), IGNORE)
    labels[0, :8], labels[0, 8:16], labels[1, 0, 0] = 1, 3, 2
    assert terms["mask"].count(labels).item() == 3  # two classes, one, none
    assert terms["dice"].count(labels).item() == 3
    assert terms["class"].count(labels).item() == pytest.approx(2 + 4 * 0.25 + 1 + 5 * 0.25)


def their_class_loss(
    model: Any, weights: tuple[float, ...], found: Prediction, labels: Tensor
) -> float:
    """Compute transformers' class loss (weight 1), with weights of classes in its buffer."""
    criterion = model.network.criterion
    criterion.empty_weight = torch.tensor([*weights, criterion.eos_coef])
    classes = [one.unique() for one in labels]
    masks = [(label == k[:, None, None]).float() for label, k in zip(labels, classes, strict=True)]
    pairs = criterion.matcher(found.masks, found.classes, masks, classes)
    loss = criterion.loss_labels(found.classes, classes, pairs)
    return loss["loss_cross_entropy"].item()


@pytest.mark.parametrize("weights", [(0.25, 3.0, 1.0, 0.75), (0.0, 0.0, 2.0, 1.0)])
@each
def test_class_weights_are_those_of_transformers_cross_entropy(
    name: str, weights: tuple[float, ...], fixed_points: None
) -> None:
    """Beside that of "no object"; transformers divides by the sum over the whole batch, too."""
    model = build(name, no_object_weight=0.3).train()
    labels, images = blocks(3, ignored=False), noise(3)
    terms = model.losses(facts(4, class_weights=weights))
    queries = model(images).queries
    found = results(terms, queries[:1], labels)
    ours = (found["class"][0] / found["class"][1]).item() / terms["class"].losses.weights["class"]
    theirs = their_class_loss(model, weights, queries[0], labels)
    assert ours == pytest.approx(theirs, rel=1e-6)
    plain = results(model.losses(facts(4)), queries[:1], labels)
    assert (plain["class"][0] / plain["class"][1]).item() != pytest.approx(theirs, rel=1e-3)
    for key in ("mask", "dice"):
        assert torch.equal(plain[key][0], found[key][0]), "the matching is the same"


def test_class_weights_of_more_classes_than_queries_count_by_their_mean() -> None:
    losses = PointLoss(
        build("mask2former").network, num_queries=2, class_weights=(1.0, 2.0, 3.0, 9.0)
    )
    labels = torch.arange(3).repeat(1, 4, 1)  # classes 0, 1 and 2 of one image
    assert losses.count("class", labels).item() == pytest.approx(2 * 2.0)


def test_the_options_weigh_the_losses() -> None:
    plain, heavy = build("mask2former"), build("mask2former", mask_weight=50.0, class_weight=2.0)
    heavy.load_state_dict(plain.state_dict())
    labels, found = blocks(1), []
    for model in (plain, heavy):
        model.network.criterion.matcher.cost_mask = 5.0  # the same matching for both
        torch.manual_seed(0)
        found.append(results(model.losses(facts(4)), model.train()(noise(1)).queries, labels))
    torch.testing.assert_close(found[1]["mask"][0], 10 * found[0]["mask"][0])
    torch.testing.assert_close(found[1]["dice"][0], found[0]["dice"][0])


# -------------------------------------------------------------------------------------- exactness


def gradients(model: Any, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Do what the loop does with micro-batches; return the losses and the gradient."""
    model.zero_grad()
    terms = model.losses(facts(4, class_weights=(0.5, 2.0, 1.0, 0.25)))
    counts = torch.stack([sum(t.count(labels) for _, labels in parts) for t in terms.values()])
    losses = torch.zeros(len(terms))
    for images, labels in parts:
        queries = model(images).queries
        sums = torch.stack([term.sum(queries, labels) for term in terms.values()]) / counts
        sums.sum().backward()
        losses += sums.detach()
    named = model.named_parameters()
    return losses, {name: p.grad.clone() for name, p in named if p.grad is not None}


@each
@pytest.mark.usefixtures("fixed_points")
def test_a_batch_may_be_cut_anyhow(name: str) -> None:
    model = build(name).train().double()  # so that rounding decides no matching
    images, labels = noise(4).double(), blocks(4)
    labels[1] = IGNORE
    whole, gradient = gradients(model, [(images, labels)])
    parts = [(images[:1], labels[:1]), (images[1:2], labels[1:2]), (images[2:], labels[2:])]
    cut, other = gradients(model, parts)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)
    assert gradient.keys() == other.keys()
    largest = max(one.abs().max().item() for one in gradient.values())
    for key, one in gradient.items():
        torch.testing.assert_close(other[key], one, rtol=0, atol=1e-12 * largest, msg=key)


def test_the_terms_share_one_matching() -> None:
    model = build("mask2former").train()
    terms, queries, labels = model.losses(facts(4)), model(noise(2)).queries, blocks(2)
    state = torch.get_rng_state()
    first = terms["class"].sum(queries, labels)
    drawn = torch.get_rng_state()
    assert not torch.equal(drawn, state), "points are random"
    terms["mask"].sum(queries, labels), terms["dice"].sum(queries, labels)
    assert torch.equal(torch.get_rng_state(), drawn)
    kept = weakref.ref(first)
    del first
    assert kept() is None, "a sum that was returned would keep the activations of its forward pass"
    terms["class"].sum(model(noise(2)).queries, labels)
    assert not torch.equal(torch.get_rng_state(), drawn)


# --------------------------------------------------------------------------------------- matching


LOSSES = pytest.mark.parametrize("name", ["mask2former", "maskformer"])


def one_layer(name: str) -> tuple[SetLoss, Prediction, list[Targets]]:
    """Return a loss, the prediction of one layer, and targets with ignored pixels."""
    model = build(name)
    losses = model.set_loss(model.network, num_queries=6)
    draw = torch.Generator().manual_seed(3)
    classes, masks = torch.randn(3, 6, 5, generator=draw), torch.randn(3, 6, 16, 16, generator=draw)
    return losses, Prediction(classes, masks), targets_of(blocks(3), 4)


@LOSSES
@pytest.mark.usefixtures("fixed_points")
def test_costs_are_those_of_transformers_at_valid_pixels(name: str) -> None:
    losses, layer, targets = one_layer(name)
    costs = losses.costs(layer, targets).split([6 * len(one.classes) for one in targets])
    pixel_cost = {
        "mask2former": mask2former.pair_wise_sigmoid_cross_entropy_loss,
        "maskformer": maskformer.pair_wise_sigmoid_focal_loss,
    }[name]
    for classes, masks, one, ours in zip(*layer, targets, costs, strict=True):
        logits, wanted, valid = losses.matching_pixels(masks, one)
        assert 0 < valid.sum() < len(valid)
        logits, wanted = logits[:, valid], wanted[:, valid]
        theirs = (
            losses.matcher.cost_mask * pixel_cost(logits, wanted)
            + losses.matcher.cost_dice * mask2former.pair_wise_dice_loss(logits, wanted)
            - losses.matcher.cost_class * classes.softmax(-1)[:, one.classes]
        )
        torch.testing.assert_close(ours.view_as(theirs), theirs)


@LOSSES
def test_costs_wait_for_no_value_on_the_device(name: str) -> None:
    """Tensors on the meta device have none: any operation that asked for one would fail."""
    losses, layer, targets = one_layer(name)
    layer = Prediction(*(one.to("meta") for one in layer))
    elsewhere = [Targets(*(one.to("meta") for one in astuple(target))) for target in targets]
    assert losses.costs(layer, elsewhere).shape == (sum(6 * len(one.classes) for one in targets),)


@pytest.mark.usefixtures("fixed_points")
def test_layers_are_matched_while_the_device_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the three layers is matched after the costs of the last one were asked for."""
    losses, layer, targets = one_layer("mask2former")
    computed, last, threads = [], Event(), set()

    def costs(layer: Prediction, targets: list[Targets]) -> Tensor:
        found = type(losses).costs(losses, layer, targets)
        computed.append(layer)
        if len(computed) == 3:
            last.set()
        return found

    def assignment(cost: Any) -> Any:
        assert last.wait(20), "the costs of the next layers waited for the matching of this one"
        threads.add(current_thread())
        return linear_sum_assignment(cost)

    monkeypatch.setattr(losses, "costs", costs)
    monkeypatch.setattr("segacc.kernels.masks.linear_sum_assignment", assignment)
    found = list(losses.match([layer] * 3, targets))
    assert len(threads) == 1 and current_thread() not in threads
    parts = losses.costs(layer, targets).split([6 * len(one.classes) for one in targets])
    for pairs in found:
        for image, part in enumerate(parts):
            mine = pairs.image == image
            rows, columns = linear_sum_assignment(part.view(6, -1).numpy())
            assert pairs.query[mine].tolist() == list(rows)
            assert pairs.target[mine].tolist() == list(columns)


# ---------------------------------------------------------------------------------- ignored pixels


def perfect(labels: Tensor, num_queries: int = 6, *, where_ignored: float = -9.0) -> Prediction:
    """Predict each class's mask at the label's size, and something else where it is ignored."""
    masks = torch.full((len(labels), num_queries, *labels.shape[1:]), -9.0)
    classes = torch.zeros(len(labels), num_queries, 5)
    classes[..., 4] = 9
    for image, label in enumerate(labels):
        for k in range(4):
            masks[image, k] = torch.where(label == k, 9.0, -9.0)
            masks[image, k][label == IGNORE] = where_ignored
            classes[image, k] = 9 * torch.eye(5)[k if (label == k).any() else 4]
    return Prediction(classes.requires_grad_(), masks.requires_grad_())


@each
@pytest.mark.usefixtures("fixed_points")
def test_ignored_pixels_count_for_nothing(name: str) -> None:
    terms, labels = build(name).losses(facts(4)), blocks(3)
    good, other = perfect(labels), perfect(labels, where_ignored=9.0)
    sums = [results(terms, (one,), labels) for one in (good, other)]
    for key in terms:
        ours, theirs = sums[0][key][0], sums[1][key][0]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    sums[1]["mask"][0].backward()
    assert other.masks.grad is not None
    touched = other.masks.grad.abs().sum(1) > 0  # (N, H, W)
    assert touched[labels != IGNORE].any() and not touched[labels == IGNORE].any()


@pytest.mark.usefixtures("fixed_points")
def test_ignored_pixels_do_not_decide_the_matching() -> None:
    """A query that is right where labels are wins over one that is right where they are not."""
    losses = PointLoss(build("mask2former").network, num_queries=2)
    labels = torch.full((1, 64, 64), IGNORE)
    labels[0, :16, :32], labels[0, :16, 32:] = 0, 1
    masks = torch.full((1, 2, 64, 64), -9.0)
    masks[0, 1, :16, :32], masks[0, 0, 16:] = 9, 0
    classes = torch.zeros(1, 2, 5)
    (pairs,) = losses.match([Prediction(classes, masks)], targets_of(labels, 4))
    assert dict(zip(pairs.target.tolist(), pairs.query.tolist(), strict=True)) == {0: 1, 1: 0}


@each
def test_images_without_a_label_have_no_loss(name: str) -> None:
    model = build(name).train()
    terms, labels = model.losses(facts(4)), torch.full((2, 64, 64), IGNORE)
    found = results(terms, model(noise(2)).queries, labels)
    assert all(total.item() == count.item() == 0 for total, count in found.values())
    torch.stack([total for total, _ in found.values()]).sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all((grad == 0).all() for grad in grads)


@each
@pytest.mark.parametrize("case", ["more classes than queries", "one pixel", "a thin line"])
def test_odd_labels_give_finite_numbers(name: str, case: str) -> None:
    model = build(name, num_queries=2 if case.startswith("more") else 6).train()
    labels = blocks(2, ignored=False)
    if not case.startswith("more"):
        labels[0] = IGNORE
        labels[0, 5, 7 if case == "one pixel" else slice(None)] = 3
    found = results(model.losses(facts(4)), model(noise(2)).queries, labels)
    total = torch.stack([total / count for total, count in found.values()]).sum()
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@each
def test_the_loss_is_float32_under_autocast(name: str) -> None:
    model = build(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        queries = model(noise(2)).queries
        found = results(model.losses(facts(4)), queries, blocks(2))
    full = tuple(Prediction(one.classes.float(), one.masks.float()) for one in queries)
    assert queries[0].masks.dtype == torch.bfloat16
    assert all(total.dtype == torch.float32 for total, _ in found.values())
    plain = results(model.losses(facts(4)), full, blocks(2))
    torch.testing.assert_close(found["class"][0], plain["class"][0], rtol=0.1, atol=0)


# -------------------------------------------------------------------------------- EoMT's annealing


def test_annealing_takes_the_masks_off_block_after_block() -> None:
    """The published settings: parts of 7391 steps, four blocks, from COCO's instances."""
    total, starts = 6 * 14782, (14782, 29564, 44346, 59128)
    for block, start in enumerate(starts):
        steps = (0, start, start + 14782 // 2, start + 14782, total - 1)
        found = [mask_probabilities(step, total, equal_windows(4))[block] for step in steps]
        assert found == [1, 1, pytest.approx(0.5**0.9), 0, 0]
    assert mask_probabilities(0, 1, equal_windows(4)) == [1, 1, 1, 1]


def published(start: int, now: int, final: int) -> float:
    """Compute EoMT's `mask_annealing` with steps in place of shares and its power of 0.9."""
    if now < start:
        return 1.0
    return 0.0 if now >= final else float((1 - (now - start) / (final - start)) ** 0.9)


def test_windows_of_ones_own_are_those_of_eomts_authors() -> None:
    """configs/dinov3/ade20k/semantic/eomt_large_512.yaml of tue-mps/eomt: 16 epochs of 1263."""
    total, starts, ends = 16 * 1263, (0, 6520, 9780, 13040), (3000, 9780, 13040, 16300)
    shares = {"annealing_start": (0, 6520 / total), "annealing_end": (3000 / total, 0.5)}
    model = build("eomt_dinov3", **shares).train()
    windows = [(a / total, b / total) for a, b in zip(starts, ends, strict=True)]
    for step in (*range(0, total, 611), *starts, *ends, 2999, 3001):
        wanted = [published(a, step, b) for a, b in zip(starts, ends, strict=True)]
        assert mask_probabilities(step, total, windows) == pytest.approx(wanted, abs=1e-5)
        model.on_step(step, total)
        now = [wanted[0], published(6520, step, total // 2)]
        assert model.network.attn_mask_probs.tolist() == pytest.approx(now, abs=1e-5)


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ({"annealing_start": (0.1,), "annealing_end": ()}, "has 1 numbers and annealing_end 0"),
        ({"annealing_start": (0.5,), "annealing_end": (0.5,)}, "0.5, is not below its end"),
        ({"annealing": False, "annealing_start": (0,), "annealing_end": (1,)}, "is false; leave"),
        ({"annealing_start": (0,), "annealing_end": (1,)}, "1 numbers, but 2 blocks have queries"),
    ],
)
def test_wrong_windows_are_refused(typed: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, OptionError), match=error):
        build("eomt", **typed)


@pytest.mark.parametrize("name", ["eomt", "eomt_dinov3"])
def test_the_network_is_masked_as_the_schedule_says(name: str) -> None:
    model = build(name).train()
    seen = []
    for step in range(8):  # two blocks: a part is two steps
        model.on_step(step, 8)
        seen.append(model.network.attn_mask_probs.tolist())
    half = pytest.approx(0.5**0.9)
    assert seen == [[1, 1]] * 3 + [[half, 1], [0, 1], [0, half], [0, 0], [0, 0]]
    model.on_step(3, 8)
    model.eval()
    assert model.network.attn_mask_probs.tolist() == [1, 1], "no chance in evaluation"
    model.on_step(7, 8)
    calls = []
    model.network.mask_head.register_forward_hook(lambda *_: calls.append(1))
    model.eval()(noise(1))
    assert len(calls) == 1, "without masks only the last prediction is made"


def test_without_annealing_the_probabilities_stay() -> None:
    model = build("eomt", annealing=False).train()
    model.on_step(7, 8)
    assert model.network.attn_mask_probs.tolist() == [1, 1]
