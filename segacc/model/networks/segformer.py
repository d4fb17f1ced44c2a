"""SegFormer's decoder with fewer operations, and the decoder that mmsegmentation builds."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import (
    SegformerDecodeHead,
    SegformerForSemanticSegmentation,
)

from segacc.model.networks.configs import NormedSegformerConfig


def make_segformer(config: SegformerConfig) -> SegformerForSemanticSegmentation:
    """Build SegFormer as transformers does, with `FusedFirstHead`."""
    network = SegformerForSemanticSegmentation(config)
    network.decode_head.__class__ = FusedFirstHead  # it has the same layers
    return network


class FusedFirstHead(SegformerDecodeHead):  # type: ignore[misc]
    """The decoder of SegFormer (Xie et al., NeurIPS 2021, equation 4), fused before resizing.

    The decoder projects each feature map to D channels, resizes them to the largest map,
    concatenates them and fuses them with a 1x1 convolution. Resizing is linear, the same for all
    channels, and leaves constants as they are. So the columns of the convolution that belong to a
    map may be applied before it is resized, at once with the projection, and the results are added:
    the logits are the same but for rounding, with a fraction of the operations and memory.

    Parameters and their names are those of transformers. If a layer was replaced or has hooks, for
    example an adapter's, all are called as transformers calls them.
    """

    def forward(self, encoder_hidden_states: Sequence[Tensor], **more: Any) -> Tensor:
        """Map features (N, channels, h, w), largest first, to logits (N, K, h, w) of the first."""
        maps = all(features.ndim == 4 for features in encoder_hidden_states)
        logits: Tensor
        if not (maps and all(map(_is_plain, self.fused_layers()))):
            logits = super().forward(encoder_hidden_states, **more)
            return logits
        size = encoder_hidden_states[0].shape[2:]
        columns = self.linear_fuse.weight.flatten(1).chunk(len(encoder_hidden_states), dim=1)
        total: Tensor | None = None
        # The convolution takes the smallest map first.
        for features, projection, weight in zip(
            reversed(encoder_hidden_states),
            reversed(self.linear_projections),
            columns,
            strict=True,
        ):
            tokens = self.fuse(projection, weight, features)
            fused = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *features.shape[2:])
            if fused.shape[2:] != size:
                fused = F.interpolate(fused, size, mode="bilinear", align_corners=False)
            total = fused if total is None else total.add_(fused)
        hidden = F.relu(self.batch_norm(total), inplace=True)
        logits = self.classifier(self.dropout(hidden))
        return logits

    def fused_layers(self) -> Iterator[nn.Module]:
        """Return the layers whose weights `forward` uses without calling them."""
        yield self.linear_fuse
        for projection in self.linear_projections:
            yield projection.proj

    def fuse(self, projection: Any, weight: Tensor, features: Tensor) -> Tensor:
        """Project and fuse features (N, channels, h, w) to (N, h * w, D); `weight` is (D, D)."""
        linear = projection.proj
        tokens = features.flatten(2).transpose(1, 2)
        return F.linear(tokens, weight @ linear.weight, weight @ linear.bias)


def _is_plain(layer: nn.Module) -> bool:
    """Return whether calling a layer does nothing but apply its weight and bias."""
    own = type(layer) in (nn.Linear, nn.Conv2d) and "forward" not in vars(layer)
    return own and not (layer._forward_hooks or layer._forward_pre_hooks)


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


class NormedSegformerHead(FusedFirstHead):
    """The decoder of SegFormer as mmsegmentation builds it: `SegformerHead`.

    Each feature map goes through a convolution with batch norm and ReLU, where the authors' decoder
    has a linear layer with a bias.
    """

    def __init__(self, config: NormedSegformerConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.linear_projections = nn.ModuleList(
            NormedProjection(channels, config.decoder_hidden_size)
            for channels in config.hidden_sizes
        )

    def fused_layers(self) -> Iterator[nn.Module]:
        """Return the layer whose weight `forward` uses without calling it."""
        yield self.linear_fuse

    def fuse(self, projection: Any, weight: Tensor, features: Tensor) -> Tensor:
        """Project and fuse features (N, channels, h, w) to (N, h * w, D); `weight` is (D, D)."""
        return F.linear(projection(features), weight)


class NormedSegformerForSemanticSegmentation(SegformerForSemanticSegmentation):  # type: ignore[misc]
    """SegFormer with `NormedSegformerHead`."""

    config_class = NormedSegformerConfig

    def __init__(self, config: NormedSegformerConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.decode_head = NormedSegformerHead(config)
        self.post_init()
