"""What DDRNet and PIDNet have in common: residual blocks, pyramid pooling, heads, initialization.

Tensors have the names of the authors' code (github.com/ydhongHIT/DDRNet,
github.com/XuJiacong/PIDNet), so that their weights fit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization
from transformers.modeling_utils import PreTrainedModel

POOLINGS = ((5, 2), (9, 4), (17, 8))
"""Window and stride of the local poolings of a pyramid; a global one follows."""


def normed(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Build a convolution and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def activated(
    inputs: int, outputs: int, kernel: int = 1, *before: nn.Module, groups: int = 1
) -> nn.Sequential:
    """Build batch norm, ReLU and a convolution, with other modules before them if given."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(*before, nn.BatchNorm2d(inputs), nn.ReLU(), layer)


def stem(num_channels: int, width: int) -> nn.Sequential:
    """Build two convolutions of stride 2, with biases, batch norm and ReLU."""
    layers: list[nn.Module] = []
    for inputs in (num_channels, width):
        layers += [nn.Conv2d(inputs, width, 3, 2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., CVPR 2016).

    Args:
        inputs: number of input channels.
        width: number of output channels.
        stride: of the first convolution.
        last: whether the ReLU at the end is left to the caller.
    """

    growth = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, *, last: bool = True) -> None:
        """Build the layers; see the class."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)
        self.last = last

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, width, H / stride, W / stride)."""
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        found = found + (maps if self.downsample is None else self.downsample(maps))
        return found if self.last else F.relu(found)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, beside a shortcut; no ReLU at the end."""

    growth = 2

    def __init__(self, inputs: int, width: int, stride: int = 1, *, last: bool = True) -> None:
        """Build the layers for `inputs` and 2 x `width` channels; all blocks are like the last."""
        super().__init__()
        outputs = width * self.growth
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 2 x width, H / stride, W / stride)."""
        found = F.relu(self.bn1(self.conv1(maps)))
        found = F.relu(self.bn2(self.conv2(found)))
        outputs: Tensor = self.bn3(self.conv3(found))
        return outputs + (maps if self.downsample is None else self.downsample(maps))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Build the convolution of a shortcut that changes channels or size; None for any other."""
    return None if (inputs, stride) == (outputs, 1) else normed(inputs, outputs, stride=stride)


def stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, count: int, stride: int = 1
) -> nn.Sequential:
    """Build `count` blocks, the first with a stride; the last one of several has no ReLU."""
    channels = [inputs, *[width * block.growth] * count]
    return nn.Sequential(
        *(
            block(channels[k], width, stride if k == 0 else 1, last=0 < k == count - 1)
            for k in range(count)
        )
    )


class Head(nn.Module):
    """A 3x3 convolution and a classifier, each after batch norm and ReLU."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """Build the layers for `outputs` classes."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map features (N, C, h, w) to logits (N, K, h, w)."""
        logits: Tensor = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(maps))))))
        return logits


class PooledPyramid(nn.Module):
    """Features pooled over four windows, the last one the whole image; base of two pyramids.

    Args:
        inputs: number of input channels.
        width: channels of each of the five scales.
        outputs: number of output channels.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """Build the layers; see the class."""
        super().__init__()
        self.scale0 = activated(inputs, width)
        for k, (window, stride) in enumerate(POOLINGS, 1):
            pooling = nn.AvgPool2d(window, stride, padding=stride)
            setattr(self, f"scale{k}", activated(inputs, width, 1, pooling))
        self.scale4 = activated(inputs, width, 1, nn.AdaptiveAvgPool2d(1))
        self.compression = activated(5 * width, outputs)
        self.shortcut = activated(inputs, outputs)

    def scales(self, maps: Tensor) -> list[Tensor]:
        """Return the scales of maps (N, C, h, w), the finest first: (N, width, h, w) each."""
        pooled = (self.get_submodule(f"scale{k}")(maps) for k in range(1, 5))
        return [self.scale0(maps), *(resized(one, maps) for one in pooled)]

    def joined(self, maps: Tensor, scales: list[Tensor]) -> Tensor:
        """Concatenate the processed scales, and add the shortcut: (N, outputs, h, w)."""
        found: Tensor = self.compression(torch.cat(scales, dim=1)) + self.shortcut(maps)
        return found


class DeepPyramid(PooledPyramid):
    """DAPPM: each scale is added to the result of the finer one (Hong et al. 2021, section 3.3)."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """Build the layers; see the base class."""
        super().__init__(inputs, width, outputs)
        for k in range(1, 5):
            setattr(self, f"process{k}", activated(width, width, 3))

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h, w)."""
        scales = self.scales(maps)
        for k in range(1, 5):
            scales[k] = self.get_submodule(f"process{k}")(scales[k] + scales[k - 1])
        return self.joined(maps, scales)


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """Resize maps (N, C, h, w) bilinearly to the height and width of other maps."""
    size = like.shape[-2:]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class BranchedForSemanticSegmentation(PreTrainedModel):  # type: ignore[misc]
    """Base class of networks of parallel branches; initialized as by their authors, but for heads.

    Their initial logits are so large that the first loss is several times that of equal chances.
    """

    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize convolutions by He et al. (ICCV 2015); classifiers and biases like torch.

        transformers also calls this for modules that are missing in loaded weights.
        """
        if not isinstance(module, nn.Conv2d):
            super()._init_weights(module)
            return
        if module.bias is not None:
            module.reset_parameters()
        if module.bias is None or module.kernel_size != (1, 1):  # classifiers only are both
            initialization.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
