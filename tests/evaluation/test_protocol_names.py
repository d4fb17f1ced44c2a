"""Protocols by name: what is typed, told, stored and refused, and the field's own protocols."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as transforms

from protocol_tools import Strided, draw
from segacc.errors import OptionError
from segacc.evaluation.predict import predict
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.protocol_options import PRESETS
from segacc.model import SizeRule

ADE = "whole:short_side=512,long_side=2048,antialias=false"
CITY = "whole:short_side=1024,long_side=2048,antialias=false"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("whole", "whole"),
        ("whole:pad=14", "whole:pad=14"),
        ("whole:pad=14,short_side=512", "whole:short_side=512,pad=14"),
        ("whole:size=320,pad=32", "whole:size=320x320,pad=32"),
        ("whole:antialias=true,size=9", "whole:size=9x9"),
        (
            "whole:antialias=no,long-side=80,short-side=40",
            "whole:short_side=40,long_side=80,antialias=false",
        ),
        ("slide:crop=512", "slide:crop=512,stride=341"),
        ("slide:512", "slide:crop=512,stride=341"),
        ("slide:crop=512,stride=341", "slide:crop=512,stride=341"),
        ("slide:crop=320x416,stride=100x416", "slide:crop=320x416,stride=100x416"),
        ("slide:stride=1,crop=1x2,short_side=9", "slide:crop=1x2,stride=1,short_side=9"),
        ("slide:crop=9,blend=gaussian", "slide:crop=9,stride=6,blend=gaussian"),
        ("slide:crop=9,blend=even", "slide:crop=9,stride=6"),
        ("tta", "tta:scales=1,flip=true"),
        (
            "tta:scales=0.5/0.75/1.0/1.25/1.5,flip=true",
            "tta:scales=0.5/0.75/1/1.25/1.5,flip=true",
        ),
        ("tta:scales=0.333333333333,flip=no", "tta:scales=0.333333333333,flip=false"),
        (
            "tta:crop=64x48,blend=gaussian,short_side=60",
            "tta:scales=1,flip=true,crop=64x48,stride=43x32,blend=gaussian,short_side=60",
        ),
        (
            "tta:size=60,pad=7,antialias=false",
            "tta:scales=1,flip=true,size=60x60,antialias=false,pad=7",
        ),
        ("whole:threshold=0.30,size=9", "whole:size=9x9,threshold=0.3"),
        ("slide:crop=9,threshold=0.5", "slide:crop=9,stride=6"),
        (
            "tta:short_side=9,interpolation=nearest,pad=3",
            "tta:scales=1,flip=true,short_side=9,interpolation=nearest,pad=3",
        ),
        ("whole:interpolation=bilinear,size=9", "whole:size=9x9"),
        (
            "voc:interpolation=bicubic,threshold=0.25",
            "voc:interpolation=bicubic,threshold=0.25 (whole:short_side=512,long_side=2048,"
            "interpolation=bicubic,antialias=false,threshold=0.25)",
        ),
        ("mmseg-ade20k", f"mmseg-ade20k ({ADE})"),
        (" voc ", f"voc ({ADE})"),
        ("mmseg-cityscapes", f"mmseg-cityscapes ({CITY})"),
        (
            "mmseg-cityscapes:crop=1024,stride=768",
            "mmseg-cityscapes:crop=1024,stride=768 (slide:crop=1024,stride=768,short_side=1024,"
            "long_side=2048,antialias=false)",
        ),
        (
            "mmseg-ade20k:short_side=640,long_side=2560",
            "mmseg-ade20k:short_side=640,long_side=2560 (whole:short_side=640,long_side=2560,"
            "antialias=false)",
        ),
        (
            "voc:flip=true,pad=32",
            "voc:flip=true,pad=32 (tta:scales=1,flip=true,short_side=512,long_side=2048,"
            "antialias=false,pad=32)",
        ),
        (
            "voc:scales=0.5/1,flip=false,crop=64",
            "voc:scales=0.5/1,flip=false,crop=64 (tta:scales=0.5/1,flip=false,crop=64,stride=43,"
            "short_side=512,long_side=2048,antialias=false)",
        ),
    ],
)
def test_a_protocol_is_told_as_it_is_typed(typed: str, text: str) -> None:
    protocol = Protocol.parse(typed, "--protocol")
    assert protocol.text() == text
    assert Protocol.parse(text, "--protocol") == protocol


KNOWN = "whole, slide, tta, mmseg-ade20k, mmseg-cityscapes, voc"
LOOKS = "tta needs several views: give scales or flip=true, or use whole or slide."
SMALLER = "long_side limits the result of short_side: give a smaller short_side as well."
WINDOWS = "stride and blend are options of windows: give their crop as well."
UNUSED = "antialias has no effect, as images are not resized."
RANGE = "threshold: expected a number > 0 and < 1; found"
COMMON = "short_side, long_side, antialias, interpolation, threshold"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("tiles", f'unknown protocol "tiles". Known: {KNOWN}.'),
        ("slide", 'the option "crop" is required (SIZE or HEIGHTxWIDTH in pixels > 0).'),
        (
            "slide:crop=64,pad=3",
            f'unknown option "pad". Known: crop, stride, blend, {COMMON}.',
        ),
        (
            "whole:crop=64",
            f'unknown option "crop". Known: {COMMON}, size, pad.',
        ),
        (
            "tta:windows=64",
            'unknown option "windows". Known: scales, flip, crop, stride, blend, '
            f"{COMMON}, size, pad.",
        ),
        (
            "voc:colour=1",
            f'unknown option "colour". Known: {COMMON}, size, pad.',
        ),
        (
            "slide:crop=64,stride=60x65",
            "the stride 60x65 is larger than the crop 64, so pixels between the windows would have "
            "no prediction.",
        ),
        (
            "slide:crop=64,blend=round",
            "blend: expected one of even, gaussian; found 'round'.",
        ),
        ("whole:size=9,short_side=9", "short_side and size exclude each other."),
        ("voc:size=9", "short_side and size exclude each other."),
        ("whole:long_side=9", SMALLER),
        ("whole:long_side=9,short_side=10", SMALLER),
        ("whole:antialias=false", UNUSED),
        ("slide:crop=9,antialias=true", UNUSED),
        ("tta:antialias=false", UNUSED),
        ("whole:interpolation=bicubic", UNUSED.replace("antialias", "interpolation")),
        ("whole:threshold=1", f"{RANGE} '1'."),
        ("voc:threshold=0", f"{RANGE} '0'."),
        ("tta:stride=9", WINDOWS),
        ("tta:blend=even", WINDOWS),
        (
            "tta:crop=9,pad=3",
            "crop and pad exclude each other: a small image is always padded to a window.",
        ),
        ("tta:scales=[]", "give one or more scales, each once."),
        ("tta:scales=0.5/1/0.50", "give one or more scales, each once."),
        ("tta:flip=false", LOOKS),
        ("voc:flip=false", LOOKS),
        (
            "tta:scales=0/1",
            "scales: expected a list of numbers > 0; found '0'.",
        ),
        ("whole:pad=0", "pad: expected an integer > 0; found '0'."),
        (
            "voc (whole)",
            f"voc stands for {ADE}; got 'voc (whole)'.",
        ),
        ("whole (voc)", "whole stands for whole; got 'whole (voc)'."),
    ],
)
def test_a_wrong_protocol_is_one_paragraph(typed: str, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Protocol.parse(typed, "--protocol")
    assert str(caught.value) == f"--protocol: {text}"


@pytest.mark.parametrize(
    ("text", "size", "seen"),
    [
        ("mmseg-ade20k", (512, 683), (512, 683)),
        ("mmseg-ade20k", (375, 500), (512, 683)),  # 682.67, which image processors round down
        ("whole:short_side=512", (375, 500), (512, 682)),
        ("voc", (500, 375), (683, 512)),
        ("mmseg-ade20k", (300, 1500), (410, 2048)),  # 409.6
        ("mmseg-ade20k", (1, 9000), (1, 2048)),
        ("mmseg-cityscapes", (1024, 2048), (1024, 2048)),
        ("mmseg-cityscapes", (512, 1024), (1024, 2048)),
        ("whole:size=30x40", (9, 9), (30, 40)),
        ("whole:short_side=9", (9, 30), (9, 30)),
    ],
)
def test_images_are_resized_as_published(text: str, size: tuple[int, int], seen: object) -> None:
    assert Protocol.parse(text, "-").seen_size(size) == seen


def test_short_side_alone_resizes_as_torchvision() -> None:
    for size, side in (((100, 141), 37), ((33, 20), 51), ((7, 7), 12), ((21, 1000), 21)):
        image = draw(*size)
        wanted = transforms.resize(image, [side], antialias=True)
        found = Protocol.parse(f"whole:short_side={side}", "-").resize(image)
        assert torch.equal(found, wanted)


def test_without_antialias_each_pixel_comes_from_four() -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, ::8] = 255  # a line in eight; every resized row lies between lines 8 k + 3 and 8 k + 4
    smooth, plain = (
        Protocol.parse(f"whole:size=8,antialias={text}", "-").resize(image)
        for text in ("true", "false")
    )
    assert plain.max() == 0 and 10 < int(smooth.min()) <= int(smooth.max()) < 50
    noise = draw(61, 90)
    found = Protocol.parse("whole:size=20x33,antialias=false", "-").resize(noise)
    wanted = F.interpolate(noise[None].float(), (20, 33), mode="bilinear")[0]
    assert (found.float() - wanted).abs().max() <= 1  # rounded to grey levels


def test_the_meaning_of_a_preset_is_a_protocol_without_a_name() -> None:
    for name, meaning in PRESETS.items():
        protocol = Protocol.parse(meaning, "-")
        assert (protocol.text(), protocol.preset) == (meaning, "")
        image = draw(40, 60)
        network = Strided()
        predict(network, network, image, Protocol.parse(name, "-"))
        assert network.seen == [protocol.seen_size((40, 60))]


def test_the_advice_on_a_preset_is_what_it_stands_for_and_more() -> None:
    network = Strided(SizeRule(multiple=14))
    with pytest.raises(OptionError) as caught:
        predict(network, network, draw(60, 90), Protocol.parse("voc", "-"))
    right = "whole:short_side=512,long_side=2048,antialias=false,pad=14"
    assert str(caught.value) == (
        f"--protocol voc ({ADE}): the network supports only multiples of 14 pixels, but an "
        f"image is "
        f"512x768. Use --protocol {right}, which pads it."
    )
    assert predict(network, network, draw(60, 90), Protocol.parse(right, "-")).shape == (60, 90)


@pytest.mark.parametrize(
    ("rule", "typed", "right"),
    [
        (SizeRule(fixed=(32, 32)), "tta", "tta:scales=1,flip=true,crop=32,stride=21"),
        (
            SizeRule(fixed=(32, 32)),
            "whole:size=9,antialias=false",
            "slide:crop=32,stride=21",
        ),
        (
            SizeRule(multiple=8),
            "slide:crop=20,blend=gaussian",
            "slide:crop=24,stride=16,blend=gaussian",
        ),
    ],
)
def test_the_advice_keeps_what_fits(rule: SizeRule, typed: str, right: str) -> None:
    network = Strided(rule)
    with pytest.raises(OptionError) as caught:
        predict(network, network, draw(60, 90), Protocol.parse(typed, "-"))
    assert f"Use --protocol {right}, which uses sliding windows." in str(caught.value)
    assert predict(network, network, draw(60, 90), Protocol.parse(right, "-")).shape == (60, 90)
