"""The plain definitions that `--verify` holds scores against: right themselves, and independent."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data_tools import encode, facts
from segacc.commands.evaluate.verify import (
    other_scores,
    plain_argmax,
    plain_counts,
    plain_label,
    plain_scores,
)
from segacc.data.decode import read_label
from segacc.errors import DataError
from segacc.hookspecs import Sample
from segacc.kernels.resize import decide
from segacc.labels import LabelMap
from segacc.plugins.metrics.overlap import MeanIou

COLORS = {(0, 0, 0): 7, (255, 0, 0): 1, (0, 0, 255): 300}
COLORED = LabelMap(("a", "b"), {7: 0, 1: 1, 300: 255}, colors=COLORS)


@pytest.mark.parametrize(
    ("size", "extent"), [((48, 60), None), ((31, 47), None), ((40, 50), (48, 60)), ((5, 7), None)]
)
def test_logits_are_resized_as_torch_does(size: Any, extent: Any) -> None:
    logits = torch.randn(9, 12, 15, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits[None].double(), size=extent or size, mode="bilinear")[0]
    wanted = whole[:, : size[0], : size[1]].argmax(0).numpy()
    found = plain_argmax(logits.numpy(), size, extent or size)
    assert found.dtype == np.uint8 and np.array_equal(found, wanted)


def test_logits_that_end_between_two_pixels() -> None:
    logits = torch.randn(6, 10, 10, generator=torch.Generator().manual_seed(1))
    size, extent = (70, 90), (75.5, 96.25)
    kernel = decide(logits[None], size, extent=extent).classes[0].numpy()
    assert (plain_argmax(logits.numpy(), size, extent) != kernel).mean() < 1e-3
    assert (plain_argmax(logits.numpy(), size, size) != kernel).mean() > 0.05


def raw(seed: int, values: Any) -> Any:
    return np.random.default_rng(seed).choice(np.array(values), (14, 17))


LABELS = {
    "bytes": (encode(raw(0, [0, 1, 2, 255]).astype(np.uint8)), LabelMap.plain(["a", "b", "c"])),
    "reduced": (
        encode(raw(1, [0, 1, 2, 255]).astype(np.uint8)),
        LabelMap.plain(["a", "b"], reduce_labels=True),
    ),
    "16 bits": (
        encode(raw(2, [3, 700]).astype(np.uint16)),
        LabelMap(("a", "b"), {3: 1, 700: 0}),
    ),
    "1 bit": (encode(Image.fromarray(raw(3, [0, 1]) > 0)), LabelMap.plain(["a", "b"])),
    "colours": (
        encode(np.array([*COLORS], np.uint8)[raw(4, [0, 1, 2])]),
        COLORED,
    ),
    "palette of colours": (
        encode(Image.fromarray(np.array([*COLORS], np.uint8)[raw(5, [0, 1, 2])]).convert("P")),
        COLORED,
    ),
    "grey ids beside a colour table": (encode(raw(6, [7, 1]).astype(np.uint8)), COLORED),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_read_as_evaluation_reads_them(name: str) -> None:
    source, labels = LABELS[name]
    found = plain_label(Sample(b"", source, "a"), labels)
    assert np.array_equal(found, read_label(source, labels, "a").numpy())
    assert len(np.unique(found)) > 1


def test_a_label_with_a_map_of_its_own() -> None:
    own = LabelMap(("a", "b"), {4: 1, 5: 0})
    sample = Sample(b"", encode(np.array([[4, 5]], np.uint8)), "a", own)
    assert plain_label(sample, LabelMap.plain(["a", "b"])).tolist() == [[1, 0]]


def test_a_pixel_of_no_class_is_not_passed_over() -> None:
    sample = Sample(b"", encode(np.array([[0, 9, 9]], np.uint8)), "street")
    with pytest.raises(DataError, match=r"^--verify: street: 2 pixels have no class\.$"):
        plain_label(sample, LabelMap.plain(["a", "b"]))


def test_scores_are_those_of_mean_iou() -> None:
    random = np.random.default_rng(0)
    label = random.choice([0, 1, 2, 5, 255], (30, 30)).astype(np.uint8)
    said = random.integers(0, 5, (30, 30)).astype(np.uint8)
    counts = plain_counts(said, label, 8)
    valid = label != 255
    wanted = [((label == 2) & (said == 2)).sum(), (label == 2).sum(), ((said == 2) & valid).sum()]
    assert counts.sum(axis=0)[1:].tolist() == [valid.sum()] * 2 and counts[2].tolist() == wanted
    metric = MeanIou(facts(8))
    metric.update(torch.from_numpy(said)[None].long(), torch.from_numpy(label)[None].long())
    names = tuple(f"c{k}" for k in range(8))
    plain: Any = plain_scores(counts, names)
    found = metric.compute()
    assert list(found) == list(plain) and not other_scores(found, plain, "")
    assert np.isnan(plain["per_category_iou"]["c7"]) and plain["per_category_iou"]["c5"] == 0


@pytest.mark.parametrize(
    ("found", "wanted", "differ"),
    [
        (0.5, 0.5 + 1e-12, False),
        (0.5, 0.5001, True),
        (np.nan, np.nan, False),
        (np.nan, 0.0, True),
        (0.0, np.nan, True),
        ({"a": 1.0, "b": np.nan}, {"a": 1.0, "b": np.nan}, False),
        ({"a": 1.0, "b": 0.2}, {"a": 1.0, "b": 0.3}, True),
        ({"a": 1.0}, {"a": 1.0, "b": 0.3}, True),
    ],
)
def test_what_differs(found: Any, wanted: Any, differ: bool) -> None:
    assert bool(other_scores({"score": found}, {"score": wanted}, "")) is differ
