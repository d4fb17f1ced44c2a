"""Networks as mmsegmentation builds and names them, in plain torch, after the papers; tiny.

An independent reading for the tests of loaded weights: `mmseg/models` of mmsegmentation 1.x is the
source of names, orders and epsilons.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)


def named(**parts: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(parts)


class ConvModule(nn.Module):
    """Convolution without bias, batch norm, ReLU: mmcv's."""

    def __init__(
        self, channels: int, width: int, size: int = 1, rate: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        given: Any = {"padding": size // 2 * rate, "dilation": rate, "groups": groups}
        self.conv = nn.Conv2d(channels, width, size, bias=False, **given)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def picture(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x.transpose(1, 2).unflatten(2, size)


# ------------------------------------------------------------------------------------------- MiT


class MiTAttention(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, stride=reduction)
            self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        kv = self.norm(tokens(self.sr(picture(x, size)))) if self.reduction > 1 else x
        attended: Tensor = self.attn(x, kv, kv)[0]
        return attended


class MiTBlock(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = MiTAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        first, last = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        layers = nn.Sequential(first, depthwise, nn.GELU(), nn.Dropout(0), last, nn.Dropout(0))
        self.ffn = named(layers=layers)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.attn(self.norm1(x), size)
        return x + tokens(self.ffn["layers"](picture(self.norm2(x), size)))


class MiT(nn.Module):
    def __init__(self, widths: tuple[int, ...], heads: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        before = 3
        for k, width in enumerate(widths):
            side, stride = (7, 4) if k == 0 else (3, 2)
            embed = named(
                projection=nn.Conv2d(before, width, side, stride, side // 2),
                norm=nn.LayerNorm(width, eps=1e-6),
            )
            blocks = nn.ModuleList([MiTBlock(width, heads[k], (8, 4, 2, 1)[k])])
            self.layers.append(nn.ModuleList([embed, blocks, nn.LayerNorm(width, eps=1e-6)]))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        layers: Any = self.layers
        for embed, blocks, norm in layers:
            x = embed["projection"](x)
            size = (x.shape[2], x.shape[3])
            x = embed["norm"](tokens(x))
            for block in blocks:
                x = block(x, size)
            x = picture(norm(x), size)
            maps.append(x)
        return maps


class SegformerHead(nn.Module):
    def __init__(self, widths: tuple[int, ...], width: int, num_classes: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        self.convs = nn.ModuleList([ConvModule(one, width) for one in widths])
        self.fusion_conv = ConvModule(width * len(widths), width)

    def forward(self, maps: list[Tensor]) -> Tensor:
        projected = [conv(one) for conv, one in zip(self.convs, maps, strict=True)]
        logits: Tensor = self.conv_seg(
            self.fusion_conv(torch.cat([resize(one, maps[0]) for one in projected], dim=1))
        )
        return logits


# ------------------------------------------------------------------------------------------ Swin


class WindowAttention(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        rows = (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        y, x = y.flatten(), x.flatten()
        index = (y[:, None] - y + window - 1) * (2 * window - 1) + (x[:, None] - x + window - 1)
        self.register_buffer("relative_position_index", index)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend in windows (N, W, T, C), where mask (W, T, T) is true."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        q, k, v = (one.transpose(2, 3) for one in (q, k, v))  # (N, W, heads, T, c)
        bias = self.relative_position_bias_table[self.relative_position_index].movedim(-1, 0)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        scores = scores.masked_fill(~mask[None, :, None], float("-inf"))
        mixed: Tensor = self.proj((scores.softmax(-1) @ v).transpose(2, 3).flatten(-2))
        return mixed


def windows(x: Tensor, side: int) -> Tensor:
    """(N, H, W, C) to (N, windows, side * side, C)."""
    n, height, width, c = x.shape
    x = x.reshape(n, height // side, side, width // side, side, c).transpose(2, 3)
    return x.reshape(n, -1, side * side, c)


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = named(w_msa=WindowAttention(width, heads, window))
        first = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.ffn = named(layers=nn.Sequential(first, nn.Linear(4 * width, width)))
        self.window, self.shift = window, shift

    def attend(self, x: Tensor) -> Tensor:
        """Attend over (N, H, W, C), padded to whole windows and shifted."""
        side, shift = self.window, self.shift
        n, height, width, _ = x.shape
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        n, h, w, c = x.shape
        region = torch.zeros(1, h, w, 1)
        if shift:
            for part in (slice(-side, -shift), slice(-shift, None)):
                region[:, part] += 1 + (part.start == -shift)
                region[:, :, part] += 3 + 3 * (part.start == -shift)
        parts = windows(region, side)[0, :, :, 0]
        mask = parts[:, :, None] == parts[:, None, :]
        rolled = torch.roll(x, (-shift, -shift), (1, 2))
        mixed = self.attn["w_msa"](windows(rolled, side), mask)
        mixed = mixed.reshape(n, h // side, w // side, side, side, c).transpose(2, 3)
        mixed = torch.roll(mixed.reshape(n, h, w, c), (shift, shift), (1, 2))
        return mixed[:, :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        fed: Tensor = self.ffn["layers"](self.norm2(x))
        return x + fed


class Swin(nn.Module):
    def __init__(self, width: int, depths: tuple[int, ...], heads: int, window: int) -> None:
        super().__init__()
        embed = nn.Conv2d(3, width, 4, 4)
        self.patch_embed = named(projection=embed, norm=nn.LayerNorm(width))
        self.stages = nn.ModuleList()
        for k, depth in enumerate(depths):
            c = width << k
            shifts = [window // 2 * (j % 2) for j in range(depth)]
            blocks = nn.ModuleList([SwinBlock(c, heads, window, shift) for shift in shifts])
            stage = named(blocks=blocks)
            if k + 1 < len(depths):
                reduction = nn.Linear(4 * c, 2 * c, bias=False)
                stage["downsample"] = named(norm=nn.LayerNorm(4 * c), reduction=reduction)
            self.stages.append(stage)
            self.add_module(f"norm{k}", nn.LayerNorm(c))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed["projection"](x).permute(0, 2, 3, 1)
        x = self.patch_embed["norm"](x)
        maps = []
        stages: Any = self.stages
        for k, stage in enumerate(stages):
            for block in stage["blocks"]:
                x = block(x)
            maps.append(getattr(self, f"norm{k}")(x).permute(0, 3, 1, 2))
            if "downsample" in stage:
                x = F.pad(x.permute(0, 3, 1, 2), (0, x.shape[2] % 2, 0, x.shape[1] % 2))
                size = (x.shape[2] // 2, x.shape[3] // 2)
                merged = stage["downsample"]["norm"](F.unfold(x, 2, stride=2).transpose(1, 2))
                x = stage["downsample"]["reduction"](merged).unflatten(1, size)
        return maps


# -------------------------------------------------------------------------------------- ConvNeXt


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int, *, linear: bool) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm2d(width, eps=1e-6)
        layers = ((width, 4 * width), (4 * width, width))
        kinds = [nn.Linear(*one) if linear else nn.Conv2d(*one, 1) for one in layers]
        self.pointwise_conv1, self.pointwise_conv2 = kinds
        self.gamma = nn.Parameter(torch.ones(width))
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise_conv(x))
        y = y.permute(0, 2, 3, 1) if self.linear else y
        y = self.pointwise_conv2(F.gelu(self.pointwise_conv1(y)))
        y = y.permute(0, 3, 1, 2) if self.linear else y
        return x + self.gamma[:, None, None] * y


class ConvNeXt(nn.Module):
    def __init__(self, widths: tuple[int, ...], *, linear: bool = True) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], eps=1e-6))
        self.downsample_layers, self.stages = nn.ModuleList([stem]), nn.ModuleList()
        for k, width in enumerate(widths):
            if k:
                before = widths[k - 1]
                down = (LayerNorm2d(before, eps=1e-6), nn.Conv2d(before, width, 2, 2))
                self.downsample_layers.append(nn.Sequential(*down))
            self.stages.append(nn.Sequential(ConvNeXtBlock(width, linear=linear)))
            self.add_module(f"norm{k}", LayerNorm2d(width, eps=1e-6))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for k, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))
            maps.append(getattr(self, f"norm{k}")(x))
        return maps


# --------------------------------------------------------------------------------------- UPerNet


class UPerHead(nn.Module):
    def __init__(self, widths: tuple[int, ...], width: int, num_classes: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        last = widths[-1]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvModule(last, width))
            for size in (1, 2, 3, 6)
        )
        self.bottleneck = ConvModule(last + 4 * width, width, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(one, width) for one in widths[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3) for _ in widths[:-1])
        self.fpn_bottleneck = ConvModule(len(widths) * width, width, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        pooled = [resize(module(maps[-1]), maps[-1]) for module in self.psp_modules]
        top = self.bottleneck(torch.cat([maps[-1], *pooled], dim=1))
        levels = [conv(one) for conv, one in zip(self.lateral_convs, maps[:-1], strict=True)]
        levels.append(top)
        for k in (2, 1, 0):
            levels[k] = levels[k] + resize(levels[k + 1], levels[k])
        smooth = [conv(one) for conv, one in zip(self.fpn_convs, levels[:-1], strict=True)] + [top]
        fused = self.fpn_bottleneck(torch.cat([resize(one, smooth[0]) for one in smooth], dim=1))
        logits: Tensor = self.conv_seg(fused)
        return logits


class FCNHead(nn.Module):
    """The auxiliary head on the third feature map."""

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        self.convs = nn.Sequential(ConvModule(channels, width, 3))

    def forward(self, maps: list[Tensor]) -> Tensor:
        logits: Tensor = self.conv_seg(self.convs(maps[2]))
        return logits


# ------------------------------------------------------------------------------------ DeepLabV3+


class Bottleneck(nn.Module):
    """A block of `style="pytorch"`: the 3x3 convolution has the stride."""

    def __init__(self, channels: int, width: int, stride: int, rate: int, first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, rate, rate, bias=False)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if first:
            projection = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet, or with a deep stem ResNetV1c, as DeepLabV3+ sets it (R-50-D8).

    dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True.
    """

    def __init__(self, blocks: tuple[int, ...], width: int, *, deep: bool = True) -> None:
        super().__init__()
        half, before = width // 2, width
        if deep:
            layers: list[nn.Module] = []
            for channels, outputs, stride in ((3, half, 2), (half, half, 1), (half, width, 1)):
                layers += [nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)]
                layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            self.stem = nn.Sequential(*layers)
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
        self.deep = deep
        for k, (count, stride, rate) in enumerate(
            zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            stage = nn.Sequential()
            for j in range(count):
                used = max(rate // 2, 1) if j == 0 else rate
                stage.append(Bottleneck(before, width << k, stride if j == 0 else 1, used, j == 0))
                before = 4 * (width << k)
            self.add_module(f"layer{k + 1}", stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x) if self.deep else F.relu(self.bn1(self.conv1(x)))
        maps = [F.max_pool2d(x, 3, 2, 1)]
        for k in range(1, 5):
            maps.append(self.get_submodule(f"layer{k}")(maps[-1]))
        return maps[1:]


class Separable(nn.Module):
    """mmcv's DepthwiseSeparableConvModule: both parts are normalized and activated."""

    def __init__(self, channels: int, width: int, rate: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(channels, channels, 3, rate, channels)
        self.pointwise_conv = ConvModule(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return activated


class SepASPPHead(nn.Module):
    """DepthwiseSeparableASPPHead with 48 channels of the first map; without `second`, ASPPHead."""

    def __init__(
        self, low: int, high: int, width: int, classes: int, *, second: bool = True
    ) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(width, classes, 1)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(high, width))
        self.aspp_modules = nn.ModuleList([ConvModule(high, width)])
        for rate in (12, 24, 36):
            one = Separable(high, width, rate) if second else ConvModule(high, width, 3, rate)
            self.aspp_modules.append(one)
        self.bottleneck = ConvModule(5 * width, width, 3)
        if second:
            self.c1_bottleneck = ConvModule(low, 48)
            parts = Separable(width + 48, width), Separable(width, width)
            self.sep_bottleneck = nn.Sequential(*parts)

    def forward(self, maps: list[Tensor]) -> Tensor:
        last = maps[3]
        pooled = self.image_pool(last).expand(-1, -1, *last.shape[2:])
        context = self.bottleneck(torch.cat([pooled, *(one(last) for one in self.aspp_modules)], 1))
        early = self.c1_bottleneck(maps[0])
        both = torch.cat([resize(context, early), early], dim=1)
        logits: Tensor = self.conv_seg(self.sep_bottleneck(both))
        return logits


class Segmentor(nn.Module):
    """mmsegmentation's EncoderDecoder."""

    def __init__(self, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.decode_head = backbone, head
        if auxiliary is not None:
            self.auxiliary_head = auxiliary

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decode_head(self.backbone(images))
        return logits


def randomized(network: nn.Module, seed: int = 0) -> Any:
    """Return a network in evaluation mode with random values in all tensors, norms included."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            scale = 1.0 if tensor.ndim < 2 else (2 / tensor[0].numel()) ** 0.5
            drawn = torch.randn(tensor.shape, generator=generator) * scale
            positive = name.endswith("running_var")
            tensor.copy_(drawn.abs() + 0.5 if positive else drawn)
    return network.eval()
