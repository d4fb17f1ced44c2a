"""The network of unet_small. It imports torch, so it is imported where it is built."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segacc.model import Logits, SegmentationModel


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Build two 3x3 convolutions, (N, channels_in, h, w) to (N, channels_out, h, w).

    Group norm, not batch norm: what a process learns does not depend on how a batch is cut.
    """
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers += [
            nn.Conv2d(channels, channels_out, 3, padding=1, bias=False),
            nn.GroupNorm(1, channels_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(SegmentationModel):
    """U-Net whose level i works on (N, width * 2**i, H / 2**i, W / 2**i), rounded up."""

    head_prefixes = ("head.",)

    def __init__(self, width: int, depth: int, num_channels: int, num_classes: int) -> None:
        """Build depth + 1 levels downward and depth upward."""
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(block, [num_channels, *widths[:-1]], widths))
        self.up = nn.ModuleList(block(a + b, a) for a, b in pairwise(widths))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) of any size to Logits (N, K, H, W)."""
        skips, features = [], images
        for level, down in enumerate(self.down):
            features = down(F.max_pool2d(features, 2, ceil_mode=True) if level else features)
            skips.append(features)
        for up, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            features = F.interpolate(features, size=skip.shape[-2:], mode="nearest")
            features = up(torch.cat([skip, features], dim=1))
        return Logits(self.head(features))
