"""Losses of single pixels, against torch, segmentation_models_pytorch and their definitions."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch import losses as smp
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor

from data_tools import facts
from loss_tools import RECORDS, draw, loss_of, mean_of
from segacc.errors import OptionError
from segacc.settings.options import decode

WEIGHTED = ("cross_entropy", "focal", "ohem")


def full_size(logits: Tensor) -> Tensor:
    return F.interpolate(logits, size=(21, 26), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_sum_and_count_are_plain_torchs(weight: float, smoothing: float) -> None:
    logits, labels = draw()
    loss = loss_of("cross_entropy", 5, weight=weight, label_smoothing=smoothing)
    settings: Any = {"ignore_index": 255, "label_smoothing": smoothing}
    total = F.cross_entropy(full_size(logits), labels, reduction="sum", **settings)
    torch.testing.assert_close(loss.sum(logits, labels), weight * total, rtol=1e-6, atol=0)
    assert loss.count(labels).item() == sum(label != 255 for label in labels.flatten().tolist())
    mean = F.cross_entropy(full_size(logits), labels, reduction="mean", **settings)
    torch.testing.assert_close(mean_of(loss, logits, labels), weight * mean, rtol=1e-5, atol=0)


# --------------------------------------------------------------------------------- class weights


def refusal(name: str, **values: str) -> str:
    with pytest.raises(OptionError) as error:
        decode(RECORDS[name].options, values, "--loss")
    return str(error.value)


def test_options_out_of_range() -> None:
    assert refusal("cross_entropy", label_smoothing="1") == (
        "--loss: label_smoothing: expected a number >= 0 and < 1; found '1'."
    )
    assert refusal("focal", gamma="-1") == (
        "--loss: gamma: expected a number >= 0 and <= 20; found '-1'."
    )
    assert refusal("ohem", min_kept="100000") == (
        "--loss: min_kept: expected a number > 0 and <= 1; found '100000'."
    )
    assert refusal("bce", pos_weight="inf") == (
        "--loss: pos_weight: expected a finite number > 0; found 'inf'."
    )


@pytest.mark.parametrize("name", WEIGHTED)
def test_class_weights_that_are_none(name: str) -> None:
    text = "--loss: class_weights: no weight is above 0."
    assert refusal(name, class_weights="0/0") == text
    assert refusal(name, class_weights="inf/1") == (
        "--loss: class_weights: expected a list of finite numbers >= 0; found 'inf'."
    )


@pytest.mark.parametrize("name", WEIGHTED)
def test_class_weights_must_be_one_for_each_class(name: str) -> None:
    with pytest.raises(OptionError) as error:
        loss_of(name, class_weights=(1.0, 2.0))
    assert str(error.value) == (
        f"--loss {name}: class_weights has 2 numbers, the data set 3 classes: c0, c1, c2."
    )


@pytest.mark.parametrize("name", WEIGHTED)
def test_class_weights_are_given_once(name: str) -> None:
    record = RECORDS[name]
    with pytest.raises(OptionError) as error:
        options = record.options(class_weights=(1.0, 1.0, 2.0))
        record.build(options, facts(3, class_weights=(1.0, 1.0, 1.0)))
    assert str(error.value) == (
        f"--loss {name}: class_weights is given here and as --class-weights; give one of them."
    )


@pytest.mark.parametrize("name", WEIGHTED)
def test_class_weights_of_the_run_are_those_of_the_option(name: str) -> None:
    weights, record = (0.5, 1.0, 4.0), RECORDS[name]
    logits, labels = draw((2, 3, 8, 8))
    asked = record.build(record.options(), facts(3, class_weights=weights))
    option = loss_of(name, class_weights=weights)
    assert asked.count(labels) == option.count(labels)
    assert asked.sum(logits, labels) == option.sum(logits, labels)
    assert asked.sum(logits, labels) != loss_of(name).sum(logits, labels)


def test_class_weights_are_torchs_weighted_mean() -> None:
    weights = (0.5, 1.0, 4.0)
    logits, labels = draw((2, 3, 8, 8), ignored=(0.2, 0.3))
    wanted = F.cross_entropy(
        full_size(logits), labels, weight=torch.tensor(weights), ignore_index=255
    )
    for name, more in (
        ("cross_entropy", {}),
        ("focal", {"gamma": 0}),
    ):
        loss = loss_of(name, class_weights=weights, **more)
        torch.testing.assert_close(mean_of(loss, logits, labels), wanted)
    # ohem that keeps all pixels is the same, image by image.
    for one, label in zip(logits.split(1), labels.split(1), strict=True):
        every = loss_of("ohem", class_weights=weights, min_kept=1)
        plain = loss_of("cross_entropy", class_weights=weights)
        torch.testing.assert_close(mean_of(every, one, label), mean_of(plain, one, label))


# ----------------------------------------------------------------------------------------- focal


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_smps_softmax_focal_loss(gamma: float) -> None:
    logits, labels = draw((3, 5, 21, 26), ignored=(0.0,) * 3)
    theirs = softmax_focal_loss_with_logits(logits, labels, gamma=gamma, reduction="mean")
    ours = mean_of(loss_of("focal", 5, gamma=gamma), logits, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_focal_of_two_classes_is_smps_binary_one() -> None:
    """Theirs for several classes is another one: a sigmoid for each class, against the rest."""
    logits, labels = draw((3, 2, 21, 26), ignored=(0.0, 0.4, 1.1))
    theirs = smp.FocalLoss("binary", gamma=2.0, ignore_index=255)
    wanted = theirs(logits[:, 1] - logits[:, 0], labels)
    torch.testing.assert_close(mean_of(loss_of("focal", 2), logits, labels), wanted)


def test_focal_has_the_values_of_the_paper() -> None:
    """Lin et al. 2017, section 3.2: at gamma 2, 100 times less at p = 0.9; at most 4 times below
    0.5."""
    for chance, factor in ((0.9, 100.0), (0.968, 1000.0), (0.5, 4.0)):
        logits = torch.tensor([chance, 1 - chance]).log().view(1, 2, 1, 1)
        label = torch.zeros(1, 1, 1, dtype=torch.int64)
        plain = loss_of("cross_entropy", 2).sum(logits, label)
        focal = loss_of("focal", 2).sum(logits, label)
        assert (plain / focal).item() == pytest.approx(factor, rel=0.03)


# ------------------------------------------------------------------------------------------ ohem


def hard_by_definition(logits: Tensor, label: Tensor, thresh: float, share: float) -> float:
    """Mean cost of one image's hard pixels, pixel by pixel."""
    costs = []
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            if (truth := int(label[y, x])) != 255:
                row = [math.exp(float(one)) for one in logits[:, y, x]]
                costs.append(-math.log(row[truth] / sum(row)))
    costs.sort(reverse=True)
    least = math.ceil(share * len(costs))
    kept = [cost for place, cost in enumerate(costs) if place < least or math.exp(-cost) < thresh]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("thresh", [0.0, 0.2, 0.7, 1.0])
def test_ohem_is_its_definition(thresh: float, share: float) -> None:
    logits, labels = draw((3, 4, 11, 12), (11, 12), ignored=(0.0, 0.5, 1.1))
    loss = loss_of("ohem", 4, thresh=thresh, min_kept=share, weight=2)
    wanted = [hard_by_definition(logits[k], labels[k], thresh, share) for k in range(2)]
    assert loss.sum(logits, labels).item() == pytest.approx(2 * sum(wanted), rel=1e-5)
    assert loss.count(labels).item() == 2


def test_ohem_leaves_classes_of_weight_0_out() -> None:
    logits, labels = draw((2, 3, 9, 9), (9, 9), ignored=(0.3, 0.0))
    labels[1] = 2
    loss = loss_of("ohem", class_weights=(1.0, 1.0, 0.0))
    assert loss.count(labels).item() == 1
    without = labels.where(labels != 2, 255)
    torch.testing.assert_close(loss.sum(logits, labels), loss_of("ohem").sum(logits, without))


# ------------------------------------------------------------------------------------------- bce


def test_bce_is_smps_soft_bce_of_the_difference() -> None:
    logits, labels = draw((3, 2, 21, 26), ignored=(0.0, 0.4, 1.1))
    for pos_weight, smoothing in ((1.0, 0.0), (4.0, 0.0), (0.5, 0.2)):
        theirs = smp.SoftBCEWithLogitsLoss(
            ignore_index=255,
            reduction="sum",
            smooth_factor=smoothing / 2,  # of each class
            pos_weight=torch.tensor(pos_weight),
        )
        wanted = theirs(logits[:, 1] - logits[:, 0], labels.float())
        loss = loss_of("bce", 2, pos_weight=pos_weight, label_smoothing=smoothing)
        torch.testing.assert_close(loss.sum(logits, labels), wanted, rtol=1e-5, atol=0)
        assert loss.count(labels) == (labels != 255).sum()


def test_bce_without_options_is_the_cross_entropy() -> None:
    logits, labels = draw((3, 2, 6, 7))
    for smoothing in (0.0, 0.1):
        binary = loss_of("bce", 2, label_smoothing=smoothing)
        plain = loss_of("cross_entropy", 2, label_smoothing=smoothing)
        torch.testing.assert_close(binary.sum(logits, labels), plain.sum(logits, labels))
        assert binary.count(labels) == plain.count(labels)


def test_bce_is_for_two_classes() -> None:
    with pytest.raises(OptionError) as error:
        loss_of("bce", 3)
    assert str(error.value) == (
        "--loss bce: it needs two classes, background and foreground; the data "
        "set has 3: c0, c1, c2. Use cross_entropy or focal."
    )
