"""A small network and plain definitions, in float64, of what protocols ask for."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segacc.model import Logits, SegmentationModel, SizeRule

Array = np.ndarray[Any, Any]
CLASSES = 4


class Strided(SegmentationModel):
    """Convolutions down to a fourth of the size; refuses what its rule refuses."""

    def __init__(
        self,
        rule: SizeRule | None = None,
        *,
        kernel: int = 5,
        stride: int = 4,
        num_classes: int = CLASSES,
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.size_rule, self.probabilities = rule or SizeRule(), probabilities
        self.layer = nn.Conv2d(3, num_classes, kernel, stride=stride, padding=kernel // 2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Logits:
        size = (images.shape[2], images.shape[3])
        assert not self.size_rule.complaint(size)
        self.seen.append(size)
        return Logits(self.values(images))

    def values(self, images: Tensor) -> Tensor:
        """Return what stands in the place of logits: (N, K, h, w)."""
        found: Tensor = self.layer(images)
        return found.sigmoid() if self.probabilities else found


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
        found: Array = network.values(image[None])[0].double().numpy()
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
    return np.einsum("yi,xj,kij->kyx", down, across, logits, optimize=True)


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


def plain_slide(network: Any, seen: Tensor, crop: Any, stride: Any, weigh: Any = None) -> Array:
    """Mean logits (K, H, W) of all windows, with a full accumulator; `weigh` is (*crop)."""
    height, width = max(seen.shape[1], crop[0]), max(seen.shape[2], crop[1])
    image, weigh = zeros_around(normalized(seen), height, width), 1 if weigh is None else weigh
    num_classes = network.layer.out_channels
    total, count = np.zeros((num_classes, height, width)), np.zeros((height, width))
    for row in range(-(-(height - crop[0]) // stride[0]) + 1):
        for column in range(-(-(width - crop[1]) // stride[1]) + 1):
            top = min(row * stride[0], height - crop[0])
            left = min(column * stride[1], width - crop[1])
            window = image[:, top : top + crop[0], left : left + crop[1]]
            found = logits_of(network, window)
            scale = (crop[0] / found.shape[1], crop[1] / found.shape[2])
            part = (slice(top, top + crop[0]), slice(left, left + crop[1]))
            total[:, *part] += weigh * enlarge(found, crop, scale)
            count[part] += weigh
    assert count.min() > 0
    return (total / count)[:, : seen.shape[1], : seen.shape[2]]


def assert_best(prediction: Tensor, wanted: Array) -> None:
    """Assert that each pixel has the best class, or one that rounding made the best."""
    assert (prediction.dtype, tuple(prediction.shape)) == (torch.uint8, wanted.shape[1:])
    chosen = np.take_along_axis(wanted, prediction.numpy()[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, wanted.max(0), atol=1e-4)
    assert len(np.unique(prediction)) == len(wanted)
