"""How images are meant: turned by EXIF or as stored, and how many bits of 16 are used."""

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from check_tools import chosen
from data_tools import encode
from folder_tools import fill
from segacc.contracts import USUAL, Reading
from segacc.data.codecs import picture_size
from segacc.data.decode import raw_label, read_image
from segacc.data.sample_pair import read_sample
from segacc.data.samples import build_splits
from segacc.data.splits import Part
from segacc.errors import DataError, OptionError, UnreadableError
from segacc.hookspecs import Dataset, Sample, Stream
from segacc.labels import LabelMap
from segacc.plugins.datasets.nuclei import NucleiOptions
from segacc.registry import Offer, Registry, choose
from stream_tools import write_samples

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PIXELS, kind, exif=exif)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_is_what_the_file_has(orientation: int, kind: str) -> None:
    source, plain = turned(orientation, kind), turned(1, kind)
    image = read_image(source, "it", 3, Reading(exif="stored"))
    assert image.shape == (3, 4, 6)
    if kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), PIXELS)
    else:
        np.testing.assert_array_equal(image.numpy(), read_image(plain, "it").numpy())
    assert picture_size(source, stored=True) == (4, 6)
    assert picture_size(source) == tuple(read_image(source, "it").shape[-2:])


def test_every_data_set_has_the_options_and_mixes_keep_those_of_their_sets(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name)
    sets = f'["folder:root={tmp_path}/a,bits=10", "folder:root={tmp_path}/b"]'
    mixed = chosen(f"mix:sets={sets},exif=stored,bits=12")
    found = [sample.reading for sample in build_splits(mixed).splits["train"]]
    assert found == [Reading(exif="stored", bits=10)] * 2 + [Reading(exif="stored", bits=12)] * 2
    assert build_splits(chosen("nuclei")).splits["train"][0].reading == USUAL
    one = build_splits(chosen("nuclei:exif=upright")).splits["train"]
    assert one[0].reading == one[:1][0].reading == Reading(exif="upright")
    with pytest.raises(
        Exception, match="nuclei: exif: expected one of upright, stored; found 'sideways'"
    ):
        chosen("nuclei:exif=sideways")


def test_every_label_map_can_be_edited(tmp_path: Path) -> None:
    data = build_splits(chosen("nuclei:border=true,map={drop: [nucleus_border]}"))
    assert data.labels.names == ("background", "nucleus")
    label = read_sample(data.splits["train"][0], data.labels)[1]
    assert set(label.unique().tolist()) == {0, 1, 255}
    with pytest.raises(OptionError, match=r"--dataset nuclei: map: drop: there is no class \"cell"):
        build_splits(chosen("nuclei:map={drop: [cell]}"))
    with pytest.raises(OptionError, match=r'unknown option "mapp"\. Did you mean "map"'):
        chosen("nuclei:mapp={drop: [cell]}")


def test_edits_need_one_label_map() -> None:
    nuclei = build_splits(chosen("nuclei"))
    own = replace(nuclei.splits["train"][0], labels=nuclei.labels)
    for some in ([own], Part([own], (0,))):
        record = Dataset(
            name="own",
            summary="",
            options=NucleiOptions,
            build=lambda options, some=some: replace(nuclei, splits={"train": some}),
        )
        registry = Registry([Offer("dataset", record, "own", "1")])
        dropped = choose(registry, "dataset", {"name": "own", "map": {"rename": {}}}, "--dataset")
        with pytest.raises(OptionError, match="has a label map of its own") as error:
            _ = build_splits(dropped).splits["train"][0]
        assert own.id in str(error.value)


def test_streams_too(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    label = encode(np.ones((4, 6), np.uint8))
    write_samples(tmp_path / "a.tar", [Sample(turned(6, "PNG"), label, "one")])
    given = f"shards:train={tmp_path}/a.tar,label=seg.png,image=jpg,exif=stored"
    data = build_splits(chosen(given))
    stream = data.splits["train"]
    assert isinstance(stream, Stream)
    [(sample, _)] = pickle.loads(pickle.dumps(stream.read))(stream.shards[0], None)
    assert read_sample(sample, data.labels)[0].shape == (3, 4, 6)


def test_of_so_many_bits_the_upper_eight_are_kept() -> None:
    deep = np.array([[0, 16, 4095, 5000]], np.uint16)
    image = read_image(encode(deep), "it", 1, Reading(bits=12))
    assert image.tolist() == [[[0, 1, 255, 255]]]
    assert read_image(encode(deep), "it", 1).tolist() == [[[0, 0, 15, 19]]]
    assert read_image(encode(PIXELS), "it", 3, Reading(bits=12)).numpy().max() == PIXELS.max()


def test_colours_of_sixteen_bits_are_read_from_tiff_or_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    deep = np.full((4, 5, 3), 4095, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    image = read_image(tmp_path / "a.tif", "it", 3, Reading(bits=12))
    assert image.shape == (3, 4, 5) and int(image.min()) == 255
    with pytest.raises(DataError, match="bits=12 of the data set: only the upper byte of an image"):
        read_image(tmp_path / "a.tif", "it", 1, Reading(bits=12))


def deep_tiff() -> bytes:
    file = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(file, np.zeros((5, 4, 6), np.uint8))
    return file.getvalue()


@pytest.mark.parametrize(
    ("source", "channels"),
    [
        *((lambda kind=kind: encode(PIXELS, kind), 3) for kind in ("PNG", "JPEG", "TIFF", "WEBP")),
        (lambda: encode(PIXELS[..., 0]), 1),
        (deep_tiff, 5),
    ],
    ids=["png", "jpeg", "tiff", "webp", "grey", "bands"],
)
def test_an_image_with_too_many_pixels_is_refused(
    source: Callable[[], bytes], channels: int
) -> None:
    data = source()
    with pytest.raises(UnreadableError) as error:
        read_image(data, "scan.png", channels, Reading(max_pixels=23))
    assert str(error.value) == (
        "scan.png: the image cannot be read: it has 24 pixels (4x6), and up to 23 are read. If "
        "memory suffices, set max_pixels=24, an option of every data set, of `segacc predict` "
        "(--max-pixels) and of Segmenter.from_pretrained."
    )
    assert read_image(data, "scan.png", channels, Reading(max_pixels=24)).shape[1:] == (4, 6)


@pytest.mark.parametrize("codec", [False, True])
def test_a_label_with_too_many_pixels_is_refused(codec: bool) -> None:
    data, labels = encode(np.zeros((4, 6), np.uint8)), LabelMap.plain(("a", "b"))
    with pytest.raises(UnreadableError, match=r"^a: the label cannot be read: it has 24 pixels"):
        raw_label(data, labels, "a", Reading(max_pixels=23), codec=codec)
    assert raw_label(data, labels, "a", Reading(max_pixels=24), codec=codec).shape == (4, 6)


def bomb(width: int, height: int) -> bytes:
    """Return the header of a grey PNG of any size, without its pixels."""
    data = encode(np.zeros((4, 6), np.uint8))
    head = data[:16] + struct.pack(">II", width, height) + data[24:29]
    return head + struct.pack(">I", zlib.crc32(head[12:])) + data[33:]


@pytest.mark.filterwarnings("error")  # such as Pillow's of large images
def test_the_limit_is_above_aerial_images_and_pillows_is_kept() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert picture_size(bomb(12_000, 16_000)) == (16_000, 12_000)
    with pytest.raises(UnreadableError, match=r"it has 224000000 pixels .* up to 200000000 are"):
        read_image(bomb(14_000, 16_000), "a", 1)
    with pytest.raises(UnreadableError, match="truncated"):  # it is begun
        read_image(bomb(10_000, 10_000), "a", 1)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_pgm_says_itself_how_many_values_it_has() -> None:
    file = b"P5 2 1 4095\n" + np.array([4095, 2048], ">u2").tobytes()
    assert read_image(file, "it", 1).tolist() == [[[255, 128]]]
    assert read_image(file, "it", 1, Reading(bits=12)).tolist() == [[[255, 128]]]
