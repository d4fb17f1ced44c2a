"""confusion: the files that it writes."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools import facts
from metric_tools import METRICS, drawn, fed
from segacc.contracts import Facts
from segacc.plugins.metrics.overlap import draw


def test_the_table(tmp_path: Path) -> None:
    names = ("road, wet", 'a "sign"', "sky")
    record = METRICS["confusion"]
    metric = record.build(record.options(), Facts(num_classes=3, class_names=names))
    labels = torch.tensor([[[0, 0, 1, 2, 2, 255]]])
    metric.update(torch.tensor([[[0, 1, 1, 0, 2, 2]]]), labels)
    assert metric.compute() == {}
    metric.write(tmp_path)
    with (tmp_path / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["label \\ prediction", *names],
        [names[0], "1", "1", "0"],
        [names[1], "0", "1", "0"],
        [names[2], "1", "0", "1"],
    ]
    assert Image.open(tmp_path / "confusion.png").format == "PNG"


def test_counts_beyond_what_floats_hold(tmp_path: Path) -> None:
    metric = fed("confusion", [], 2)
    metric.state["confusion"][0, 1] = 2**60 + 1
    metric.write(tmp_path)
    assert (tmp_path / "confusion.csv").read_text().splitlines()[1] == f"c0,0,{2**60 + 1}"


@pytest.mark.parametrize("num_classes", [2, 20, 40, 150])
def test_the_picture_is_readable(num_classes: int) -> None:
    pixels = drawn(num_classes, classes=range(1, num_classes), size=(60, 60), right=0.8)
    metric = fed("confusion", [pixels], num_classes)
    figure = draw(metric.state["confusion"].numpy(), facts(num_classes).class_names)
    width, height = figure.get_size_inches() * figure.dpi
    assert 300 <= height <= width <= 3200
    figure.canvas.draw()
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    assert shares.mask[0].all() and not shares.mask[1:].any(), "only row 0 has no label"
    np.testing.assert_allclose(shares[1:].sum(1), 1)
    names = [text for text in axes.get_yticklabels() if text.get_text()]
    assert [text.get_text() for text in names] == list(facts(num_classes).class_names)
    boxes = [text.get_window_extent() for text in names]
    assert all(a.y0 >= b.y1 - 1 for a, b in pairwise(boxes)), "names overlap"
    assert len(axes.texts) == (num_classes - 1) * num_classes * (num_classes <= 20)


def test_long_names_are_cut() -> None:
    names = ("swimming pool, swimming bath, natatorium, tank", "sky")
    figure = draw(np.eye(2, dtype=np.int64), names)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert shown == ["swimming pool, swimming bat…", "sky"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "0", "0", "100"]
