"""Several views of an image, and the confidence of a prediction, against plain definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from protocol_tools import Array, Strided, draw, enlarge, plain_pad, plain_slide
from segacc.evaluation.predict import decide_batch, predict, probability_bands
from segacc.evaluation.protocol import Protocol
from segacc.kernels import resize as resizing
from segacc.model import SizeRule

NETWORKS = {
    "four classes": {},
    "two classes": {"num_classes": 2},
    "probabilities": {"num_classes": 5, "probabilities": True},
}
SEEN = [
    "whole",
    "whole:pad=14",
    "whole:short_side=30",
    "whole:short_side=30,long_side=41,antialias=false",
    "whole:size=40x33,pad=16",
    "slide:crop=24,stride=16",
    "slide:crop=24x20,stride=13x20,blend=gaussian",
    "slide:crop=24,stride=16,short_side=40",
    "slide:crop=80,blend=gaussian",
]
VIEWS = [
    "tta",
    "tta:scales=0.5/1.0/1.5",
    "tta:scales=0.75/1.25,flip=false,pad=14",
    "tta:scales=0.5,flip=false",
    "tta:scales=0.5/1,crop=24,stride=16",
    "tta:scales=1/1.5,crop=24x20,stride=16x11,blend=gaussian,short_side=40",
    "tta:scales=1/2,size=40x33,antialias=false",
    "tta:scales=0.3/1.7,short_side=30,long_side=41",
]


def network_of(kind: str) -> Strided:
    return Strided(**NETWORKS[kind]).eval()  # type: ignore[arg-type]


def shares(network: Any, values: Array) -> Array:
    """Probabilities (K, H, W) of values (K, H, W)."""
    if not network.probabilities:
        values = np.exp(values - values.max(0))
    return values / values.sum(0)


def plain_values(network: Any, image: Tensor, protocol: Protocol, size: Any, flip: bool) -> Array:
    """Values (K, H, W) of one view at the image's size, everything held in memory."""
    seen = transforms.resize(image, list(size), antialias=protocol.antialias)
    seen, original = seen.flip(-1) if flip else seen, (image.shape[1], image.shape[2])
    if windows := protocol.windows:
        down, across = (np.ones(side) for side in windows.crop)
        if windows.blend == "gaussian":
            down, across = (
                np.exp(-0.5 * ((np.arange(side) - side // 2) / (side / 8)) ** 2)
                for side in windows.crop
            )
        weigh = np.outer(down, across)
        mean = plain_slide(network, seen, windows.crop, windows.stride, weigh)
        scale = (original[0] / size[0], original[1] / size[1])
        values = enlarge(mean, original, scale)
    else:
        pad = protocol.pad or 1
        values = plain_pad(network, image, seen, *(-(-side // pad) * pad for side in size))
    return values[..., ::-1] if flip else values


def plain_shares(network: Any, image: Tensor, text: str) -> Array:
    """Mean probabilities (K, H, W) of all views."""
    protocol, (height, width) = Protocol.parse(text, "-"), image.shape[1:]
    if protocol.size:
        height, width = protocol.size
    elif protocol.long_side:
        factor = min(30 / min(height, width), 41 / max(height, width))
        height, width = int(height * factor + 0.5), int(width * factor + 0.5)
    elif short := protocol.short_side:
        height, width = (int(short * side / min(height, width)) for side in (height, width))
    found = []
    for scale in protocol.scales:
        size = (int(height * scale + 0.5), int(width * scale + 0.5))
        for flip in (False, True)[: 1 + protocol.flip]:
            values = plain_values(network, image, protocol, size, flip)
            found.append(shares(network, values))
    return np.mean(found, 0)


def assert_found(found: Any, wanted: Array) -> None:
    """Compare classes and confidence (1, H, W) with probabilities (K, H, W)."""
    classes, confidence, _ = found
    assert (classes.dtype, confidence.dtype) == (torch.uint8, torch.float32)
    assert classes.shape == confidence.shape == (1, *wanted.shape[1:])
    chosen = np.take_along_axis(wanted, classes.numpy().astype(int), 0)[0]
    np.testing.assert_allclose(chosen, wanted.max(0), atol=2e-5)
    np.testing.assert_allclose(confidence[0], chosen, atol=2e-5)
    assert confidence.max() <= 1 and len(np.unique(classes)) == len(wanted)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("text", [*SEEN, *VIEWS])
@pytest.mark.parametrize("chunk", [2**26, 20_000, 700])
def test_probabilities_are_those_of_their_definition(
    kind: str, text: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image = network_of(kind), draw(61, 43)
    wanted = plain_shares(network, image, text)
    monkeypatch.setattr(resizing, "CHUNK", chunk)
    given = network, network, image, Protocol.parse(text, "-")
    found = decide_batch(*given[:2], image[None], given[3], confidence=True)
    assert_found(found, wanted)
    assert torch.equal(predict(*given), found.classes[0]), "as without a confidence"
    all_of_them = torch.cat(list(probability_bands(*given)), dim=1)
    assert (all_of_them.dtype, all_of_them.shape) == (torch.float32, wanted.shape)
    np.testing.assert_allclose(all_of_them, wanted, atol=2e-5)
    assert (all_of_them.argmax(0) != found.classes[0]).float().mean() < 1e-3


@pytest.mark.parametrize("values", ["two classes", "two scores"])
@pytest.mark.parametrize("text", [*SEEN, *VIEWS])
def test_a_threshold_is_that_of_the_probability(values: str, text: str) -> None:
    network = Strided(num_classes=2, probabilities=values == "two scores").eval()
    image, shares = draw(61, 43), plain_shares(network, draw(61, 43), text)[1]
    options = {"confidence": True, "log_odds": True}
    plain = decide_batch(network, network, image[None], Protocol.parse(text, "-"), **options)
    for threshold in (float(np.quantile(shares, 0.2)), float(np.quantile(shares, 0.9)), 0.5):
        protocol = Protocol.parse(text, "-").with_threshold(threshold, "-")
        found = decide_batch(network, network, image[None], protocol, **options)
        clear = abs(shares - threshold) > 1e-5
        assert np.array_equal((shares > threshold)[clear], found.classes[0].numpy()[clear])
        assert found.classes.dtype == torch.uint8 and clear.mean() > 0.99
        if threshold == 0.5:
            assert torch.equal(found.classes, plain.classes)
        sure = np.where(found.classes[0] == 1, shares, 1 - shares)
        np.testing.assert_allclose(found.confidence[0], sure, atol=2e-5)  # type: ignore[index]
        odds = np.log(shares / (1 - shares))
        np.testing.assert_allclose(found.log_odds[0], odds, atol=1e-4)  # type: ignore[index]
        assert torch.equal(predict(network, network, image, protocol), found.classes[0])


@pytest.mark.parametrize("text", [*SEEN, *VIEWS])
def test_images_of_a_batch_are_seen_as_each_alone(text: str) -> None:
    network, protocol = network_of("four classes"), Protocol.parse(text, "-")
    images = torch.stack([draw(50, 37), draw(37, 50).mT, draw(50, 37).flip(1)])
    found = decide_batch(network, network, images, protocol, confidence=True)
    calls, network.seen = network.seen, []
    for image, one in zip(images, found.each(), strict=True):
        network.seen = []
        alone = decide_batch(network, network, image[None], protocol, confidence=True)
        assert network.seen == calls, "as many forward calls as for one"
        assert (one.classes != alone.classes).float().mean() < 1e-3
        torch.testing.assert_close(one.confidence, alone.confidence, rtol=0, atol=1e-5)


def test_without_need_no_probability_is_computed() -> None:
    network, image = network_of("two classes"), draw(20, 20)[None]
    for text in ("whole", "slide:crop=16"):
        assert decide_batch(network, network, image, Protocol.parse(text, "-"))[1] is None


def test_a_mirrored_image_gives_the_mirrored_probabilities() -> None:
    network, image = network_of("four classes"), draw(41, 33)
    protocol = Protocol.parse("tta:scales=0.5/1/1.25", "-")
    one, other = (
        decide_batch(network, network, given[None], protocol).confidence
        for given in (image, image.flip(-1))
    )
    assert one is not None and other is not None
    torch.testing.assert_close(one, other.flip(-1), rtol=0, atol=1e-5)


def test_all_windows_of_all_views_are_counted_at_once() -> None:
    network, image, asked = Strided(SizeRule(fixed=(32, 32))), draw(50, 60), []
    protocol = Protocol.parse("tta:scales=0.5/1,crop=32,stride=32", "-")

    def most(count: int) -> int:
        assert not network.seen, "asked before the first forward call"
        asked.append(count)
        return count + 3

    wanted = predict(network, network, image, protocol)
    network.seen = []
    assert torch.equal(predict(network, network, image, protocol, most), wanted)
    assert (asked, len(network.seen)) == ([2 * (1 + 4)], 13)


def test_scores_that_are_all_zero_have_no_confidence() -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 1, :2] = 5
    found = resizing.decide(logits, (4, 4), shares="sum")
    assert found.confidence is not None
    assert found.confidence[0, :, 0].tolist() == [1, 1, 0, 0]
    assert found.classes[0, :, 0].tolist() == [1, 1, 0, 0]
