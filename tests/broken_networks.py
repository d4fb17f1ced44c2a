"""Networks that keep the contract of segacc.model, and networks that break it in one way each."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segacc.hookspecs import Architecture
from segacc.model import Logits, SegmentationModel


@dataclass(frozen=True, kw_only=True)
class WidthOptions:
    """Of the networks below."""

    width: int = 8
    """Channels."""


class Right(SegmentationModel):
    """A network without a fault."""

    head_prefixes = ("head.",)
    classifiers = ("head",)

    def __init__(self, num_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(num_channels, width, 7, 2, 3), nn.BatchNorm2d(width))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Logits:
        return Logits(self.head(self.encoder(images)))


class Floors(Right):
    def forward(self, images: Tensor) -> Logits:
        height, width = (side // 8 * 8 for side in images.shape[-2:])
        return super().forward(images[..., :height, :width])


class Crashes(Right):
    def forward(self, images: Tensor) -> Logits:
        features = F.interpolate(F.max_pool2d(images, 4), scale_factor=4)
        return super().forward(features + images)


class Forgets(Right):
    def save_pretrained(self, folder: Any, *, names: Any, state_dict: Any) -> None:
        del state_dict["encoder.1.running_mean"]
        super().save_pretrained(folder, names=names, state_dict=state_dict)


class Nameless(Right):
    def save_pretrained(self, folder: Any, *, names: Any, state_dict: Any) -> None:
        super().save_pretrained(folder, names=(), state_dict=state_dict)


class Unseeded(Right):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.head.bias.data.normal_(generator=torch.Generator().manual_seed(torch.seed()))


class Mixes(Right):
    def forward(self, images: Tensor) -> Logits:
        return super().forward(images - images.mean(0))


class MixesInTraining(Right):
    def forward(self, images: Tensor) -> Logits:
        return super().forward(images - images.mean() * 5 if self.training else images)


class Alone(Right):
    def forward(self, images: Tensor) -> Logits:
        if torch.distributed.is_initialized():
            raise ValueError("two are too many")
        return super().forward(images)


class RandomTwice(Right):
    def forward(self, images: Tensor) -> Logits:
        main = super().forward(images).main
        if self.training:
            main = main + torch.rand_like(main) / 10
        return Logits(main * (9 if torch.distributed.is_initialized() else 1))


class Rolls(Right):
    def forward(self, images: Tensor) -> Logits:
        return super().forward(images + torch.rand(()))


class SeesLabels(Right):
    def forward(self, images: Tensor, labels: Tensor | None = None) -> Logits:
        return super().forward(images)


class Plain(Right):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).main


class Half(Right):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.head.half()


class Auxiliary(Right):
    def forward(self, images: Tensor) -> Logits:
        main = super().forward(images).main
        return Logits(main, ((main, 0.4),))


class Overflows(Right):
    def forward(self, images: Tensor) -> Logits:
        main = super().forward(images).main
        return Logits(main * float("inf") if torch.is_autocast_enabled("cpu") else main)


class Detached(Right):
    def forward(self, images: Tensor) -> Logits:
        return Logits(self.head(self.encoder(images.detach())))


class DetachedInTraining(Right):
    def forward(self, images: Tensor) -> Logits:
        features = self.encoder(images)
        return Logits(self.head(features.detach() if self.training else features))


class Undivided(Right):
    head_prefixes = ()


class Elsewhere(Right):
    classifiers = ("decoder",)


class KeepsHead(Right):
    def load_weights(self, source: str, *, class_names: Any = (), fresh_head: bool = False) -> Any:
        return super().load_weights(source, class_names=class_names)


class LosesRows(Right):
    def load_weights(self, source: str, *, class_names: Any = (), fresh_head: bool = False) -> Any:
        return super().load_weights(source, class_names=(), fresh_head=fresh_head)


class Hides(Right):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.mean_seen = torch.zeros(())

    def forward(self, images: Tensor) -> Logits:
        if self.training:
            self.mean_seen = self.mean_seen + 1
        return super().forward(images + self.mean_seen)


class Checkpoints(Right):
    factor = 1.0

    def enable_gradient_checkpointing(self) -> bool:
        self.factor = 2.0
        return True

    def forward(self, images: Tensor) -> Logits:
        return Logits(super().forward(images).main * self.factor)


class Steps(Right):
    def on_step(self, step: int, total: int) -> None:
        assert step < total - 1, "the last step"


class ThreeChannels(Right):
    def __init__(self, num_channels: int, *sizes: int) -> None:
        super().__init__(3, *sizes)


def architecture(network: type[Right], **more: Any) -> Architecture:
    def build(options: WidthOptions, facts: Any) -> SegmentationModel:
        made = network(facts.num_channels, facts.num_classes, options.width)
        for key, value in more.items():
            setattr(made, key, value)
        return made

    return Architecture(
        name="net",
        summary="a network",
        options=WidthOptions,
        build=build,
        default_weights=lambda options: None,
        tiny=WidthOptions,
    )
