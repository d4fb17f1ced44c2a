"""Protocols: what is padded or seen through windows, against plain definitions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from launches import ROOT, environment
from segacc import functional
from segacc.errors import OptionError
from segacc.functional import blended_bands, resize, resized_argmax, resized_bands_argmax
from segacc.inference import Segmenter
from segacc.labels import LabelMap
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.protocols import Protocol, Windows, default_protocol, predict

Array = np.ndarray[Any, Any]
CLASSES = 4


class Strided(SegmentationModel):
    """Convolutions down to a fourth of the size; refuses what its rule refuses."""

    def __init__(self, rule: SizeRule | None = None, *, kernel: int = 5, stride: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.size_rule = rule or SizeRule()
        self.layer = nn.Conv2d(3, CLASSES, kernel, stride=stride, padding=kernel // 2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Logits:
        size = (images.shape[2], images.shape[3])
        assert not self.size_rule.complaint(size)
        self.seen.append(size)
        return Logits(self.layer(images))


def draw(height: int, width: int) -> Tensor:
    """Draw an image (3, H, W) uint8."""
    random = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)


def normalized(image: Tensor) -> Tensor:
    """Normalize by the rule: (3, H, W) float32."""
    mean, std = SegmentationModel.mean, SegmentationModel.std
    channels = [(image[c].float() / 255 - mean[c]) / std[c] for c in range(3)]
    return torch.stack(channels)


def logits_of(network: Any, image: Tensor) -> Array:
    """Return logits (K, h, w) float64 of a normalized image (3, H, W)."""
    with torch.no_grad():
        found: Array = network.layer(image[None])[0].double().numpy()
    return found


def weights(out: int, into: int, scale: float) -> Array:
    """Weights (out, into) of linear interpolation; an input pixel spans `scale` output pixels."""
    matrix = np.zeros((out, into))
    for row in range(out):
        place = min(max((row + 0.5) / scale - 0.5, 0.0), into - 1.0)
        low = int(place)
        matrix[row, low] += 1 - (place - low)
        matrix[row, min(low + 1, into - 1)] += place - low
    return matrix


def enlarge(logits: Array, size: tuple[int, int], scale: tuple[float, float]) -> Array:
    down = weights(size[0], logits.shape[1], scale[0])
    across = weights(size[1], logits.shape[2], scale[1])
    return np.einsum("yi,xj,kij->kyx", down, across, logits)


def zeros_around(image: Tensor, height: int, width: int) -> Tensor:
    canvas = torch.zeros(3, height, width)
    canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvas


def plain_pad(network: Any, image: Tensor, seen: Tensor, height: int, width: int) -> Array:
    """Logits (K, H, W) of `image`, seen as `seen` and padded to (height, width)."""
    found = logits_of(network, zeros_around(normalized(seen), height, width))
    size = (image.shape[1], image.shape[2])
    scale = [
        padded / found.shape[axis] * size[axis - 1] / seen.shape[axis]
        for axis, padded in ((1, height), (2, width))
    ]
    return enlarge(found, size, (scale[0], scale[1]))


def plain_slide(network: Any, seen: Tensor, crop: Any, stride: Any) -> Array:
    """Mean logits (K, H, W) of all windows, with a full accumulator."""
    height, width = max(seen.shape[1], crop[0]), max(seen.shape[2], crop[1])
    image = zeros_around(normalized(seen), height, width)
    total, count = np.zeros((CLASSES, height, width)), np.zeros((height, width))
    for row in range(-(-(height - crop[0]) // stride[0]) + 1):
        for column in range(-(-(width - crop[1]) // stride[1]) + 1):
            top = min(row * stride[0], height - crop[0])
            left = min(column * stride[1], width - crop[1])
            window = image[:, top : top + crop[0], left : left + crop[1]]
            found = logits_of(network, window)
            scale = (crop[0] / found.shape[1], crop[1] / found.shape[2])
            total[:, top : top + crop[0], left : left + crop[1]] += enlarge(found, crop, scale)
            count[top : top + crop[0], left : left + crop[1]] += 1
    assert count.min() > 0
    return (total / count)[:, : seen.shape[1], : seen.shape[2]]


def assert_best(prediction: Tensor, wanted: Array) -> None:
    """Assert that each pixel has the best class, or one that rounding made the best."""
    assert (prediction.dtype, tuple(prediction.shape)) == (torch.uint8, wanted.shape[1:])
    chosen = np.take_along_axis(wanted, prediction.numpy()[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, wanted.max(0), atol=1e-4)
    assert len(np.unique(prediction)) == CLASSES


@pytest.mark.parametrize(
    ("text", "size", "padded"),
    [
        ("whole:pad=14", (50, 75), (56, 84)),
        ("whole:pad=14", (28, 75), (28, 84)),
        ("whole:pad=14,short_side=30", (50, 75), (42, 56)),
        ("whole:pad=16,size=40x33", (50, 21), (48, 48)),
        ("whole:pad=5,size=61x33", (20, 30), (65, 35)),
    ],
)
def test_padding_is_that_of_its_definition(text: str, size: Any, padded: Any) -> None:
    network, image, protocol = Strided(), draw(*size), Protocol.parse(text, "--protocol")
    prediction = predict(network, network, image, protocol)
    assert network.seen == [padded]
    seen = protocol.resize(image)
    assert_best(prediction, plain_pad(network, image, seen, *padded))


def test_where_nothing_is_padded_nothing_changes() -> None:
    network, image = Strided(), draw(56, 84)
    for more in ("", "short_side=28,"):
        plain = Protocol.parse(f"whole:{more}", "-")
        padded = Protocol.parse(f"whole:{more}pad=14", "-")
        assert torch.equal(
            predict(network, network, image, padded), predict(network, network, image, plain)
        )


def test_padding_is_the_mean_colour_and_never_enters_a_prediction() -> None:
    network, image = Strided(kernel=1, stride=1), draw(45, 61)
    whole = predict(network, network, image, Protocol())
    for text in ("whole:pad=32", "whole:pad=1000", "slide:crop=64", "slide:crop=50x20,stride=9x20"):
        assert torch.equal(predict(network, network, image, Protocol.parse(text, "-")), whole)
    given: list[Tensor] = []

    def forward(images: Tensor) -> Logits:
        given.append(images)
        return network(images)

    predict(forward, network, image, Protocol(pad=32))
    assert (given[0][..., 45:, :] == 0).all() and (given[0][..., 61:] == 0).all()


@pytest.mark.parametrize(
    ("crop", "stride", "size"),
    [
        ((32, 32), (21, 21), (100, 77)),
        ((32, 24), (32, 24), (64, 48)),
        ((16, 20), (3, 7), (37, 41)),
        ((64, 32), (40, 20), (50, 90)),
        ((64, 64), (43, 43), (50, 21)),
        ((32, 32), (32, 1), (33, 34)),
    ],
)
def test_sliding_is_that_of_its_definition(crop: Any, stride: Any, size: Any) -> None:
    network, image = Strided(SizeRule(fixed=crop)), draw(*size)
    prediction = predict(network, network, image, Protocol(windows=Windows(crop, stride)))
    assert_best(prediction, plain_slide(network, image, crop, stride))


@pytest.mark.parametrize(("size", "side"), [((100, 140), 40), ((30, 21), 47), ((90, 60), 60)])
@pytest.mark.parametrize("chunk", [2**26, 1500])
def test_a_resized_image_is_slid_over(
    size: Any, side: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "CHUNK", chunk)
    network, image = Strided(SizeRule(fixed=(24, 24))), draw(*size)
    protocol = Protocol.parse(f"slide:crop=24,stride=16,short_side={side}", "-")
    prediction = predict(network, network, image, protocol)
    seen = protocol.resize(image)
    assert min(seen.shape[1:]) == side
    mean = plain_slide(network, seen, (24, 24), (16, 16))
    scale = (size[0] / mean.shape[1], size[1] / mean.shape[2])
    assert_best(prediction, enlarge(mean, size, scale))


@pytest.mark.parametrize("size", [(48, 48), (30, 48), (45, 17), (1, 1)])
def test_one_window_is_a_padded_image(size: Any) -> None:
    network, image = Strided(), draw(*size)
    slide = Protocol(windows=Windows.of((48, 48)))
    wanted = predict(network, network, image, Protocol(pad=48))
    assert torch.equal(predict(network, network, image, slide), wanted)
    assert network.seen == [(48, 48)] * 2


def test_bands_are_the_rows_of_a_full_accumulator() -> None:
    windows = Windows((16, 12), (5, 7))
    tops, lefts = windows.starts((50, 40))
    assert (tops, lefts) == ([0, 5, 10, 15, 20, 25, 30, 34], [0, 7, 14, 21, 28])
    random = torch.Generator().manual_seed(0)
    logits = [torch.randn(1, 3, 4, 3, generator=random) for _ in range(len(tops) * len(lefts))]
    total, count = torch.zeros(3, 50, 40), torch.zeros(50, 40)
    for place, one in enumerate(logits):
        top, left = tops[place // len(lefts)], lefts[place % len(lefts)]
        total[:, top : top + 16, left : left + 12] += resize(one, (16, 12))[0]
        count[top : top + 16, left : left + 12] += 1
    bands = list(blended_bands(logits, tops, lefts, (16, 12), (50, 40)))
    assert [band.shape[1] for band in bands] == [5, 5, 5, 5, 5, 5, 4, 16]
    mean = total / count
    assert torch.equal(torch.cat(bands, dim=1), mean)
    for size in ((50, 40), (50, 13), (131, 77), (7, 90)):
        found = resized_bands_argmax(iter(bands), (50, 40), size)
        wanted = resized_argmax(mean[None], size)[0]
        assert (found != wanted).float().mean() < 1e-3
    assert torch.equal(resized_bands_argmax(bands, (50, 40), (50, 40)), mean.argmax(0).byte())


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("size", [(400, 40), (800, 30), (130, 50)])
def test_full_size_logits_exist_for_one_band_only(
    size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "CHUNK", 20 * 16 * 40)
    tops, lefts = Windows.of((16, 16)).starts((400, 40))
    logits = torch.ones(1, 20, 4, 4)
    with Largest() as largest:
        bands = blended_bands((logits for _ in range(999)), tops, lefts, (16, 16), (400, 40))
        assert resized_bands_argmax(bands, (400, 40), size).shape == size
    assert largest.bytes <= 4 * 20 * (16 + 2) * 40, "of 4 * 20 * 400 * 40 bytes"


def test_windows_are_shown_one_at_a_time() -> None:
    network = Strided(SizeRule(fixed=(16, 16)))
    batches = []

    def forward(images: Tensor) -> Logits:
        batches.append(len(images))
        return network(images)

    predict(forward, network, draw(40, 20), default_protocol(network, (16, 16)))
    assert batches == [1] * 8


def test_a_network_of_one_size_segments_any_image() -> None:
    network = Strided(SizeRule(fixed=(64, 64)))
    protocol = default_protocol(network, (256, 256))
    assert protocol.text() == "slide:crop=64,stride=43"
    segmenter = Segmenter(network, LabelMap.plain(list("abcd")), protocol)
    image = draw(100, 150)
    prediction = torch.from_numpy(segmenter(image))
    assert set(network.seen) == {(64, 64)}
    assert_best(prediction, plain_slide(network, image, (64, 64), (43, 43)))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (SizeRule(), "whole"),
        (SizeRule(minimum=29), "whole"),
        (SizeRule(multiple=14), "whole:pad=14"),
        (SizeRule(multiple=32, minimum=64), "whole:pad=32"),
        (SizeRule(fixed=(64, 96)), "slide:crop=64x96,stride=43x64"),
        (SizeRule(square=True), "slide:crop=512,stride=341"),
        (SizeRule(square=True, multiple=32), "slide:crop=512,stride=341"),
    ],
)
def test_the_default_is_a_protocol_under_which_any_image_fits(rule: SizeRule, text: str) -> None:
    network = Strided(rule)
    protocol = default_protocol(network, (512, 512))
    assert protocol.text() == text
    for size in ((61, 83), (30, 600)):
        assert predict(network, network, draw(*size), protocol).shape == size


def test_a_small_image_is_padded_to_the_least_size() -> None:
    network = Strided(SizeRule(multiple=14, minimum=50))
    predict(network, network, draw(20, 71), Protocol(pad=14))
    predict(network, network, draw(20, 71), Protocol(pad=28))
    assert network.seen == [(56, 84), (56, 84)]


@pytest.mark.parametrize(
    ("rule", "protocol", "text"),
    [
        (
            SizeRule(multiple=14),
            "whole:short_side=50",
            "--protocol whole:short_side=50: the network takes only multiples of 14 pixels, an "
            "image comes as 50x75. Choose --protocol whole:short_side=50,pad=14, which pads it.",
        ),
        (
            SizeRule(multiple=14),
            "whole:pad=7",
            "--protocol whole:pad=7: the network takes only multiples of 14 pixels, an image comes "
            "as 63x91. Choose --protocol whole:pad=14, which pads it.",
        ),
        (
            SizeRule(fixed=(64, 96)),
            "whole:pad=64",
            "--protocol whole:pad=64: the network takes only 64x96 pixels, an image comes as "
            "64x128. Choose --protocol slide:crop=64x96,stride=43x64, which sees it through "
            "windows.",
        ),
        (
            SizeRule(square=True, multiple=32),
            "whole",
            "--protocol whole: the network takes only square images, an image comes as 60x90. "
            "Choose --protocol slide:crop=64,stride=43, which sees it through windows.",
        ),
        (
            SizeRule(multiple=14),
            "slide:crop=40x60,short_side=30",
            "--protocol slide:crop=40x60,stride=27x40,short_side=30: the network takes only "
            "multiples of 14 pixels, a window comes as 40x60. Choose --protocol "
            "slide:crop=42x70,stride=28x47,short_side=30, which sees it through windows.",
        ),
    ],
)
def test_a_size_that_does_not_fit_is_refused_and_the_advice_works(
    rule: SizeRule, protocol: str, text: str
) -> None:
    network, image = Strided(rule), draw(60, 90)
    with pytest.raises(OptionError) as caught:
        predict(network, network, image, Protocol.parse(protocol, "-"))
    assert str(caught.value) == text
    advice = text.split("Choose --protocol ")[1].split(", which")[0]
    assert predict(network, network, image, Protocol.parse(advice, "-")).shape == (60, 90)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("whole", "whole"),
        ("whole:pad=14", "whole:pad=14"),
        ("whole:pad=14,short_side=512", "whole:short_side=512,pad=14"),
        ("whole:size=320,pad=32", "whole:size=320x320,pad=32"),
        ("slide:crop=512", "slide:crop=512,stride=341"),
        ("slide:crop=512,stride=341", "slide:crop=512,stride=341"),
        ("slide:crop=320x416,stride=100x416", "slide:crop=320x416,stride=100x416"),
        ("slide:stride=1,crop=1x2,short_side=9", "slide:crop=1x2,stride=1,short_side=9"),
    ],
)
def test_a_protocol_is_printed_as_it_is_typed(typed: str, text: str) -> None:
    protocol = Protocol.parse(typed, "--protocol")
    assert protocol.text() == text
    assert Protocol.parse(text, "--protocol") == protocol


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("tiles", '--protocol: unknown protocol "tiles". Known: whole, slide.'),
        ("slide", '--protocol: "crop" must be given (SIZE or HEIGHTxWIDTH in pixels).'),
        (
            "slide:crop=64,pad=3",
            '--protocol: unknown option "pad". Known: crop, stride, short_side.',
        ),
        (
            "whole:crop=64",
            '--protocol: unknown option "crop". Known: short_side, size, pad.',
        ),
        (
            "slide:crop=64,stride=60x65",
            "--protocol: the stride 60x65 is larger than the crop 64: pixels between the windows "
            "would have no prediction.",
        ),
        (
            "whole:size=9,short_side=9",
            "--protocol: short_side and size exclude each other in 'whole:size=9,short_side=9'.",
        ),
        (
            "whole:pad=0",
            "--protocol: \"pad\" is '0', expected integer > 0: input should be greater than 0.",
        ),
    ],
)
def test_a_wrong_protocol_is_one_paragraph(typed: str, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Protocol.parse(typed, "--protocol")
    assert str(caught.value) == text


def test_more_forward_calls_change_no_prediction() -> None:
    network, image = Strided(SizeRule(fixed=(32, 32))), draw(50, 60)
    protocol = default_protocol(network, (32, 32))
    wanted, asked = predict(network, network, image, protocol), []
    network.seen = []

    def most(count: int) -> int:
        assert not network.seen, "asked before the first forward call"
        asked.append(count)
        return 11

    assert torch.equal(predict(network, network, image, protocol, most), wanted)
    assert (asked, network.seen) == ([6], [(32, 32)] * 11)


def evaluated(*launcher: str) -> Any:
    script = [sys.executable, *launcher, str(ROOT / "tests" / "sharded_evaluation.py")]
    done = subprocess.run(
        script, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.launch
def test_a_sharded_network_sees_as_many_windows_on_each_process(tmp_path: Path) -> None:
    alone = evaluated()
    sharded = evaluated("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert (alone["sharded"], sharded["sharded"]) == (False, True)
    assert sharded["scores"] == alone["scores"]
    assert sum(sharded["scores"].values()) == 32 * 32 + 70 * 100 + 33 * 32 + 120 * 31 + 20 * 20
