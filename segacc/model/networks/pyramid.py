"""A plain ViT with a simple feature pyramid, as a backbone of transformers."""

from typing import Any

from torch import Tensor, nn
from transformers.backbone_utils import BackboneMixin, load_backbone
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_utils import PreTrainedModel

from segacc.model.networks.configs import PyramidConfig


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of feature maps (N, C, h, w), with ViTDet's epsilon.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        """Build the scale and shift; see the class."""
        super().__init__(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalize each position of (N, C, h, w)."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def resampler(level: int, width: int) -> tuple[nn.Sequential, int]:
    """Build the layers that bring the ViT's map to the size of a level.

    Args:
        level: 0 for a quarter of the patch size per position, 1 for half of it, 2 for the patch
            size, 3 for twice the patch size.
        width: channels of the ViT's map.

    Returns:
        The layers and the number of channels of their output.
    """
    if level == 0:
        first = nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)
        second = nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2)
        return nn.Sequential(first, ChannelNorm(width // 2), nn.GELU(), second), width // 4
    if level == 1:
        up = nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)
        return nn.Sequential(up), width // 2
    return nn.Sequential(*[nn.MaxPool2d(kernel_size=2, stride=2)] * (level == 3)), width


def smoother(width: int, channels: int) -> list[nn.Module]:
    """Build a 1x1 and a 3x3 convolution, each with a norm, from `width` to `channels` channels."""
    return [
        nn.Conv2d(width, channels, kernel_size=1, bias=False),
        ChannelNorm(channels),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        ChannelNorm(channels),
    ]


class PyramidBackbone(BackboneMixin, PreTrainedModel):  # type: ignore[misc]
    """A backbone with feature maps of four sizes, all made from the last map of a plain ViT.

    One position of the maps covers 1/4, 1/2, 1 and 2 patches: strides 4, 8, 16 and 32 for patches
    of 16 pixels. After Li et al., ViTDet (ECCV 2022), section 3 and appendix.
    """

    config_class = PyramidConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    def __init__(self, config: PyramidConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.backbone = load_backbone(config)
        width, channels = self.backbone.channels[-1], config.channels
        self.levels = nn.ModuleList()
        for level in range(4):
            layers, found = resampler(level, width)
            self.levels.append(layers.extend(smoother(found, channels)))
        self.num_features = [width, *[channels] * 4]
        self.post_init()

    def post_init(self) -> None:
        """Initialize weights, without the hooks of BackboneMixin, which record hidden states.

        The ViT has its own; with both, each layer would be recorded twice, and its last feature map
        would be that of a layer in the middle.
        """
        PreTrainedModel.post_init(self)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize convolutions like torch and ViTDet."""
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BackboneOutput:
        """Map images (N, C, H, W) to four maps, from fine to coarse."""
        last = self.backbone(pixel_values).feature_maps[-1]
        names = zip(self.stage_names[1:], self.levels, strict=True)
        chosen = (level for name, level in names if name in self.out_features)
        return BackboneOutput(feature_maps=tuple(level(last) for level in chosen))
