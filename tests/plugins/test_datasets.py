"""The data set inside the package, nuclei, and real data as `folder` reads them."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import folder_tools
from segacc.data.sample_pair import read_sample
from segacc.errors import OptionError
from segacc.hookspecs import DataSplits, Sample
from segacc.plugins.datasets.nuclei import NucleiOptions, build_nuclei
from segacc.settings.options import decode


def nuclei(**values: Any) -> DataSplits:
    return build_nuclei(decode(NucleiOptions, values, "--dataset nuclei"))


# --------------------------------------------------------------------------------------- nuclei


@pytest.mark.parametrize(
    ("border", "names"),
    [("false", ("background", "nucleus")), ("true", ("background", "nucleus", "nucleus_border"))],
)
def test_nuclei_are_205_images_of_two_or_three_classes(border: str, names: tuple[str, ...]) -> None:
    splits = nuclei(border=border)
    assert {split: len(samples) for split, samples in splits.splits.items()} == {
        "train": 166,
        "validation": 39,
    }
    assert splits.labels.names == names and splits.crop_size == (192, 192)
    sizes, values, ids = Counter(), set(), []
    for samples in splits.splits.values():
        for sample in samples:
            image, label = read_sample(sample, splits.labels)
            assert image.shape == (3, *label.shape)
            sizes[tuple(label.shape)] += 1
            values |= set(np.unique(label.numpy()).tolist())
            ids.append(sample.id)
    assert values == set(range(len(names)))
    assert len(set(ids)) == 205
    assert set(sizes) == {(256, 256), (256, 320), (360, 360), (260, 347)}


def test_borders_and_insides_are_the_nuclei() -> None:
    plain, three = nuclei(), nuclei(border=True)
    for place in range(0, 39, 5):
        pair = [one.splits["validation"][place] for one in (plain, three)]
        assert pair[0].id == pair[1].id and pair[0].image == pair[1].image
        two, borders = (
            read_sample(s, plain.labels if k == 0 else three.labels)[1] for k, s in enumerate(pair)
        )
        assert (borders == 2).any()
        np.testing.assert_array_equal(borders.numpy() > 0, two.numpy() == 1)


def test_the_embedded_files_are_those_of_the_source(shared: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(shared / "nuclei_dsb2018" / "train.parquet").to_pylist()
    samples = nuclei(border="true").splits["train"]
    assert len(table) == len(samples)
    for row, sample in zip(table, samples, strict=True):
        assert sample == Sample(
            row["image"]["bytes"], row["annotation_border"]["bytes"], row["image_id"]
        )


def test_samples_can_be_sent_to_a_worker_and_end() -> None:
    samples = nuclei().splits["validation"]
    assert pickle.loads(pickle.dumps(samples))[7] == samples[7]
    with pytest.raises(IndexError):
        samples[39]
    assert len(list(samples)) == 39


# ------------------------------------------------------------------------- folders of real data


def test_camvid_is_read_with_its_unlabelled_pixels_ignored(shared: Path) -> None:
    splits = folder_tools.build(shared / "camvid")
    assert {split: len(samples) for split, samples in splits.splits.items()} == {
        "train": 367,
        "validation": 101,
    }
    assert (len(splits.labels.names), splits.labels.names[3]) == (11, "Road")
    assert splits.labels.classes == {**{k: k for k in range(11)}, 11: 255, 255: 255}
    assert splits.labels.palette[3] == (128, 64, 128)
    samples = splits.splits["validation"]
    assert [sample.id for sample in samples] == sorted(sample.id for sample in samples)
    for sample in samples[::25]:
        assert Path(sample.image).stem == Path(sample.label).stem == sample.id
        raw = np.array(Image.open(sample.label))
        label = read_sample(sample, splits.labels)[1].numpy()
        np.testing.assert_array_equal(label, np.where(raw == 11, 255, raw))
        assert (label == 255).any()


def test_ade20k_is_read_with_reduced_labels(shared: Path) -> None:
    splits = folder_tools.build(shared / "ade20k_sample")
    assert {split: len(samples) for split, samples in splits.splits.items()} == {
        "train": 6,
        "validation": 39,
    }
    assert (len(splits.labels.names), splits.labels.names[0]) == (150, "wall")
    for sample in splits.splits["train"]:
        raw = np.array(Image.open(sample.label)).astype(int)
        label = read_sample(sample, splits.labels)[1].numpy()
        np.testing.assert_array_equal(label, np.where(raw == 0, 255, raw - 1))


def test_reduce_labels_can_be_overruled(shared: Path) -> None:
    root = shared / "ade20k_sample"
    splits = folder_tools.build(root, reduce_labels="false")
    sample = splits.splits["train"][0]
    raw = np.array(Image.open(sample.label))
    np.testing.assert_array_equal(read_sample(sample, splits.labels)[1].numpy(), raw)
    reduced = folder_tools.build(shared / "camvid", reduce_labels="true").labels
    assert [reduced.classes[raw] for raw in (0, 1, 10, 255)] == [255, 0, 9, 255]


def test_comma10k_is_read(shared: Path) -> None:
    splits = folder_tools.build(shared / "comma10k_mini")
    assert [len(samples) for samples in splits.splits.values()] == [9, 2]
    for sample in splits.splits["train"]:
        assert read_sample(sample, splits.labels)[1].numpy().max() <= 4


def test_unknown_options_are_refused() -> None:
    with pytest.raises(OptionError) as error:
        decode(NucleiOptions, {"borders": "true"}, "--dataset nuclei")
    assert str(error.value) == (
        '--dataset nuclei: unknown option "borders". Did you mean "border"? Known: border.'
    )
