"""A linear head on backbone features, usually with the backbone frozen (linear probing)."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.backbone_utils import load_backbone
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.modeling_utils import PreTrainedModel

from segacc.model.networks.configs import LinearSegConfig


class LinearHead(nn.Module):
    """Batch norm and a 1x1 convolution on one or more feature maps (DINOv2's `BNHead`).

    Args:
        channels: channels of each map; several maps are concatenated.
        num_classes: K.
        dropout: dropout probability of whole channels before the batch norm (0.1 in DINOv3).
    """

    def __init__(self, channels: list[int], num_classes: int, dropout: float = 0.0) -> None:
        """Build the layers; see the class."""
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.BatchNorm2d(sum(channels))
        self.classifier = nn.Conv2d(sum(channels), num_classes, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Map features (N, C, h, w), resized to the first one's size, to logits (N, K, h, w)."""
        size = maps[0].shape[-2:]
        resized = [
            one if one.shape[-2:] == size else F.interpolate(one, size=size, mode="bilinear")
            for one in maps
        ]
        logits: Tensor = self.classifier(self.norm(self.dropout(torch.cat(resized, dim=1))))
        return logits


class FrozenBackboneModel(PreTrainedModel):  # type: ignore[misc]
    """A network whose `backbone` is frozen if its config says so in `freeze_backbone`."""

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation mode; a frozen backbone stays frozen in evaluation mode.

        `from_pretrained` sets requires_grad on every parameter, and calls this at its end.
        """
        super().train(mode)
        if self.config.freeze_backbone:
            self.backbone.eval().requires_grad_(False)
        return self


class LinearForSemanticSegmentation(FrozenBackboneModel):
    """A transformers backbone, frozen unless the config says otherwise, and a linear head.

    A frozen backbone has no gradients and stays in evaluation mode, without dropout and drop path,
    so only the head needs memory and a backward pass. After Oquab et al., DINOv2 (TMLR 2024),
    section 7.4.
    """

    config_class = LinearSegConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    def __init__(self, config: LinearSegConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.backbone = load_backbone(config)
        self.head = LinearHead(list(self.backbone.channels), config.num_labels, config.dropout)
        self.post_init()
        self.train(self.training)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Map images (N, C, H, W) to logits (N, K, h, w) at patch resolution."""
        learning = torch.is_grad_enabled() and not self.config.freeze_backbone
        with torch.set_grad_enabled(learning):
            maps = self.backbone(pixel_values).feature_maps
        return segmenter_output(self, self.head(maps), labels)


def segmenter_output(
    network: Any, logits: Tensor, labels: Tensor | None, **auxiliary: Any
) -> SemanticSegmenterOutput:
    """Return logits (N, K, h, w), and transformers' loss if labels (N, H, W) int64 are given."""
    loss = None
    if labels is not None:
        ignored = network.config.semantic_loss_ignore_index
        loss = network.loss_function(logits, labels, ignore_index=ignored, **auxiliary)
    return SemanticSegmenterOutput(loss=loss, logits=logits)


def output_beside(
    network: Any, logits: Tensor, labels: Tensor | None, head: Any, features: Tensor | None
) -> SemanticSegmenterOutput:
    """Return `segmenter_output` with the loss of an auxiliary head on features (N, C, h, w).

    The head, which may be None, is called in training and if labels are given.
    """
    used = head is not None and (network.training or labels is not None)
    return segmenter_output(
        network,
        logits,
        labels,
        auxiliary_logits=head(features) if used else None,
        auxiliary_loss_weight=network.config.auxiliary_loss_weight,
    )
