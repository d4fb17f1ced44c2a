"""PIDNet (Xu et al., CVPR 2023): branches for details, context and boundaries."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from segacc.kernels.edges import Maps
from segacc.model.networks.branches import (
    BasicBlock,
    Bottleneck,
    BranchedForSemanticSegmentation,
    DeepPyramid,
    Head,
    PooledPyramid,
    activated,
    normed,
    resized,
    stage,
    stem,
)
from segacc.model.networks.configs import PIDNetSegConfig
from segacc.model.networks.linear import segmenter_output

SIZES = {
    "s": (32, 2, 3, 96, 128),
    "m": (64, 2, 3, 96, 128),
    "l": (64, 3, 4, 112, 256),
    "tiny": (4, 2, 1, 4, 4),
}
"""Channels of the first stage, blocks of the first two stages and of the next two, channels of the
pyramid's scales and of the head, by variant."""


class ParallelPyramid(PooledPyramid):
    """PAPPM: each scale is added to the finest, and all are processed at once (section 3.3)."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """Build the layers; see the base class."""
        super().__init__(inputs, width, outputs)
        self.scale_process = activated(4 * width, 4 * width, 3, groups=4)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h, w)."""
        finest, *pooled = self.scales(maps)
        summed = torch.cat([one + finest for one in pooled], dim=1)
        return self.joined(maps, [finest, self.scale_process(summed)])


class PixelAttention(nn.Module):
    """Pag: the detail branch takes context where both agree (section 3.2)."""

    def __init__(self, inputs: int, width: int) -> None:
        """Build the layers; the branches are compared in `width` channels."""
        super().__init__()
        self.f_x, self.f_y = normed(inputs, width), normed(inputs, width)

    def forward(self, details: Tensor, context: Tensor) -> Tensor:
        """Mix details (N, C, h, w) with context of any size: (N, C, h, w)."""
        both = self.f_x(details) * resized(self.f_y(context), details)
        share: Tensor = both.sum(dim=1, keepdim=True).sigmoid()
        return (1 - share) * details + share * resized(context, details)


class LightFusion(nn.Module):
    """Light-Bag: details at boundaries and context elsewhere, by 1x1 convolutions (section 3.4)."""

    def __init__(self, width: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv_p, self.conv_i = normed(width, width), normed(width, width)

    def forward(self, details: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Mix three maps (N, C, h, w): (N, C, h, w)."""
        share = boundary.sigmoid()
        near: Tensor = self.conv_p(details + (1 - share) * context)
        far: Tensor = self.conv_i(context + share * details)
        return near + far


class Fusion(nn.Module):
    """Bag: details at boundaries and context elsewhere, by a 3x3 convolution (section 3.4)."""

    def __init__(self, width: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv = activated(width, width, 3)

    def forward(self, details: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Mix three maps (N, C, h, w): (N, C, h, w)."""
        share = boundary.sigmoid()
        mixed: Tensor = self.conv(share * details + (1 - share) * context)
        return mixed


class PIDNetForSemanticSegmentation(BranchedForSemanticSegmentation):
    """PIDNet; logits are at 1/8 of the image size.

    The stages of the context branch are `layer1` to `layer5`; those of the detail branch end in
    `_`, those of the boundary branch in `_d`.
    """

    config_class = PIDNetSegConfig

    def __init__(self, config: PIDNetSegConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        width, early, late, scales, inner = SIZES[config.variant]
        fine, large = 2 * width, early > 2
        edge = fine if large else width
        self.conv1 = stem(config.num_channels, width)
        self.layer1 = stage(BasicBlock, width, width, early)
        self.layer2 = stage(BasicBlock, width, fine, early, stride=2)
        self.layer3 = stage(BasicBlock, fine, 4 * width, late, stride=2)
        self.layer3_ = stage(BasicBlock, fine, fine, early)
        self.layer3_d = BasicBlock(fine, edge)
        self.compression3, self.pag3 = normed(4 * width, fine), PixelAttention(fine, width)
        self.diff3 = normed(4 * width, edge, 3)
        self.layer4 = stage(BasicBlock, 4 * width, 8 * width, late, stride=2)
        self.layer4_ = stage(BasicBlock, fine, fine, early)
        self.layer4_d = BasicBlock(fine, fine) if large else stage(Bottleneck, width, width, 1)
        self.compression4, self.pag4 = normed(8 * width, fine), PixelAttention(fine, width)
        self.diff4 = normed(8 * width, fine, 3)
        self.layer5 = stage(Bottleneck, 8 * width, 8 * width, 2, stride=2)
        self.layer5_ = stage(Bottleneck, fine, fine, 1)
        self.layer5_d = stage(Bottleneck, fine, fine, 1)
        pyramid = DeepPyramid if large else ParallelPyramid
        self.spp = pyramid(16 * width, scales, 4 * width)
        self.dfm = Fusion(4 * width) if large else LightFusion(4 * width)
        extra, edges = config.auxiliary_loss_weight > 0, config.boundary_loss_weight > 0
        self.seghead_p = Head(fine, inner, config.num_labels) if extra else None
        self.seghead_d = Head(fine, width, 1) if edges else None
        self.final_layer = Head(4 * width, inner, config.num_labels)
        self.post_init()

    def maps(self, images: Tensor, *, heads: bool) -> Maps:
        """Map images (N, C, H, W) to logits; those of the two other heads only with `heads`."""
        shared = F.relu(self.layer2(F.relu(self.layer1(self.conv1(images)))))
        context = F.relu(self.layer3(shared))
        details, edges = self.layer3_(shared), self.layer3_d(shared)
        early = F.relu(self.pag3(details, self.compression3(context)))
        edges = F.relu(edges + resized(self.diff3(context), edges))

        context = F.relu(self.layer4(context))
        details, edges = self.layer4_(early), self.layer4_d(edges)
        details = F.relu(self.pag4(details, self.compression4(context)))
        edges = F.relu(edges + resized(self.diff4(context), edges))

        context = self.layer5(context)
        details, last = self.layer5_(details), self.layer5_d(edges)
        fused = self.dfm(details, resized(self.spp(context), details), last)
        return Maps(
            self.final_layer(fused),
            self.seghead_p(early) if heads and self.seghead_p is not None else None,
            self.seghead_d(edges) if heads and self.seghead_d is not None else None,
        )

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Map images (N, C, H, W) to logits (N, K, h, w); the loss is without boundaries."""
        found = self.maps(pixel_values, heads=self.training or labels is not None)
        return segmenter_output(
            self,
            found.main,
            labels,
            auxiliary_logits=found.auxiliary,
            auxiliary_loss_weight=self.config.auxiliary_loss_weight,
        )
