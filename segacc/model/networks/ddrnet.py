"""DDRNet (Hong et al. 2021; Pan et al., T-ITS 2023): two branches that exchange features."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from segacc.model.networks.branches import (
    BasicBlock,
    Bottleneck,
    BranchedForSemanticSegmentation,
    DeepPyramid,
    Head,
    normed,
    resized,
    stage,
    stem,
)
from segacc.model.networks.configs import DDRNetSegConfig
from segacc.model.networks.linear import output_beside

SIZES = {"23_slim": (32, 128, 64), "23": (64, 128, 128), "tiny": (4, 4, 4)}
"""Channels of the first stage, of the pyramid's scales and of the head, by variant."""


class DDRNetForSemanticSegmentation(BranchedForSemanticSegmentation):
    """DDRNet-23: a branch at 1/8 of the image size beside one that goes down to 1/64.

    Logits are at 1/8 of the image size. The stages of the fine branch end in `_`.
    """

    config_class = DDRNetSegConfig

    def __init__(self, config: DDRNetSegConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        width, scales, inner = SIZES[config.variant]
        fine = 2 * width
        self.conv1 = stem(config.num_channels, width)
        self.layer1 = stage(BasicBlock, width, width, 2)
        self.layer2 = stage(BasicBlock, width, fine, 2, stride=2)
        self.layer3 = stage(BasicBlock, fine, 4 * width, 2, stride=2)
        self.layer3_ = stage(BasicBlock, fine, fine, 2)
        self.down3 = normed(fine, 4 * width, 3, stride=2)
        self.compression3 = normed(4 * width, fine)
        self.layer4 = stage(BasicBlock, 4 * width, 8 * width, 2, stride=2)
        self.layer4_ = stage(BasicBlock, fine, fine, 2)
        twice = normed(fine, 4 * width, 3, stride=2), normed(4 * width, 8 * width, 3, stride=2)
        self.down4 = nn.Sequential(*twice[0], nn.ReLU(), *twice[1])
        self.compression4 = normed(8 * width, fine)
        self.layer5_ = stage(Bottleneck, fine, fine, 1)
        self.layer5 = stage(Bottleneck, 8 * width, 8 * width, 1, stride=2)
        self.spp = DeepPyramid(16 * width, scales, 4 * width)
        extra = config.auxiliary_loss_weight > 0
        self.seghead_extra = Head(fine, inner, config.num_labels) if extra else None
        self.final_layer = Head(4 * width, inner, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Map images (N, C, H, W) to logits (N, K, h, w) at 1/8 of the image size."""
        shared = F.relu(self.layer2(F.relu(self.layer1(self.conv1(pixel_values)))))
        coarse, fine = self.layer3(shared), self.layer3_(shared)
        sent = self.compression3(F.relu(coarse))
        coarse = coarse + self.down3(F.relu(fine))
        early = fine + resized(sent, fine)

        coarse, fine = self.layer4(F.relu(coarse)), self.layer4_(F.relu(early))
        sent = self.compression4(F.relu(coarse))
        coarse = coarse + self.down4(F.relu(fine))
        fine = fine + resized(sent, fine)

        fine = self.layer5_(F.relu(fine))
        coarse = self.spp(self.layer5(F.relu(coarse)))
        logits = self.final_layer(fine + resized(coarse, fine))
        return output_beside(self, logits, labels, self.seghead_extra, early)
