"""torchvision's segmentation networks as PreTrainedModels, with torchvision's tensor names."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet50, resnet101
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead
from transformers import initialization
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.modeling_utils import PreTrainedModel

from segacc.model.networks.configs import (
    TINY,
    AuxiliarySegConfig,
    DeepLabV3SegConfig,
    FCNSegConfig,
    LRASPPSegConfig,
    TorchvisionSegConfig,
)
from segacc.model.networks.linear import output_beside, segmenter_output

Encoder = tuple[nn.Module, int, int]
"""A module that maps images to {"out", "aux"}, and the channels of the two."""


def build_encoder(config: TorchvisionSegConfig, *, auxiliary: bool) -> Encoder:
    """Build a backbone that returns `out` and, if requested, `aux`, an earlier feature map."""
    if config.backbone.startswith("resnet"):
        return _resnet(config, auxiliary=auxiliary)
    return _mobilenet(config, auxiliary=auxiliary)


def _resnet(config: TorchvisionSegConfig, *, auxiliary: bool) -> Encoder:
    """Build a ResNet with its last two stages dilated: both maps at 1/8 of the image size."""
    build = {"resnet50": resnet50, "resnet101": resnet101}[config.backbone]
    network = build(weights=None, replace_stride_with_dilation=[False, True, True])
    network.conv1 = fit_input(network.conv1, config.num_channels)
    taken = {"layer4": "out", **({"layer3": "aux"} if auxiliary else {})}
    return IntermediateLayerGetter(network, return_layers=taken), 2048, 1024


def _mobilenet(config: TorchvisionSegConfig, *, auxiliary: bool) -> Encoder:
    """Build a dilated MobileNetV3: `out` at 1/16, `aux` (its C2) at 1/8.

    torchvision's momentum of the batch norm statistics is 0.01. From random weights they are then
    far off for hundreds of steps, so it is torch's default here.
    """
    width = 0.125 if config.backbone == TINY else 1.0
    norm = partial(nn.BatchNorm2d, eps=0.001)
    network = mobilenet_v3_large(weights=None, dilated=True, width_mult=width, norm_layer=norm)
    blocks = network.features
    blocks[0][0] = fit_input(blocks[0][0], config.num_channels)
    strided = [k for k, one in enumerate(blocks) if getattr(one, "_is_cn", False)]
    last, early = len(blocks) - 1, strided[1]
    taken = {str(last): "out", **({str(early): "aux"} if auxiliary else {})}
    channels = blocks[last].out_channels, blocks[early].out_channels
    return IntermediateLayerGetter(blocks, return_layers=taken), *channels


def fit_input(layer: nn.Conv2d, num_channels: int) -> nn.Conv2d:
    """Return a first convolution for another number of image channels."""
    if layer.in_channels == num_channels:
        return layer
    return nn.Conv2d(
        num_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )


class TorchvisionForSemanticSegmentation(PreTrainedModel):  # type: ignore[misc]
    """Base class of torchvision's networks. Logits stay at the resolution of the features.

    torchvision resizes them to the image size in `forward`; in segacc and in transformers' image
    processors that is done by the caller.
    """

    config_class = TorchvisionSegConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the backbone like torchvision, and heads like torch.

        transformers also calls this for modules that are missing in loaded weights.
        """
        if not isinstance(module, nn.Conv2d):
            super()._init_weights(module)
        elif any(module is one for one in self.backbone.modules()):
            initialization.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                initialization.zeros_(module.bias)
        else:
            module.reset_parameters()


class _WithHeads(TorchvisionForSemanticSegmentation):
    """A network with a head on `out`, and in training a second one on `aux`."""

    head: Any

    def __init__(self, config: AuxiliarySegConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        auxiliary = config.auxiliary_loss_weight > 0
        self.backbone, channels, early = build_encoder(config, auxiliary=auxiliary)
        self.classifier = self.head(channels, config.num_labels)
        self.aux_classifier = FCNHead(early, config.num_labels) if auxiliary else None
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Map images (N, C, H, W) to logits (N, K, h, w) at the backbone's resolution."""
        features = self.backbone(pixel_values)
        logits = self.classifier(features["out"])
        return output_beside(self, logits, labels, self.aux_classifier, features.get("aux"))


class DeepLabV3ForSemanticSegmentation(_WithHeads):
    """DeepLabV3 (Chen et al. 2017): atrous spatial pyramid pooling."""

    config_class = DeepLabV3SegConfig
    head = DeepLabHead


class FCNForSemanticSegmentation(_WithHeads):
    """FCN (Long et al., CVPR 2015) as in torchvision: one 3x3 convolution, one classifier."""

    config_class = FCNSegConfig
    head = FCNHead


class LRASPPForSemanticSegmentation(TorchvisionForSemanticSegmentation):
    """Lite R-ASPP (Howard et al., ICCV 2019): global gating, logits at 1/8 resolution."""

    config_class = LRASPPSegConfig

    def __init__(self, config: LRASPPSegConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.backbone, high, low = build_encoder(config, auxiliary=True)
        self.classifier = LRASPPHead(low, high, config.num_labels, 128)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Map images (N, C, H, W) to logits (N, K, h, w) at 1/8 resolution."""
        features = self.backbone(pixel_values)
        logits = self.classifier({"low": features["aux"], "high": features["out"]})
        return segmenter_output(self, logits, labels)
