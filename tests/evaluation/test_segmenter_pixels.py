"""The same pixels give the same answer in every form, or a sentence that says what is wrong."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from segacc.errors import DataError, OptionError, UnreadableError
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


class Two(Mixed):
    """The same with two classes."""

    def __init__(self) -> None:
        super().__init__(3)
        self.mix = nn.Conv2d(3, 2, 1)


def segmenter(channels: int) -> Segmenter:
    return Segmenter(Mixed(channels), LabelMap.plain(list("abcd")), Protocol())


def saved(path: Path, pixels: Pixels, **how: Any) -> Path:
    Image.fromarray(pixels).save(path, **how)
    return path


def encoded(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FORMS: dict[str, Callable[[Pixels], Any]] = {
    "bytes": encoded,
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


YCBCR = pytest.param(
    "YCbCr",
    marks=pytest.mark.skipif(
        int(PIL.__version__.partition(".")[0]) < 13,
        reason="Pillow before 13 cannot read the YCbCr TIFF that it writes",
    ),
)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", YCBCR])
def test_other_kinds_of_pil_images(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "kind.tif" if mode in ("CMYK", "YCbCr") else tmp_path / "kind.png"
    Image.fromarray(RGB).convert(mode).save(path)
    with Image.open(path) as opened:
        assert opened.mode == mode
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
        (RGB, "(9, 13, 3) is not that of one image. Give an image as (H, W, C) or "),
        (GREY, "(9, 13) is not that of one image."),
        (Image.fromarray(RGB), "takes 6 channels, which a PIL image cannot have."),
    ):
        with pytest.raises(DataError) as error:
            see(given)
        assert text in str(error.value)


ONE = (
    "Give an image as (H, W), (H, W, C) or (C, H, W) with 1 or 3 or 4 channels, and several as a "
    "list."
)
REFUSED: dict[str, tuple[Any, str]] = {
    "fractions": (RGB / np.float32(255), "the pixels are float32, whose range is not known; "),
    "fractions of a tensor": (torch.rand(3, 9, 13), "the pixels are float32, whose range is not "),
    "bfloat16": (torch.rand(3, 9, 13).bfloat16(), "the pixels are bfloat16, whose range is not "),
    "normalized": (RGB / 127.5 - 1, "the pixels are float64, whose range is not known; "),
    "int64": (RGB.astype(int), "the pixels are int64, whose range is not known; "),
    "bool": (GREY > 99, "the pixels are bool, whose range is not known; "),
    "8 bits in 16": (RGB.astype(np.uint16), "the pixels are uint16 and none is above 255, "),
    "video": (RGB[None, None], "an array of shape (1, 1, 9, 13, 3) is not that of one image."),
    "no image": (RGB[None][:0], f"(0, 9, 13, 3) is not that of one image. {ONE}"),
    "several grey": (np.stack([GREY] * 2), "an array of shape (2, 9, 13) is not that of one "),
    "either": (RGB[:3], f"an array of shape (3, 13, 3) may be (H, W, C) or (C, H, W). {ONE}"),
    "empty": (RGB[:0], "an array of shape (0, 13, 3) is not that of one image."),
    "bytes": (b"\x89PNG", "the image cannot be read: not an image of a known format."),
    "set": ({1}, "set is not an image. An image is a path, the bytes of a file, a PIL image, or "),
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


def test_several_images_answer_as_each_alone(tmp_path: Path) -> None:
    see, small = segmenter(3), RGB[:5, :6]
    path = saved(tmp_path / "one.png", RGB)
    forms = [path, str(path), encoded(RGBA), Image.fromarray(GREY), small, RGBA, GREY, DEEP]
    forms.append(torch.from_numpy(RGB).permute(2, 0, 1))
    for several in (forms, tuple(forms), [small]):
        found = see(several)
        assert isinstance(found, list) and len(found) == len(several)
        for one, given in zip(found, several, strict=True):
            assert one.dtype == np.uint8 and np.array_equal(one, see(given))
    assert see([]) == []


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_in_one_array_answers_as_each_alone(channels: int) -> None:
    see = segmenter(3)
    batch = RANDOM.integers(256, size=(2, 9, 13, channels), dtype=np.uint8)
    wanted = np.stack([see(one) for one in batch])
    assert wanted.shape == (2, 9, 13)
    for given in (batch, batch.transpose(0, 3, 1, 2), torch.from_numpy(batch)):
        assert np.array_equal(see(given), wanted)
    assert np.array_equal(see(torch.from_numpy(batch).permute(0, 3, 1, 2)), wanted)


def test_an_error_says_which_of_several_images_it_is(tmp_path: Path) -> None:
    see, missing = segmenter(3), tmp_path / "missing.png"
    for several, kind, text in (
        ([RGB, missing], UnreadableError, f"image 2 of several: {missing}: the image cannot be "),
        ([RGB / 255], DataError, "image 1 of several: Segmenter: the pixels are float64, whose "),
        (np.stack([RGB, RGB]) / 255, DataError, "image 1 of several: Segmenter: the pixels are "),
        ([RGB, [RGB]], DataError, "image 2 of several: Segmenter: list is not an image."),
        ([RGB[None]], DataError, "image 1 of several: Segmenter: an array of shape (1, 9, 13, 3) "),
        (RGB[None, :3], DataError, "of shape (3, 13, 3) may be (H, W, C) or (C, H, W)."),
    ):
        with pytest.raises(kind) as error:
            see(several)
        assert text in str(error.value)


@pytest.mark.parametrize("image", [GREY, RGB], ids=["grey", "rgb"])
def test_probabilities_are_the_softmax_of_the_logits(image: Pixels) -> None:
    see = segmenter(np.atleast_3d(image).shape[2])
    found = see.probabilities(image)
    pixels = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = see.network(see.network.normalize(pixels)).main[0]
    assert (found.shape, found.dtype) == ((4, 9, 13), np.float32)
    np.testing.assert_allclose(found, F.softmax(logits, 0).numpy(), atol=1e-6)
    assert np.array_equal(found.argmax(0), see(image))
    for refused in ([RGB], RGB / 255):
        with pytest.raises(DataError):
            see.probabilities(refused)


def test_an_overlay_has_the_image_the_palette_and_a_legend() -> None:
    see = segmenter(3)
    picture, prediction = see.overlay(RGB), see(RGB)
    assert (picture.mode, picture.width) == ("RGB", 240) and picture.height > 9
    colors = np.array(see.labels.palette)[prediction]
    blended = 0.45 * RGB + 0.55 * colors
    np.testing.assert_allclose(np.asarray(picture)[:9, :13], blended, atol=0.51)
    assert np.ptp(np.asarray(picture)[9:]) > 99, "a legend below"
    grey = np.asarray(segmenter(1).overlay(GREY))[:9, :13]
    colors = np.array(see.labels.palette)[segmenter(1)(GREY)]
    np.testing.assert_allclose(grey, 0.45 * GREY[..., None] + 0.55 * colors, atol=0.51)


def test_its_text_names_what_it_is() -> None:
    see = segmenter(3).with_protocol(Protocol.parse("whole:pad=14", "-"))
    text = "Segmenter(Mixed, 4 classes (a, b, c, d), protocol whole:pad=14, on cpu)"
    assert repr(see) == text
    named = Segmenter(see.network, see.labels, see.protocol, arch="linear")
    assert repr(named.with_protocol(Protocol())) == (
        "Segmenter(linear, 4 classes (a, b, c, d), protocol whole, on cpu)"
    )


def test_it_is_moved_to_a_device_that_is_there() -> None:
    see = segmenter(3)
    found = see(RGB)
    assert see.to("meta") is see and see.device.type == "meta"
    moved = segmenter(3).to(torch.device("cpu"))
    assert np.array_equal(moved(RGB), found)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(OptionError) as error:
            moved.to(device)
        text = str(error.value)
        assert text.startswith(f"Segmenter: device {device}: ")
        assert text.endswith(
            ". Devices are cpu, cuda, cuda:1, mps, and so on, if torch finds them."
        )
    assert moved.device.type == "cpu" and np.array_equal(moved(RGB), found)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_prediction_already_made_is_drawn(kind: Callable[[Pixels], Any]) -> None:
    one = segmenter(3)
    prediction = one(RGB)
    drawn = one.overlay(RGB, kind(prediction.astype(np.int64)))
    assert np.array_equal(drawn, one.overlay(RGB))
    other = np.full_like(prediction, 255)
    assert np.array_equal(np.asarray(one.overlay(RGB, kind(other)))[:9, :13], RGB)


@pytest.mark.parametrize(
    ("prediction", "complaint"),
    [
        (
            np.zeros((13, 9), np.uint8),
            "the prediction is uint8 of shape (13, 9); expected integers of shape (9, 13), the "
            "size of the image.",
        ),
        (
            np.zeros((9, 13)),
            "the prediction is float64 of shape (9, 13); expected integers of shape (9, 13), the "
            "size of the image.",
        ),
        (
            np.full((9, 13), 4),
            "the prediction has 4; expected classes from 0 to 3, or 255 for ignored pixels. Raw "
            "label ids are not classes.",
        ),
        (
            [[0]],
            "the prediction is list; expected an array or tensor of classes (H, W), as a Segmenter "
            "returns it.",
        ),
    ],
)
def test_a_prediction_that_does_not_fit_is_refused(prediction: Any, complaint: str) -> None:
    with pytest.raises(DataError) as refusal:
        segmenter(3).overlay(RGB, prediction)
    assert str(refusal.value) == f"Segmenter.overlay: {complaint}"


@pytest.mark.parametrize("dtype", ["int32", "int8", "bool", "float64", "nope", np.float32, None])
def test_other_numbers_of_probabilities_are_refused(dtype: Any) -> None:
    with pytest.raises(OptionError) as refused:
        segmenter(3).probabilities(RGB, dtype)
    assert str(refused.value) == (
        "Segmenter: probabilities: dtype: expected one of 'float32', 'float16', 'uint8'; found "
        f"{dtype!r}."
    )


def test_a_protocol_may_be_given_as_text() -> None:
    mine = segmenter(3).with_protocol("slide:crop=32")
    assert mine.protocol == Protocol.parse("slide:crop=32", "here")
    for wrong in (None, "nope"):
        with pytest.raises(OptionError, match=f'Segmenter: protocol: unknown protocol "{wrong}"'):
            segmenter(3).with_protocol(wrong)  # type: ignore[arg-type]


def test_a_threshold_is_a_number() -> None:
    two = Segmenter(Two(), LabelMap.plain(["a", "b"]), Protocol())
    for wrong in ("x", None, True):
        with pytest.raises(OptionError, match="Segmenter: expected a probability > 0 and < 1"):
            two.with_threshold(wrong)  # type: ignore[arg-type]
    text = two.with_threshold(np.float64(0.25)).protocol.text()
    assert Protocol.parse(text, "here").threshold == 0.25


def test_an_image_without_pixels_and_a_path_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"Segmenter: an image of size 0x5 has no pixels\."):
        segmenter(3)(Image.new("RGB", (0, 5)))
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "a.png", RGB)
    assert np.array_equal(segmenter(3)("~/a.png"), segmenter(3)(RGB))
