"""From files to tensors: every kind of picture, and what is said of one that cannot be."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools import encode
from segacc.contracts import Reading
from segacc.data.decode import raw_label, read_image, read_label
from segacc.data.sample_pair import read_sample
from segacc.errors import DataError, UnreadableError
from segacc.hookspecs import Sample
from segacc.labels import LabelMap

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (9, 14, 3), dtype=np.uint8)
IDS = RANDOM.integers(0, 3, (9, 14), dtype=np.uint8)
LABELS = LabelMap.plain(("sky", "road", "tree"))
NO_PICTURE = "not an image of a known format."


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def image_of(data: bytes) -> np.ndarray[Any, Any]:
    """Read an image and check what all of them have; (H, W, 3) for comparison."""
    image = read_image(data, "a picture")
    assert (image.dtype, image.shape[0]) == (torch.uint8, 3)
    assert image.permute(1, 2, 0).is_contiguous()
    return image.permute(1, 2, 0).numpy()


def refusal(kind: type[DataError], function: Any, *given: Any) -> str:
    with pytest.raises(DataError) as error:
        function(*given)
    assert type(error.value) is kind
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_pixels(kind: str, settings: Any, tmp_path: Path) -> None:
    data = encode(PIXELS, kind, **settings)
    np.testing.assert_array_equal(image_of(data), PIXELS)
    (tmp_path / "picture").write_bytes(data)
    np.testing.assert_array_equal(
        read_image(tmp_path / "picture", "a picture").permute(1, 2, 0).numpy(), PIXELS
    )


def test_a_jpeg_is_nearly_its_picture() -> None:
    smooth = np.stack([np.add.outer(np.arange(64), np.arange(48))] * 3, -1).astype(np.uint8)
    found = image_of(encode(smooth, "JPEG", quality=95)).astype(int)
    assert np.abs(found - smooth).max() <= 3


def test_a_palette_picture_has_its_colours() -> None:
    few = Image.fromarray(PIXELS).quantize(7)
    np.testing.assert_array_equal(image_of(encode(few)), np.array(few.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_pictures_become_three_equal_channels(mode: str) -> None:
    grey = Image.fromarray(PIXELS).convert(mode)
    wanted = np.array(grey.convert("L"))
    np.testing.assert_array_equal(image_of(encode(grey)), np.stack([wanted] * 3, -1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_is_dropped(kind: str) -> None:
    alpha = RANDOM.integers(0, 256, (9, 14, 1), dtype=np.uint8)
    data = encode(np.concatenate([PIXELS, alpha], 2), kind)
    np.testing.assert_array_equal(image_of(data), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    plain = np.full((16, 16, 3), (200, 50, 20), np.uint8)
    found = image_of(encode(Image.fromarray(plain).convert("CMYK"), kind)).astype(int)
    assert np.abs(found - plain).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_their_upper_byte(kind: str) -> None:
    deep = RANDOM.integers(0, 2**16, (9, 14), dtype=np.uint16)
    assert deep.max() > 60000
    np.testing.assert_array_equal(image_of(encode(deep, kind)), np.stack([deep >> 8] * 3, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("number", "turned"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))],
)
def test_a_picture_stands_upright_as_its_exif_says(number: int, turned: Any, kind: str) -> None:
    block = np.zeros((32, 64, 3), np.uint8)
    block[:16, :16] = 250  # bright in one corner only
    settings: dict[str, Any] = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    found = image_of(encode(block, kind, exif=orientation(number), **settings))
    assert found.shape == turned(block).shape
    np.testing.assert_array_equal(found > 128, turned(block) > 128)


@pytest.mark.parametrize(("number", "turned"), [(3, 2), (6, -1), (8, 1)])
def test_a_grey_picture_of_16_bits_stands_upright_too(number: int, turned: int) -> None:
    deep = RANDOM.integers(0, 2**16, (9, 14), dtype=np.uint16)
    image = read_image(encode(deep, exif=orientation(number)), "a picture", 1)
    np.testing.assert_array_equal(image[0].numpy(), np.rot90(deep >> 8, turned))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_each_number_of_channels_is_what_pillow_makes_of_it(kind: str) -> None:
    data = encode(PIXELS, kind)
    picture = Image.open(io.BytesIO(data))
    grey = read_image(data, "a picture", 1)
    assert grey.shape == (1, 9, 14) and grey.is_contiguous()
    np.testing.assert_array_equal(grey[0].numpy(), np.array(picture.convert("L")))
    np.testing.assert_array_equal(image_of(data), np.array(picture))


def test_four_channels_are_those_of_the_file() -> None:
    four = RANDOM.integers(0, 256, (9, 14, 4), dtype=np.uint8)
    for picture in (Image.fromarray(four), Image.fromarray(four, "CMYK")):
        data = encode(picture, "TIFF")
        image = read_image(data, "a picture", 4)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), four)
    assert refusal(DataError, read_image, encode(PIXELS), "a picture", 4) == (
        "a picture: the image has 3 channels (mode RGB); --num-channels 4 requires four."
    )


def test_a_decoded_image_may_be_written_to() -> None:
    for channels in (1, 3, 4):
        image = read_image(encode(Image.fromarray(PIXELS).convert("RGBA")), "a picture", channels)
        image.fill_(7)
        label = read_label(encode(IDS), LABELS, "a label")
        label.fill_(1)
        assert (image == 7).all() and (label == 1).all()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_of_several_pictures_in_a_file_the_first_is_taken(kind: str) -> None:
    pictures = [Image.new("RGB", (14, 9), color) for color in ((200, 0, 0), (0, 200, 0))]
    data = encode(pictures[0], kind, save_all=True, append_images=pictures[1:])
    found = image_of(data).astype(int)
    assert found.shape == (9, 14, 3)
    assert np.abs(found - (200, 0, 0)).max() <= 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty."),
        (b"not a picture at all", NO_PICTURE),
        (encode(PIXELS)[:50], "image file is truncated."),
        (encode(PIXELS)[: len(encode(PIXELS)) // 2], "image file is truncated."),
    ],
    ids=["empty", "text", "png start", "half png"],
)
def test_an_image_that_cannot_be_decoded(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "street.jpg"
    path.write_bytes(data)
    message = refusal(UnreadableError, read_image, path, str(path))
    assert message == f"{path}: the image cannot be read: {reason}"


def test_a_truncated_jpeg() -> None:
    message = refusal(UnreadableError, read_image, encode(PIXELS, "JPEG")[:-60], "street.jpg")
    assert message.startswith("street.jpg: the image cannot be read: image file is truncated (")
    assert message.endswith(" bytes not processed).")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged TIFF tags
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"])
def test_damaged_bytes_never_do_worse_than_an_unreadable_file(
    kind: str,
) -> None:
    """torchvision's PNG decoder ended the process with a segmentation fault on such files."""
    small = Reading(max_pixels=10_000)  # a damaged size may ask for gigabytes
    whole, random, outcomes = encode(PIXELS, kind), np.random.default_rng(1), set()
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(0, 256)
        try:
            image = read_image(bytes(damaged), "damaged", 3, small)
            assert (image.dtype, image.ndim, image.shape[0]) == (torch.uint8, 3, 3)
            outcomes.add("image")
        except DataError as error:
            assert str(error).startswith("damaged: the image ")
            outcomes.add("error")
    assert "error" in outcomes


def test_a_missing_image(tmp_path: Path) -> None:
    path = tmp_path / "street.jpg"
    assert refusal(UnreadableError, read_image, path, str(path)) == (
        f"{path}: the image cannot be read: No such file or directory."
    )


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_an_image_of_32_bits_is_refused_and_not_clipped(dtype: Any, mode: str) -> None:
    data = encode(np.full((4, 5), 1000, dtype), "TIFF")
    assert refusal(DataError, read_image, data, "sample 7") == (
        f"sample 7: the image has 32 bits per pixel (mode {mode}), whose value range is unknown. "
        "Save it with 8 or 16 bits."
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_labels_are_read_as_ids(kind: str, tmp_path: Path) -> None:
    data = encode(IDS, kind)
    label = read_label(data, LABELS, "a label")
    assert label.dtype == torch.uint8
    np.testing.assert_array_equal(label.numpy(), IDS)
    (tmp_path / "label").write_bytes(data)
    assert torch.equal(read_label(tmp_path / "label", LABELS, "a label"), label)


def test_a_palette_label_is_read_as_indices_not_as_colours() -> None:
    picture = Image.fromarray(IDS)
    picture.putpalette([255, 255, 255, 0, 128, 64, 9, 9, 9] + [0] * 759)
    assert picture.mode == "P"
    np.testing.assert_array_equal(read_label(encode(picture), LABELS, "a").numpy(), IDS)


def test_a_1_bit_label_is_classes_0_and_1() -> None:
    picture = Image.fromarray(IDS > 0)
    assert picture.mode == "1"
    np.testing.assert_array_equal(read_label(encode(picture), LABELS, "a").numpy(), IDS > 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_label_ids_are_kept(kind: str) -> None:
    labels = LabelMap(("road", "car", "sky"), {7: 0, 26003: 1, 40001: 2, 65535: 255})
    raw = np.array([[7, 26003, 40001], [65535, 7, 7]], np.uint16)
    found = read_label(encode(raw, kind), labels, "a")
    np.testing.assert_array_equal(found.numpy(), [[0, 1, 2], [255, 0, 0]])


def test_labels_pass_through_the_label_map() -> None:
    labels = LabelMap.plain(("a", "b"), reduce_labels=True)
    np.testing.assert_array_equal(
        read_label(encode(IDS), labels, "a").numpy(), np.where(IDS == 0, 255, IDS - 1)
    )


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (Image.fromarray(PIXELS), "a RGB image with 3 channels"),
        (Image.fromarray(PIXELS).convert("RGBA"), "a RGBA image with 4 channels"),
        (Image.fromarray(IDS).convert("LA"), "a LA image with 2 channels"),
    ],
    ids=["RGB", "RGBA", "LA"],
)
def test_a_label_of_colours_is_refused(picture: Image.Image, told: str) -> None:
    assert refusal(DataError, read_label, encode(picture), LABELS, "masks/a.png") == (
        f"masks/a.png: the label is {told}; expected one channel of class ids. Name the class of "
        "each colour (colors=FILE of --dataset folder), or export index masks (palette PNGs are "
        "read as ids)."
    )


COLORS = {(128, 64, 128): 0, (64, 0, 128): 1, (0, 0, 0): 2}  # CamVid's road, car and void
STREET = LabelMap(("road", "car"), {0: 0, 1: 1, 2: 255}, (), COLORS)
IN_COLORS = np.array(list(COLORS), np.uint8)[IDS]
IN_CLASSES = np.where(IDS == 2, 255, IDS)


def in_street(picture: Any, kind: str = "PNG") -> np.ndarray[Any, Any]:
    return read_label(encode(picture, kind), STREET, "a label").numpy()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_colours_are_classes_where_the_map_names_them(kind: str) -> None:
    np.testing.assert_array_equal(in_street(IN_COLORS, kind), IN_CLASSES)
    np.testing.assert_array_equal(in_street(IDS, kind), IN_CLASSES)  # ids as ever


def test_transparency_in_colours_must_be_none() -> None:
    alpha = np.full((9, 14, 1), 255, np.uint8)
    np.testing.assert_array_equal(in_street(np.concatenate([IN_COLORS, alpha], 2)), IN_CLASSES)
    alpha[3, 2:5] = 254
    data = encode(np.concatenate([IN_COLORS, alpha], 2))
    assert refusal(DataError, read_label, data, STREET, "a.png") == (
        "a.png: 3 pixels of the label are transparent, so it is unclear which colour they "
        "have. Export it without transparency."
    )


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF"])
def test_the_colours_of_a_palette_count_where_the_map_names_colours(kind: str) -> None:
    picture = Image.fromarray(2 - IDS)  # the palette is in another order than the table
    picture.putpalette([part for color in reversed(COLORS) for part in color])
    np.testing.assert_array_equal(in_street(picture, kind), IN_CLASSES)


def test_grey_labels_are_colours_where_all_colours_are_grey() -> None:
    labels = LabelMap(("no", "yes"), {0: 0, 1: 1, 255: 255}, (), {(0,) * 3: 0, (255,) * 3: 1})
    for picture in (Image.fromarray(IDS > 0), np.where(IDS > 0, 255, 0).astype(np.uint8)):
        np.testing.assert_array_equal(read_label(encode(picture), labels, "a").numpy(), IDS > 0)


def test_a_compressed_label_in_colours_is_told_as_such() -> None:
    message = refusal(DataError, read_label, encode(IN_COLORS, "JPEG"), STREET, "a.jpg")
    assert message.startswith("a.jpg: colours that are not among the 3 of the colour table: (")
    assert re.search(
        r"So many different colours \(\d+\) suggest JPEG compression, smoothed", message
    )


def test_32_bit_label_ids_are_exact() -> None:
    labels = LabelMap(("road", "car"), {16_777_217: 0, 5: 1, 2**31 - 1: 255})
    raw = np.array([16_777_217, 5, 2**31 - 1], np.int32)[IDS]
    found = read_label(encode(raw, "TIFF"), labels, "a").numpy()
    np.testing.assert_array_equal(found, IN_CLASSES)
    raw[0, 0] = 16_777_216  # the same number as a float of 32 bits
    message = refusal(DataError, read_label, encode(raw, "TIFF"), labels, "a.tif")
    assert message.startswith("a.tif: label values outside the 2 classes: 16777216 (1 pixel).")


def array_file(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


@pytest.mark.parametrize("dtype", [bool, "u1", "i1", "<u2", ">u2", "i2", "u4", "i8", "u8"])
def test_a_numpy_label_is_its_values(dtype: str) -> None:
    ids = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    found = raw_label(array_file(ids), LabelMap.plain(("a", "b")), "x")
    np.testing.assert_array_equal(found, ids)


def test_a_negative_id_of_a_numpy_label_stays_negative() -> None:
    found = raw_label(array_file(np.int8([[-1, 1]])), LabelMap.plain(("a", "b")), "x")
    np.testing.assert_array_equal(found, [[-1, 1]])


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((2, 3)), "an array of shape (2, 3) and type float64"),
        (np.zeros((2, 3, 1), np.uint8), "an array of shape (2, 3, 1) and type uint8"),
        (np.full((2, 3), 2**31), "an array of shape (2, 3) and type int64"),
        (np.zeros((0, 3), np.uint8), "an array of shape (0, 3) and type uint8"),
    ],
)
def test_a_numpy_label_that_holds_no_ids_is_refused(array: np.ndarray, told: str) -> None:
    with pytest.raises(UnreadableError) as refused:
        raw_label(array_file(array), LabelMap.plain(("a", "b")), "x")
    assert str(refused.value) == (
        f"x: the label cannot be read: {told}; expected (height, width) and integers of up to 32 "
        "bits, which are class ids."
    )


def test_a_numpy_label_with_python_objects_is_refused() -> None:
    data = array_file(np.array([[{}]], dtype=object))
    with pytest.raises(UnreadableError, match="cannot be read"):
        raw_label(data, LabelMap.plain(("a", "b")), "x")


def test_a_label_of_fractions_is_refused() -> None:
    data = encode(IDS.astype(np.float32), "TIFF")
    assert refusal(DataError, read_label, data, LABELS, "a.tif") == (
        "a.tif: the label has fractional values (mode F); expected class ids. "
        "Save them as 8-bit or 16-bit integers."
    )


def test_a_label_value_outside_the_map() -> None:
    raw = IDS.copy()
    raw[0, :2] = 9
    assert refusal(DataError, read_label, encode(raw), LABELS, "a.png") == (
        "a.png: label values outside the 3 classes: 9 (2 pixels). Allowed raw ids: 0-2, 255. "
        "If these pixels should be ignored, add ignore=9; "
        "otherwise name the missing classes."
    )


def test_a_missing_label(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert refusal(UnreadableError, read_label, path, LABELS, str(path)) == (
        f"{path}: the label is missing; each image needs a label with the same name."
    )


def test_a_label_that_cannot_be_decoded() -> None:
    assert refusal(UnreadableError, read_label, b"text", LABELS, "sample 3") == (
        f"sample 3: the label cannot be read: {NO_PICTURE}"
    )


def test_a_sample_is_image_and_label() -> None:
    image, label = read_sample(Sample(encode(PIXELS), encode(IDS), "one"), LABELS)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), PIXELS)
    np.testing.assert_array_equal(label.numpy(), IDS)


def test_a_sample_may_have_a_label_map_of_its_own() -> None:
    turned = LabelMap(LABELS.names, {0: 2, 1: 1, 2: 0})
    sample = Sample(encode(PIXELS), encode(IDS), "one", turned)
    np.testing.assert_array_equal(read_sample(sample, LABELS)[1].numpy(), 2 - IDS)


def test_a_label_of_another_size_than_its_image(tmp_path: Path) -> None:
    message = (
        "the label is 14x9 pixels, its image 9x14 (height x width). They must be of one size: "
        "export the label again, or resize it with nearest neighbour."
    )
    turned = encode(IDS.T)
    sample = Sample(encode(PIXELS), turned, "one")
    assert refusal(DataError, read_sample, sample, LABELS) == f"sample one: {message}"
    path = tmp_path / "one.png"
    path.write_bytes(turned)
    sample = Sample(encode(PIXELS), path, "one")
    assert refusal(DataError, read_sample, sample, LABELS) == f"{path}: {message}"


def test_errors_of_a_sample_name_the_file_that_is_bad(tmp_path: Path) -> None:
    image, label = tmp_path / "images.jpg", tmp_path / "label.png"
    label.write_bytes(encode(IDS))
    image.write_bytes(b"nothing")
    assert refusal(UnreadableError, read_sample, Sample(image, label, "x"), LABELS) == (
        f"{image}: the image cannot be read: {NO_PICTURE}"
    )
    assert refusal(UnreadableError, read_sample, Sample(b"x", encode(IDS), "x"), LABELS) == (
        f"sample x: the image cannot be read: {NO_PICTURE}"
    )
