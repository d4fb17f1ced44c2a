"""The contract with any network: SegmentationModel, and what it returns and answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segacc.errors import WeightsError


class Logits(NamedTuple):
    """What a network says of a batch of N images."""

    main: Tensor
    """(N, K, h, w) float, at the decoder's resolution."""
    auxiliary: tuple[tuple[Tensor, float], ...] = ()
    """(logits, weight) of auxiliary heads, for the loss only."""
    queries: Any = None
    """What a mask-classification loss reads, or None."""


@dataclass(frozen=True)
class SizeRule:
    """Which image sizes a network takes without stretching its logits over the label in silence."""

    multiple: int = 1
    """Height and width must be multiples of this."""
    square: bool = False
    fixed: tuple[int, int] | None = None
    """(height, width) when only one size works."""
    minimum: int = 1
    """Pixels that height and width must have at least."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SizeRule":
        """Read what `dataclasses.asdict` made, perhaps through JSON."""
        fixed = values["fixed"]
        return cls(**{**values, "fixed": tuple(fixed) if fixed else None})

    def complaint(self, size: tuple[int, int]) -> str:
        """Say why (height, width) does not fit, or return an empty string."""
        if self.fixed and size != self.fixed:
            return f"takes only {self.fixed[0]}x{self.fixed[1]} pixels"
        if self.square and size[0] != size[1]:
            return "takes only square images"
        if size[0] % self.multiple or size[1] % self.multiple:
            return f"takes only multiples of {self.multiple} pixels"
        if min(size) < self.minimum:
            return f"takes only images of at least {self.minimum} pixels a side"
        return ""


@dataclass(frozen=True)
class LoadReport:
    """What became of a network's tensors when weights were loaded."""

    source: str
    """Where the weights came from; `random` when from nowhere."""
    loaded: int = 0
    """Tensors taken over."""
    new: tuple[str, ...] = ()
    """Tensors that start anew: missing in the weights or of another shape there."""
    dropped: tuple[str, ...] = ()
    """Tensors of the weights that the network has no place for."""

    def text(self) -> str:
        """Tell it in one line."""
        if not self.loaded:
            return f"weights: {self.source}"
        new = f"; new: {_some(self.new)}" if self.new else ""
        dropped = f"; not used: {_some(self.dropped)}" if self.dropped else ""
        return f"weights: {self.source}: {self.loaded} tensors loaded{new}{dropped}"


def _some(names: Sequence[str]) -> str:
    """Name tensors, many of one module by the module."""
    if len(names) <= 4:
        return ", ".join(names)
    parents = sorted({name.split(".")[0] for name in names})
    return f"{len(names)} tensors of {', '.join(parents)}"


class SegmentationModel(nn.Module):
    """A network as the loop sees it. A plugin of plain torch subclasses this and writes `forward`.

    Attributes:
        mean, std: of the channels, for images in 0..1; the loop normalizes on the device.
        channel_order: "rgb" or "bgr", what `forward` expects.
        size_rule: the image sizes that `forward` takes.
        min_batch_size: the smallest batch per process in training (2 where a norm sees one value
            per channel).
        head_prefixes: parameter names that start so are the head's and take `head_lr_scale`.
        batchnorm_frozen: set by `freeze_batchnorm`.
        _no_split_modules: class names that FSDP wraps as units (the name accelerate reads).
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: str = "rgb"
    size_rule: SizeRule = SizeRule()
    min_batch_size: int = 1
    head_prefixes: tuple[str, ...] = ()
    _no_split_modules: tuple[str, ...] = ()
    batchnorm_frozen: bool = False

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) float to Logits. Labels are never seen here."""
        raise NotImplementedError

    def is_head(self, parameter_name: str) -> bool:
        """Tell whether a parameter belongs to the head, by its name in `named_parameters`."""
        return parameter_name.startswith(self.head_prefixes) if self.head_prefixes else False

    def on_step(self, step: int, total: int) -> None:
        """Change with progress; called before each optimizer step, counted from 0."""

    def enable_gradient_checkpointing(self) -> bool:
        """Trade compute for memory; False when the network offers none."""
        return False

    def freeze_batchnorm(self) -> None:
        """Keep the statistics, scales and shifts of batch norm as they are, in training too."""
        self.batchnorm_frozen = True
        for norm in self._batchnorms():
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> "SegmentationModel":
        """Switch to training or evaluation; frozen batch norm stays in evaluation."""
        super().train(mode)
        if self.batchnorm_frozen:
            for norm in self._batchnorms():
                norm.eval()
        return self

    def _batchnorms(self) -> list[nn.Module]:
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def normalize(self, images: Tensor) -> Tensor:
        """Turn uint8 RGB images (N, C, H, W) into float32 of this network's mean, std and order."""
        if self.channel_order == "bgr":
            images = images.flip(1)
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1) * 255
        return (images.float() - mean) / std

    def load_weights(self, source: str, *, offline: bool = False) -> LoadReport:
        """Load weights from a folder (or, where the network supports it, a Hub id).

        Raises:
            WeightsError: nothing there, or almost nothing of it fits.
        """
        path = Path(source) / "model.safetensors"
        if not path.is_file():
            raise WeightsError(f"{source}: no model.safetensors in this folder.")
        try:
            state, own = load_file(path), self.state_dict()
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{source}: the weights cannot be read: {error}.") from None
        fits = {
            name: tensor
            for name, tensor in state.items()
            if name in own and own[name].shape == tensor.shape
        }
        self.load_state_dict(fits, strict=False)
        new, dropped = sorted(set(own) - set(fits)), sorted(set(state) - set(fits))
        report = LoadReport(source, len(fits), tuple(new), tuple(dropped))
        return check_report(report, own, self.is_head)

    def save_pretrained(
        self, folder: Path, *, names: Sequence[str], state_dict: dict[str, Tensor]
    ) -> None:
        """Write the weights, and what others need to load them, into an existing folder."""
        save_file(
            {name: tensor.contiguous() for name, tensor in state_dict.items()},
            folder / "model.safetensors",
        )
        (folder / "config.json").write_text(
            json.dumps({"id2label": dict(enumerate(names))}, indent=1)
        )


def check_report(
    report: LoadReport, own: dict[str, Tensor], is_head: Callable[[str], bool]
) -> LoadReport:
    """Refuse weights that leave more than a tenth of the encoder's numbers to chance.

    Heads are replaced as a matter of course; an encoder loaded by half trains badly in silence.

    Raises:
        WeightsError: so.
    """
    encoder = {name: tensor.numel() for name, tensor in own.items() if not is_head(name)}
    if 10 * sum(encoder.get(name, 0) for name in report.new) > sum(encoder.values()):
        raise WeightsError(
            f"{report.source}: these weights do not belong to this network: {report.loaded} "
            f"tensors fit, {_some(report.new)} would start at random, "
            f"{_some(report.dropped) or 'nothing'} would be dropped. Name the architecture and "
            "variant that the weights were saved from, or use --weights none."
        )
    return report
