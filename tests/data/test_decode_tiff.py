"""TIFF files that Pillow does not read, and any number of channels, through tifffile."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools import encode
from segacc.data.decode import read_image
from segacc.data.sample_pair import read_sample
from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

tifffile = pytest.importorskip("tifffile", reason="TIFF of many channels needs the extra `tiff`")

RANDOM = np.random.default_rng(0)
SIX = RANDOM.integers(0, 256, (6, 9, 14), dtype=np.uint8)
DEEP = RANDOM.integers(0, 2**16, (6, 9, 14), dtype=np.uint16)
SIDE_BY_SIDE = {"photometric": "minisblack", "planarconfig": "contig"}


def tiff(pixels: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **settings)
    return file.getvalue()


def last(pixels: Any) -> Any:
    """Move the channels to the end."""
    return np.moveaxis(pixels, 0, -1)


def refusal(kind: type[DataError], data: bytes | Path, num_channels: int) -> str:
    with pytest.raises(DataError) as error:
        read_image(data, "field.tif", num_channels)
    assert type(error.value) is kind
    return str(error.value)


def assert_reads(data: bytes, wanted: Any) -> None:
    image = read_image(data, "field.tif", len(wanted))
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image.numpy(), wanted)
    image += 1


@pytest.mark.parametrize("count", [2, 5, 6])
def test_channels_may_lie_in_any_usual_way(count: int, tmp_path: Path) -> None:
    some = SIX[:count]
    assert_reads(tiff(last(some), **SIDE_BY_SIDE), some)
    assert_reads(tiff(some, photometric="minisblack", planarconfig="separate"), some)
    assert_reads(tiff(some), some)  # as pages
    assert_reads(tiff(last(some)), some)  # as pages too, the wrong way round
    (tmp_path / "field.tif").write_bytes(tiff(last(some), **SIDE_BY_SIDE))
    image = read_image(tmp_path / "field.tif", "field.tif", count)
    np.testing.assert_array_equal(image.numpy(), some)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_keep_their_upper_byte(order: str) -> None:
    data = tiff(last(DEEP).astype(f"{order}u2"), byteorder=order, **SIDE_BY_SIDE)
    assert_reads(data, DEEP >> 8)


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("deep", [False, True])
def test_rgb_of_8_and_16_bits_in_either_order(planes: str, deep: bool) -> None:
    pixels = DEEP[:3] if deep else SIX[:3]
    written = last(pixels) if planes == "contig" else pixels
    data = tiff(written, photometric="rgb", planarconfig=planes)
    assert_reads(data, pixels >> 8 if deep else pixels)


@pytest.mark.parametrize("deep", [False, True])
def test_a_fourth_channel_need_not_be_alpha(deep: bool) -> None:
    pixels = DEEP[:4] if deep else SIX[:4]
    infrared = tiff(last(pixels), photometric="rgb", extrasamples=["unspecified"])
    assert Image.open(io.BytesIO(infrared)).mode == "RGB"  # Pillow passes over it
    assert_reads(infrared, pixels >> 8 if deep else pixels)
    assert_reads(tiff(last(pixels), **SIDE_BY_SIDE), pixels >> 8 if deep else pixels)


def test_a_sample_of_many_channels() -> None:
    label = RANDOM.integers(0, 2, (9, 14), dtype=np.uint8)
    sample = Sample(tiff(last(SIX), **SIDE_BY_SIDE), encode(label), "one")
    image, read = read_sample(sample, LabelMap.plain(("a", "b")), 6)
    np.testing.assert_array_equal(image.numpy(), SIX)
    np.testing.assert_array_equal(read.numpy(), label)


def test_other_channels_than_are_wanted() -> None:
    data = tiff(last(SIX[:5]), **SIDE_BY_SIDE)
    assert refusal(DataError, data, 6) == (
        "field.tif: the image has 5 channels; --num-channels 6 requires 6."
    )
    assert refusal(DataError, data, 3) == (
        "field.tif: the image has 5 channels; --num-channels 3 requires 3."
    )
    assert refusal(DataError, encode(last(SIX[:3])), 6) == (
        "field.tif: --num-channels 6 needs TIFF files of 6 channels; this is no TIFF."
    )


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32"])
def test_numbers_of_no_certain_range(dtype: str) -> None:
    data = tiff(last(SIX).astype(dtype), **SIDE_BY_SIDE)
    assert refusal(DataError, data, 6) == (
        f"field.tif: the image has values of type {dtype}, whose range is unknown. Save it "
        "with 8 or 16 bits."
    )


def test_a_damaged_or_missing_file(tmp_path: Path) -> None:
    whole = tiff(last(SIX), **SIDE_BY_SIDE)
    for data in (whole[:20], whole[:-300], b"II*\0"):
        told = refusal(UnreadableError, data, 6)
        assert told.startswith("field.tif: the image cannot be read: ")
    assert refusal(UnreadableError, tmp_path / "gone.tif", 6) == (
        "field.tif: the image cannot be read: No such file or directory."
    )


def test_without_tifffile_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert refusal(DataError, tiff(last(SIX), **SIDE_BY_SIDE), 6) == (
        "field.tif: a TIFF of 6 channels is read with the package tifffile, which is not "
        'installed: pip install "segacc[tiff]".'
    )
    planes = tiff(DEEP[:3], photometric="rgb", planarconfig="separate")
    assert refusal(UnreadableError, planes, 3) == (
        "field.tif: the image cannot be read: not an image of a known format. It is a TIFF: "
        'perhaps tifffile reads it, pip install "segacc[tiff]".'
    )
