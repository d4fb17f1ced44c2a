"""The fast way for PNG: the pixels of Pillow, or nothing; with and without torchcodec."""

import io
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cli_tools import environment
from data_tools import encode
from segacc.data import codecs
from segacc.data.codecs import PNG_START, decode_plain
from segacc.data.decode import raw_label, read_image, read_pixels
from segacc.errors import DataError, UnreadableError
from segacc.labels import LabelMap

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (23, 37, 3), dtype=np.uint8)
SMOOTH = np.kron(NOISE[:6, :9], np.ones((11, 7, 1), np.uint8))
PLAIN = LabelMap.plain([f"c{k}" for k in range(255)])


@pytest.fixture
def without_torchcodec(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    codecs.torchcodec.cache_clear()
    yield
    codecs.torchcodec.cache_clear()


def decoded(source: bytes | Path) -> np.ndarray | None:  # type: ignore[type-arg]
    """Return (H, W) or (H, W, 3), as Pillow."""
    found = decode_plain(source, "UNCHANGED")
    if found is None:
        return None
    return found[0].numpy() if len(found) == 1 else found.permute(1, 2, 0).numpy()


def filtered(pixels: np.ndarray, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:  # type: ignore[type-arg]
    """Write a PNG whose rows all have one filter: 0 none, 1 left, 2 up, 3 average, 4 Paeth."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, depth = pixels.shape
    rows, wide = [], pixels.astype(int)
    left = np.pad(wide, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    up = np.pad(wide, ((1, 0), (0, 0), (0, 0)))[:-1]
    corner = np.pad(wide, ((1, 0), (1, 0), (0, 0)))[:-1, :-1]
    guess = left + up - corner
    away = np.abs(np.stack([guess - left, guess - up, guess - corner]))
    paeth = np.choose(away.argmin(0), [left, up, corner])
    before = [np.zeros_like(wide), left, up, (left + up) // 2, paeth][kind]
    for row in ((wide - before) % 256).astype(np.uint8):
        rows.append(bytes([kind]) + row.tobytes())
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, {1: 0, 3: 2}[depth]])
    parts = [(b"IHDR", header + bytes(3)), *chunks, (b"IDAT", zlib.compress(b"".join(rows)))]
    return PNG_START + b"".join(map(chunk, *zip(*parts, (b"IEND", b""), strict=True)))


def chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("picture", [NOISE, SMOOTH, NOISE[..., 0], SMOOTH[..., 0]], ids="NSns")
def test_the_fast_way_for_png_gives_pillows_pixels(picture: np.ndarray, kind: int) -> None:  # type: ignore[type-arg]
    data = filtered(picture, kind)
    found = decoded(data)
    assert found is not None and found.flags.writeable
    np.testing.assert_array_equal(found, picture)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    pillows = encode(picture)
    np.testing.assert_array_equal(decoded(pillows), picture)


@pytest.mark.parametrize(
    "extra",
    [
        (b"gAMA", (45455).to_bytes(4, "big")),
        (b"sBIT", bytes([5, 5, 5])),
        (b"bKGD", bytes([0, 9, 0, 9, 0, 9])),
        (b"tEXt", b"Software\0made by hand"),
        (b"pHYs", bytes(9)),
    ],
    ids=lambda extra: extra[0].decode(),
)
def test_what_is_said_to_screens_changes_nothing(extra: tuple[bytes, bytes]) -> None:
    data = filtered(NOISE, 4, extra)
    np.testing.assert_array_equal(decoded(data), NOISE)


def other_kinds() -> dict[str, bytes]:
    grey, rgb = Image.fromarray(NOISE[..., 0]), Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    whole = encode(NOISE)
    return {
        "palette": encode(grey.convert("P")),
        "one bit": encode(grey.convert("1")),
        "sixteen bits": encode(NOISE[..., 0].astype(np.uint16) * 257),
        "alpha": encode(rgb.convert("RGBA")),
        "transparent grey": encode(grey, transparency=3),
        "turned": encode(rgb, exif=exif),
        "turned by a text": filtered(NOISE, 0, (b"tEXt", b"Raw profile type exif\0...")),
        "turned by another": filtered(NOISE, 0, (b"tEXt", b"exif\0...")),
        "xmp as a text": filtered(NOISE, 0, (b"tEXt", b"XML:com.adobe.xmp\0...")),
        "a profile": filtered(NOISE, 0, (b"iCCP", b"name\0\0" + zlib.compress(b"no profile"))),
        "a wrong sum": whole[:29] + bytes(4) + whole[33:],
        "turned by xmp": encode(rgb, pnginfo=text),
        "cut off": whole[:-20],
        "more behind": whole + b"x",
        "nothing": b"",
        "a damaged byte": whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
    }


@pytest.mark.parametrize("name", other_kinds())
def test_what_is_no_plain_png_is_left_to_pillow(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert decoded(other_kinds()[name]) is None
    assert capfd.readouterr().err == ""  # libpng complains there


def test_a_missing_file_is_left_to_pillow(tmp_path: Path) -> None:
    assert decoded(tmp_path / "gone.png") is None
    with pytest.raises(UnreadableError, match="the label is missing"):
        raw_label(tmp_path / "gone.png", PLAIN, "a label")


@pytest.mark.parametrize("picture", [NOISE, NOISE[..., 0]], ids=["rgb", "grey"])
def test_images_and_labels_are_the_same_without_it(
    picture: np.ndarray,  # type: ignore[type-arg]
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture))
    colors = {(int(r), int(g), int(b)): k for k, (r, g, b) in enumerate(NOISE.reshape(-1, 3))}
    greys = {(k, k, k): 255 - k for k in range(256)}
    tables = [colors] if picture.ndim == 3 else [{}, colors, greys]
    maps = [LabelMap(("a", "b"), dict.fromkeys(range(2000), 0), colors=table) for table in tables]

    def read() -> list[np.ndarray]:  # type: ignore[type-arg]
        labels = [
            raw_label(source, one, "a", codec=codec)
            for one in maps
            for source in (path, encode(picture))
            for codec in (True, False)
        ]
        return [read_image(path, "a").numpy(), *labels]

    fast = read()
    assert codecs.decoded_by() == "torchcodec"
    request.getfixturevalue("without_torchcodec")
    assert codecs.decoded_by() == "Pillow"
    assert decoded(path) is None
    for mine, pillows in zip(fast, read(), strict=True):
        np.testing.assert_array_equal(mine, pillows)
    np.testing.assert_array_equal(fast[0], read_pixels(path, "a"))


def test_colours_without_a_table_are_refused_as_before() -> None:
    with pytest.raises(DataError, match="a RGB image with 3 channels"):
        raw_label(encode(NOISE), PLAIN, "a label")


def test_damage_ends_in_nothing_or_pillows_pixels() -> None:
    """In a process of its own: a decoder that crashes takes it along."""
    script = """
import io, zlib, numpy as np, torch
from PIL import Image
from segacc.data.codecs import decode_plain
random = np.random.default_rng(0)
picture = np.kron(random.integers(0, 9, (7, 9), np.uint8), np.ones((9, 8), np.uint8))
file = io.BytesIO()
Image.fromarray(picture).save(file, "PNG")
whole, decoded = file.getvalue(), 0
for turn in range(6000):
    data = bytearray(whole)
    for place in random.integers(8, len(data) - 12, random.integers(1, 5)):
        data[place] = random.integers(256)
    if turn % 2:  # whoever damaged it wrote the sums anew
        place = 8
        while place + 12 <= len(data):
            length = int.from_bytes(data[place:place + 4], "big")
            if place + 12 + length > len(data):
                break
            end = place + 8 + length
            data[end:end + 4] = zlib.crc32(data[place + 4:end]).to_bytes(4, "big")
            place = end + 4
    found = decode_plain(bytes(data), "UNCHANGED")
    if found is not None:
        decoded += 1
        found = found[0] if len(found) == 1 else found.permute(1, 2, 0)
        pillows = np.asarray(Image.open(io.BytesIO(bytes(data))))
        np.testing.assert_array_equal(found.numpy(), pillows)
print(decoded)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 50


@pytest.mark.parametrize("codec", [True, False])
def test_a_label_with_a_wrong_checksum_is_refused(codec: bool, tmp_path: Path) -> None:
    path, labels = tmp_path / "label.png", LabelMap.plain(tuple("abcdefgh"))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) // 8).save(path)
    raw_label(path, labels, "label.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 12] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=r"label\.png: the label cannot be read: damaged: "):
        raw_label(path, labels, "label.png", codec=codec)
