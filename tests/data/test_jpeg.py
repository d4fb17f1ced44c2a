"""The fast way for JPEG: the pixels of Pillow, or nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import encode
from segacc.data.codecs import decode_plain, is_plain_jpeg, picture_size
from segacc.data.decode import read_image, read_pixels

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
    image = decode_plain(data)
    assert image is not None
    np.testing.assert_array_equal(image.numpy(), read_pixels(data, "a picture"))


def test_what_is_no_plain_jpeg_is_left_to_pillow(tmp_path: Path) -> None:
    whole = encode(PIXELS, "JPEG")
    grey, cmyk = (Image.fromarray(PIXELS).convert(mode) for mode in ("L", "CMYK"))
    turned = encode(PIXELS, "JPEG", exif=turned_exif())
    others = [encode(grey, "JPEG"), encode(cmyk, "JPEG"), turned, whole[:-40], b""]
    assert [decode_plain(data) for data in others] == [None] * 5
    assert decode_plain(tmp_path / "gone.jpg") is None
    damaged = whole[:30] + bytes(len(whole) - 32) + whole[-2:]
    assert decode_plain(damaged) is None


def test_an_upright_picture_with_exif_or_a_comment_goes_the_fast_way() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "a camera"
    settings: list[dict[str, object]] = [{"exif": exif}, {"comment": b"mine"}, {"dpi": (72, 72)}]
    for more in (*settings, {"icc_profile": b"x"}):
        data = encode(PIXELS, "JPEG", **more)
        image = decode_plain(data)
        assert image is not None, more
        np.testing.assert_array_equal(image.numpy(), read_pixels(data, "a picture"))


def test_a_turn_that_only_xmp_tells_is_seen() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(PIXELS, "JPEG", xmp=xmp)
    assert decode_plain(data) is None
    assert read_image(data, "a picture").shape == (3, 14, 9) == (3, *(picture_size(data) or ()))


def test_what_stands_behind_the_size_is_read_too() -> None:
    plain, turned = encode(PIXELS, "JPEG"), encode(PIXELS, "JPEG", exif=turned_exif())
    start = turned.index(b"\xff\xe1")
    exif = turned[start : start + 2 + int.from_bytes(turned[start + 2 : start + 4], "big")]
    pixels = plain.index(b"\xff\xda")
    data = plain[:pixels] + exif + plain[pixels:]
    assert is_plain_jpeg(plain) and not is_plain_jpeg(data)
    assert decode_plain(data) is None
    assert read_image(data, "a picture").shape == (3, 14, 9)


def test_colours_that_are_not_ycbcr_are_as_pillows() -> None:
    """As Photoshop writes them: an Adobe marker that says RGB."""
    data = encode(PIXELS, "JPEG", keep_rgb=True, quality=95)
    assert b"Adobe" in data
    np.testing.assert_array_equal(read_image(data, "a picture"), read_pixels(data, "a picture"))


def test_damaged_headers_end_in_nothing_or_pillows_pixels() -> None:
    """Bytes are changed, taken out and put in before the pixels; the process lives on."""
    random = np.random.default_rng(0)
    whole = encode(np.kron(PIXELS, np.ones((4, 4, 1), np.uint8)), "JPEG", quality=60)
    start = whole.index(b"\xff\xda")
    decoded = 0
    for _ in range(3000):
        head = bytearray(whole[:start])
        for place in random.integers(2, start, random.integers(1, 4)):
            head[place] = random.integers(256)
        if random.random() < 0.3:
            del head[int(random.integers(2, len(head)))]
        data = bytes(head) + whole[start:]
        image = decode_plain(data)
        if image is None:
            continue
        decoded += 1
        np.testing.assert_array_equal(image.numpy(), read_pixels(data, "damaged"))
    assert 300 < decoded < 3000


def turned_exif() -> Image.Exif:
    """Return EXIF of a picture that is to be turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
