"""The fast way for JPEG: the pixels of Pillow, or nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import encode
from segacc.decode import read_pixels
from segacc.jpeg import decode_jpeg

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (9, 14, 3), dtype=np.uint8)


@pytest.mark.parametrize("quality", [40, 75, 95])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_fast_way_for_jpeg_gives_pillows_pixels(
    quality: int, subsampling: str, progressive: bool
) -> None:
    smooth = np.kron(RANDOM.integers(0, 256, (6, 9, 3), np.uint8), np.ones((11, 7, 1), np.uint8))
    settings = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    data = encode(smooth, "JPEG", **settings)
    image = decode_jpeg(data)
    assert image is not None
    np.testing.assert_array_equal(image.numpy(), read_pixels(data, "a picture"))


def test_what_is_no_plain_jpeg_is_left_to_pillow(tmp_path: Path) -> None:
    whole = encode(PIXELS, "JPEG")
    grey, cmyk = (Image.fromarray(PIXELS).convert(mode) for mode in ("L", "CMYK"))
    turned = encode(PIXELS, "JPEG", exif=turned_exif())
    others = [encode(PIXELS), encode(grey, "JPEG"), encode(cmyk, "JPEG"), turned, whole[:-40], b""]
    assert [decode_jpeg(data) for data in others] == [None] * 6
    assert decode_jpeg(tmp_path / "gone.jpg") is None
    damaged = whole[:30] + bytes(len(whole) - 32) + whole[-2:]
    assert decode_jpeg(damaged) is None


def turned_exif() -> Image.Exif:
    """Return EXIF of a picture that is to be turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
