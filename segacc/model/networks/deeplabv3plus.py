"""DeepLabV3+ (Chen et al., ECCV 2018) on a dilated network of timm, as mmsegmentation builds it.

The tensors of the heads have the names of mmsegmentation, so that its weights fit.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.modeling_utils import PreTrainedModel

from segacc.model.networks.branches import resized
from segacc.model.networks.configs import DeepLabV3PlusSegConfig
from segacc.model.networks.linear import output_beside


def convolved(
    inputs: int, outputs: int, kernel: int = 1, *, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Build a convolution that keeps height and width, batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    more: dict[str, Any] = {"dilation": dilation, "groups": groups, "bias": False}
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding, **more)
    parts: dict[str, nn.Module] = {"conv": layer, "bn": nn.BatchNorm2d(outputs)}
    return nn.Sequential(OrderedDict(**parts, activate=nn.ReLU()))


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Build a 3x3 convolution of each channel and a 1x1 convolution, each with batch norm, ReLU."""
    depthwise = convolved(inputs, inputs, 3, dilation=dilation, groups=inputs)
    pointwise = convolved(inputs, outputs)
    return nn.Sequential(OrderedDict(depthwise_conv=depthwise, pointwise_conv=pointwise))


class DeepLabV3PlusHead(nn.Module):
    """Atrous spatial pyramid pooling, joined with an early feature map (sections 3.1 and 3.2).

    Args:
        config: sizes, and the number of classes.
        low: channels of the early map.
        high: channels of the last map.
    """

    def __init__(self, config: DeepLabV3PlusSegConfig, low: int, high: int) -> None:
        """Build the layers; see the class."""
        super().__init__()
        width, few = config.hidden_size, config.low_channels
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), convolved(high, width))
        self.aspp_modules = nn.ModuleList([convolved(high, width)])
        self.aspp_modules.extend(separable(high, width, rate) for rate in config.dilations)
        self.bottleneck = convolved((2 + len(config.dilations)) * width, width, 3)
        self.c1_bottleneck = convolved(low, few)
        self.sep_bottleneck = nn.Sequential(separable(width + few, width), separable(width, width))
        self.dropout = nn.Dropout2d(config.dropout)
        self.conv_seg = nn.Conv2d(width, config.num_labels, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Map features (N, C, h, w) and (N, C', h', w') to logits (N, K, h, w)."""
        pooled = resized(self.image_pool(high), high)
        scales = [pooled, *(module(high) for module in self.aspp_modules)]
        context = resized(self.bottleneck(torch.cat(scales, dim=1)), low)
        both = torch.cat([context, self.c1_bottleneck(low)], dim=1)
        logits: Tensor = self.conv_seg(self.dropout(self.sep_bottleneck(both)))
        return logits


def auxiliary_head(config: DeepLabV3PlusSegConfig, channels: int) -> nn.Sequential:
    """Build mmsegmentation's FCN head: a 3x3 convolution, dropout and a classifier."""
    width = config.auxiliary_channels
    parts: dict[str, nn.Module] = {
        "convs": nn.Sequential(convolved(channels, width, 3)),
        "dropout": nn.Dropout2d(config.dropout),
        "conv_seg": nn.Conv2d(width, config.num_labels, 1),
    }
    return nn.Sequential(OrderedDict(parts))


class DeepLabV3PlusForSemanticSegmentation(PreTrainedModel):  # type: ignore[misc]
    """DeepLabV3+; logits are at 1/4 of the image size.

    The backbone outputs three feature maps: one at 1/4 of the image size, that of the auxiliary
    head, and the last one. timm dilates the first block of a stage like the stage before it, which
    is mmsegmentation's `contract_dilation=True`.
    """

    config_class = DeepLabV3PlusSegConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    def __init__(self, config: DeepLabV3PlusSegConfig) -> None:
        """Build with random weights."""
        # Not above: this module may be imported in the middle of transformers' own import.
        from transformers.models.timm_backbone.modeling_timm_backbone import TimmBackbone

        super().__init__(config)
        self.backbone = TimmBackbone(config.backbone_config, **(config.timm_arguments or {}))
        low, middle, high = self.backbone.channels
        self.decode_head = DeepLabV3PlusHead(config, low, high)
        auxiliary = config.auxiliary_loss_weight > 0
        self.auxiliary_head = auxiliary_head(config, middle) if auxiliary else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize heads like mmsegmentation: He et al. (ICCV 2015), classifiers near 0.

        transformers also calls this for modules that are missing in loaded weights. Those of the
        backbone are initialized by timm.
        """
        if not isinstance(module, nn.Conv2d):
            super()._init_weights(module)
        elif module.bias is None:
            initialization.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            initialization.normal_(module.weight, std=0.01)
            initialization.zeros_(module.bias)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Map images (N, C, H, W) to logits (N, K, H/4, W/4), rounded up."""
        low, middle, high = self.backbone(pixel_values).feature_maps
        logits = self.decode_head(low, high)
        return output_beside(self, logits, labels, self.auxiliary_head, middle)
