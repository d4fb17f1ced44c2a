"""The same pixels give the same answer in every form, or a sentence that says what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segacc.errors import DataError, UnreadableError
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.labels import LabelMap
from segacc.model import Logits, SegmentationModel

Pixels = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)
GREY, RGB, RGBA = (RANDOM.integers(256, size=(9, 13, *c), dtype=np.uint8) for c in ((), (3,), (4,)))
DEEP = RANDOM.integers(65536, size=(9, 13), dtype=np.uint16)


class Mixed(SegmentationModel):
    """Logits of four random sums of the channels: each pixel's class tells its values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_channels = channels
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.mix = nn.Conv2d(channels, 4, 3, 1, 1)

    def forward(self, images: Tensor) -> Logits:
        return Logits(self.mix(images))


def segmenter(channels: int) -> Segmenter:
    return Segmenter(Mixed(channels), LabelMap.plain(list("abcd")), Protocol())


def saved(path: Path, pixels: Pixels, **how: Any) -> Path:
    Image.fromarray(pixels).save(path, **how)
    return path


FORMS: dict[str, Callable[[Pixels], Any]] = {
    "pil": Image.fromarray,
    "array": lambda pixels: pixels,
    "not contiguous": lambda pixels: np.repeat(pixels, 2, 1)[:, ::2],
    "channel axis": lambda pixels: pixels[..., None] if pixels.ndim == 2 else pixels,
    "channels first": lambda pixels: (
        pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    ),
    "tensor": torch.from_numpy,
    "tensor first": lambda pixels: torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("pixels", [GREY, RGB, RGBA], ids=["grey", "rgb", "rgba"])
def test_every_form_answers_as_the_file(
    tmp_path: Path, pixels: Pixels, channels: int, form: str
) -> None:
    path, see = saved(tmp_path / "one.png", pixels), segmenter(channels)
    given = FORMS[form](pixels)
    if channels == 4 != pixels.shape[-1]:  # four channels cannot be made up
        for one in (path, given):
            with pytest.raises(DataError, match="--num-channels 4 requires four"):
                see(one)
        return
    found = see(path)
    assert len(np.unique(found)) > 1
    assert np.array_equal(see(given), found)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_answer_as_the_file(tmp_path: Path, channels: int) -> None:
    path, see = saved(tmp_path / "deep.png", DEEP), segmenter(channels)
    with Image.open(path) as opened:
        assert opened.mode == "I;16"
        forms = (DEEP, DEEP.astype(">u2"), DEEP[None], torch.from_numpy(DEEP), opened)
        for given in forms:
            assert np.array_equal(see(given), see(path))
    deep = np.stack([DEEP, DEEP // 2, DEEP // 3], 2)  # Pillow has no picture of these
    assert np.array_equal(segmenter(3)(deep), segmenter(3)((deep >> 8).astype(np.uint8)))


@pytest.mark.parametrize(("suffix", "turn"), [("jpg", 6), ("jpg", 3), ("png", 8), ("tif", 5)])
def test_a_pil_image_is_turned_as_its_file_is(tmp_path: Path, suffix: str, turn: int) -> None:
    exif = Image.Exif()
    exif[274] = turn
    path, see = saved(tmp_path / f"turned.{suffix}", RGB, exif=exif), segmenter(3)
    with Image.open(path) as opened:
        upright = see(opened)
        assert np.array_equal(upright, see(path))
        assert np.array_equal(see(opened.convert("RGB")), upright)
    assert upright.shape == ((9, 13) if turn == 3 else (13, 9))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", "YCbCr"])
def test_other_kinds_of_pil_images(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "kind.tif" if mode in ("CMYK", "YCbCr") else tmp_path / "kind.png"
    Image.fromarray(RGB).convert(mode).save(path)
    with Image.open(path) as opened:
        assert opened.mode in (mode, "RGB")  # Pillow before 13 opens a YCbCr TIFF as RGB
        assert np.array_equal(segmenter(3)(opened), segmenter(3)(path))


def test_a_network_of_many_channels_takes_these_alone(tmp_path: Path) -> None:
    pixels, see = RANDOM.integers(256, size=(9, 13, 6), dtype=np.uint8), segmenter(6)
    found = see(pixels)
    for given in (pixels.transpose(2, 0, 1), torch.from_numpy(pixels), pixels * np.uint16(256)):
        assert np.array_equal(see(given), found)
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "six.tif", pixels.transpose(2, 0, 1), photometric="minisblack")
    assert np.array_equal(see(tmp_path / "six.tif"), found)
    for given, text in (
        (RGB, "(9, 13, 3) is not that of one image. Give one image at a time, as (H, W, C) or "),
        (GREY, "(9, 13) is not that of one image."),
        (Image.fromarray(RGB), "takes 6 channels, which a PIL image cannot have."),
    ):
        with pytest.raises(DataError) as error:
            see(given)
        assert text in str(error.value)


ONE = "Give one image at a time, as (H, W), (H, W, C) or (C, H, W) with 1 or 3 or 4 channels."
REFUSED: dict[str, tuple[Any, str]] = {
    "fractions": (RGB / np.float32(255), "the pixels are float32, whose range is not known; "),
    "fractions of a tensor": (torch.rand(3, 9, 13), "the pixels are float32, whose range is not "),
    "bfloat16": (torch.rand(3, 9, 13).bfloat16(), "the pixels are bfloat16, whose range is not "),
    "normalized": (RGB / 127.5 - 1, "the pixels are float64, whose range is not known; "),
    "int64": (RGB.astype(int), "the pixels are int64, whose range is not known; "),
    "bool": (GREY > 99, "the pixels are bool, whose range is not known; "),
    "8 bits in 16": (RGB.astype(np.uint16), "the pixels are uint16 and none is above 255, "),
    "batch": (RGB[None], f"an array of shape (1, 9, 13, 3) is not that of one image. {ONE}"),
    "batch of tensors": (torch.zeros(2, 3, 9, 13, dtype=torch.uint8), "(2, 3, 9, 13) is not "),
    "several grey": (np.stack([GREY] * 2), "an array of shape (2, 9, 13) is not that of one "),
    "either": (RGB[:3], f"an array of shape (3, 13, 3) may be (H, W, C) or (C, H, W). {ONE}"),
    "empty": (RGB[:0], "an array of shape (0, 13, 3) is not that of one image."),
    "list": (
        [RGB, RGB],
        "list is not an image. Give one image at a time: a path, a PIL ",
    ),
    "bytes": (b"\x89PNG", "bytes is not an image."),
    "nothing": (None, "NoneType is not an image."),
    "32 bits": (
        Image.fromarray(GREY.astype(np.int32)),
        "the image has 32 bits per pixel (mode I), ",
    ),
    "PIL fractions": (Image.fromarray(GREY / np.float32(255)), "has 32 bits per pixel (mode F), "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_certain_is_refused(case: str) -> None:
    given, text = REFUSED[case]
    with pytest.raises(DataError) as error:
        segmenter(3)(given)
    assert str(error.value).startswith("Segmenter: ") and text in str(error.value)


def test_what_fractions_are_told_to_do_gives_the_answer_of_the_file() -> None:
    see, fractions = segmenter(3), RGB / np.float32(255)
    found = see((fractions * 255).round().astype("uint8"))
    assert np.array_equal(found, see(RGB))
    assert np.array_equal(found, see((torch.from_numpy(fractions) * 255).round().to(torch.uint8)))


def test_a_pil_image_of_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "whole.png", RANDOM.integers(256, size=(99, 99, 3), dtype=np.uint8))
    cut = tmp_path / "cut.png"
    cut.write_bytes(path.read_bytes()[:5000])
    with Image.open(cut) as opened, pytest.raises(UnreadableError) as error:
        segmenter(3)(opened)
    assert str(error.value).startswith("Segmenter: the image cannot be read: ")
