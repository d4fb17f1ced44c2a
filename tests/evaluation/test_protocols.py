"""Protocols: what is padded or seen through windows, against plain definitions."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from cli_tools import assert_succeeded, warm_segacc
from launches import ROOT
from protocol_tools import (
    Strided,
    assert_best,
    draw,
    enlarge,
    plain_pad,
    plain_slide,
)
from segacc.errors import OptionError
from segacc.evaluation.predict import predict
from segacc.evaluation.protocol import Protocol, Windows, default_protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.kernels import resize as resizing
from segacc.labels import LabelMap
from segacc.model import Logits, SizeRule


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
    monkeypatch.setattr(resizing, "CHUNK", chunk)
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
            "--protocol whole:short_side=50: the network supports only multiples of 14 pixels, "
            "but an "
            "image is 50x75. Use --protocol whole:short_side=50,pad=14, which pads it.",
        ),
        (
            SizeRule(multiple=14),
            "whole:pad=7",
            "--protocol whole:pad=7: the network supports only multiples of 14 pixels, but an "
            "image "
            "is 63x91. Use --protocol whole:pad=14, which pads it.",
        ),
        (
            SizeRule(fixed=(64, 96)),
            "whole:pad=64",
            "--protocol whole:pad=64: the network supports only 64x96 pixels, but an image is "
            "64x128. "
            "Use --protocol slide:crop=64x96,stride=43x64, which uses sliding windows.",
        ),
        (
            SizeRule(square=True, multiple=32),
            "whole",
            "--protocol whole: the network supports only square images, but an image is 60x90. Use "
            "--protocol slide:crop=64,stride=43, which uses sliding windows.",
        ),
        (
            SizeRule(multiple=14),
            "slide:crop=40x60,short_side=30",
            "--protocol slide:crop=40x60,stride=27x40,short_side=30: the network supports only "
            "multiples of 14 pixels, but a window is 40x60. Use --protocol "
            "slide:crop=42x70,stride=28x47,short_side=30, which uses sliding windows.",
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
    advice = text.split("Use --protocol ")[1].split(", which")[0]
    assert predict(network, network, image, Protocol.parse(advice, "-")).shape == (60, 90)


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


def evaluated(processes: int) -> Any:
    """Run the script on two processes that shard, or alone."""
    code = (ROOT / "tests" / "sharded_evaluation.py").read_text()
    done = assert_succeeded(warm_segacc().code(code, cwd=ROOT, processes=processes))
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.launch
def test_a_sharded_network_sees_as_many_windows_on_each_process() -> None:
    alone, sharded = evaluated(0), evaluated(2)
    assert (alone["sharded"], sharded["sharded"]) == (False, True)
    assert sharded["scores"] == alone["scores"]
    pixels = 3 * 32 * 32 + 70 * 100 + 33 * 32 + 120 * 31 + 20 * 20
    assert [sum(one.values()) for one in alone["scores"]] == [pixels] * 2
