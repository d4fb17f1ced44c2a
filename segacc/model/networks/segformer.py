"""SegFormer with the decoder of mmsegmentation, which transformers lacks."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import (
    SegformerDecodeHead,
    SegformerForSemanticSegmentation,
)

from segacc.model.networks.configs import NormedSegformerConfig


class NormedProjection(nn.Module):
    """A 1x1 convolution with batch norm and ReLU.

    Args:
        channels: channels of the feature map.
        hidden_size: C, the width of the decoder.
    """

    def __init__(self, channels: int, hidden_size: int) -> None:
        """Build the layers; see the class."""
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden_size, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, channels, h, w) to (N, h * w, C), as the linear layer that it is for."""
        projected: Tensor = F.relu(self.norm(self.conv(features)))
        return projected.flatten(2).transpose(1, 2)


class NormedSegformerHead(SegformerDecodeHead):  # type: ignore[misc]
    """The decoder of SegFormer as mmsegmentation builds it: `SegformerHead`.

    Each feature map goes through a convolution with batch norm and ReLU, where the authors' decoder
    has a linear layer with a bias (Xie et al., NeurIPS 2021, equation 4).
    """

    def __init__(self, config: NormedSegformerConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.linear_projections = nn.ModuleList(
            NormedProjection(channels, config.decoder_hidden_size)
            for channels in config.hidden_sizes
        )


class NormedSegformerForSemanticSegmentation(SegformerForSemanticSegmentation):  # type: ignore[misc]
    """SegFormer with `NormedSegformerHead`."""

    config_class = NormedSegformerConfig

    def __init__(self, config: NormedSegformerConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.decode_head = NormedSegformerHead(config)
        self.post_init()
