"""The counts of each image: against definitions from the pixels, and through parquet."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

from score_tools import count_image, counted, pairs, scores_of
from segacc.commands.evaluate.per_image import PerImage
from segacc.errors import DataError
from segacc.kernels.counts import iou, mean_of_known

K = 7
IMAGES = pairs(9, K)


def test_an_image_is_counted_by_class() -> None:
    label = torch.tensor([[0, 0, 2], [2, 255, 255]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 4, 2], [0, 3, 4]], dtype=torch.uint8)
    found = count_image("a", prediction, label, 6)
    assert found.classes.tolist() == [0, 2, 4], "class 3 is predicted under an ignored pixel only"
    assert found.counts.tolist() == [[1, 2, 2], [1, 2, 1], [0, 0, 1]]
    assert found.mean_iou == pytest.approx((1 / 3 + 1 / 2 + 0) / 3, abs=1e-15)
    assert (found.valid_pixels, found.overall_accuracy) == (4, 0.5)


def test_an_image_that_is_all_ignored_has_no_score() -> None:
    label = torch.full((2, 3), 255, dtype=torch.uint8)
    found = count_image("a", torch.zeros_like(label), label, 6)
    assert (len(found.classes), found.valid_pixels) == (0, 0)
    assert np.isnan(found.mean_iou) and np.isnan(found.overall_accuracy)


def test_scores_from_the_counts_are_those_of_the_pixels() -> None:
    images = counted(IMAGES, K)
    assert images.ids == tuple(sorted(IMAGES))
    for image in images:
        mean, _ = scores_of([IMAGES[image.id]], K)
        assert image.mean_iou == pytest.approx(mean, abs=1e-12)
        said, label = IMAGES[image.id]
        assert image.overall_accuracy == (said == label)[label != 255].mean()
    mean, by_class = scores_of(list(IMAGES.values()), K)
    found = iou(images.total())
    np.testing.assert_allclose(found, by_class, rtol=0, atol=1e-12)
    assert np.isnan(found[-1]) and mean_of_known(found) == pytest.approx(mean, abs=1e-12)


def test_dense_counts_are_the_sparse_ones() -> None:
    images = counted(IMAGES, K)
    dense = images.dense(2, 6)
    assert dense.shape == (4, K, 3)
    for row, image in zip(dense, list(images)[2:6], strict=True):
        assert np.array_equal(row[image.classes], image.counts)
        assert row.sum() == image.counts.sum()
    assert np.array_equal(images.dense(0, 9).sum(axis=0), images.total())


def test_some_of_the_images() -> None:
    some = counted(IMAGES, K).among(frozenset({"image 004", "image 001", "nowhere"}))
    assert some.ids == ("image 001", "image 004")
    mean, _ = scores_of([IMAGES["image 001"], IMAGES["image 004"]], K)
    assert mean_of_known(iou(some.total())) == pytest.approx(mean, abs=1e-12)


def test_parquet_holds_all_that_was_counted(tmp_path: Path) -> None:
    nothing = (np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    images = counted({**IMAGES, "empty": nothing}, K)
    images.write(tmp_path / "a.parquet")
    again = PerImage.read(tmp_path / "a.parquet")
    assert (again.names, again.ids) == (images.names, images.ids)
    for key in ("starts", "classes", "counts"):
        assert np.array_equal(getattr(again, key), getattr(images, key))
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_parquet_reads_without_segacc(tmp_path: Path) -> None:
    nothing = (np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    counted({**IMAGES, "empty": nothing}, K).write(tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    names = json.loads(table.schema.metadata[b"segacc"])["classes"]
    empty, *rows = table.to_pylist()
    assert (empty["id"], empty["mean_iou"], empty["valid_pixels"]) == ("empty", None, 0)
    hit, union = np.zeros(K), np.zeros(K)
    for row in rows:
        _, label = IMAGES[row["id"]]
        assert row["valid_pixels"] == (label != 255).sum()
        counts = (row[key] for key in ("classes", "hit", "labelled", "predicted"))
        for k, h, truth, guess in zip(*counts, strict=True):
            hit[k] += h
            union[k] += truth + guess - h
    wanted = scores_of(list(IMAGES.values()), K)[1]
    assert len(names) == K and union[-1] == 0
    np.testing.assert_allclose(hit[:-1] / union[:-1], wanted[:-1], rtol=0, atol=1e-12)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("no parquet")
    with pytest.raises(DataError) as error:
        PerImage.read(path)
    assert str(error.value).startswith(f"{path}: not a file written by `segacc evaluate` (")
    assert "\n" not in str(error.value)
