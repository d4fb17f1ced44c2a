"""The contract with any network: SegmentationModel, and what it returns and answers."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segacc.contracts import Facts, LossTerm
from segacc.errors import WeightsError
from segacc.model.transfer import LoadReport, Place, carry_over

BLOCKS = (
    r"(?:^|\.)(?P<stage>(?:layers?|blocks?|stages?|s)[._]?\d+)"
    r"(?P<block>\.(?:transformer\.)?(?:(?:layers?|blocks|b)[._]?)?\d+)?\."
)
"""Finds the block of a parameter as transformers, torchvision and timm number them: `layers.3.`,
`stages.1.blocks.0.`, `layer2.0.`, `s1.b2.`. What has a `stage` but no `block`, as a patch merging,
joins a neighbour; a stage without any block in it is a block itself."""

NORMS = ("norms.", "norm.")
"""Ends of what stands before a number that is no block's: `hidden_states_norms.stage2.` are a
backbone's norms of its outputs, behind its last block."""


class Logits(NamedTuple):
    """What a network says of a batch of N images."""

    main: Tensor
    """(N, K, h, w) float, at the decoder's resolution."""
    auxiliary: tuple[tuple[Tensor, float], ...] = ()
    """(logits, weight) of auxiliary heads, for the loss only."""
    queries: Any = None
    """What the network's own losses read (see `SegmentationModel.losses`), or None."""


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

    def text(self) -> str:
        """Tell it in a few words."""
        if self.fixed:
            return f"only {self.fixed[0]}x{self.fixed[1]}, the crop's"
        several = f"multiples of {self.multiple}" if self.multiple > 1 else ""
        least = f"at least {self.minimum}" if self.minimum > self.multiple else ""
        square = "square" if self.square else ""
        return ", ".join(filter(None, (square, several, least))) or "any"

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that fits and is nearest to `size` from below, if any is."""
        if self.fixed:
            return self.fixed
        height, width = (min(size), min(size)) if self.square else size
        low = -(-self.minimum // self.multiple)
        return (
            max(low, height // self.multiple) * self.multiple,
            max(low, width // self.multiple) * self.multiple,
        )

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


def stored_names(folder: Path) -> list[str]:
    """Read the class names of a saved network; none where config.json does not hold them."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    names = config.get("id2label") or {}
    return [str(names[key]) for key in sorted(names, key=int)]


def extend(values: Sequence[float], channels: int) -> list[float]:
    """Fit a mean or std of RGB to other channels, which take the mean of the three."""
    if len(values) == channels:
        return list(values)
    middle = sum(values) / len(values)
    return [values[k] if channels > 1 and k < len(values) else middle for k in range(channels)]


class SegmentationModel(nn.Module):
    """A network as the loop sees it. A plugin of plain torch subclasses this and writes `forward`.

    Attributes:
        mean, std: of the channels, for images in 0..1; the loop normalizes on the device.
        channel_order: "rgb" or "bgr", what `forward` expects.
        num_channels: of its images; set from the facts of the run.
        size_rule: the image sizes that `forward` takes.
        min_batch_size: the smallest batch per process in training (2 where a norm sees one value
            per channel).
        head_prefixes: parameter names that start so are the head's and take `head_lr_scale`.
        probabilities: True where the logits are scores of 0 or more, whose shares are the
            probabilities of the classes; False where a softmax makes them so.
        classifiers: names of the modules whose tensors have one row for each class; when weights
            of other classes are loaded, rows of the same class name are taken over.
        block_pattern: finds a parameter's block by its name, see `segacc.model.contract.BLOCKS`.
        batchnorm_frozen: set by `freeze_batchnorm`.
        still_batchnorms: names of batch norms that keep their statistics in training.
        _no_split_modules: class names that FSDP wraps as units (the name accelerate reads).
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: str = "rgb"
    num_channels: int = 3
    size_rule: SizeRule = SizeRule()
    min_batch_size: int = 1
    head_prefixes: tuple[str, ...] = ()
    probabilities: bool = False
    classifiers: tuple[str, ...] = ()
    _no_split_modules: tuple[str, ...] = ()
    block_pattern: str = BLOCKS
    batchnorm_frozen: bool = False
    still_batchnorms: frozenset[str] = frozenset()

    def __init__(self) -> None:
        """Start without parameters, as any torch module."""
        super().__init__()
        self._scales: dict[Any, tuple[Tensor, Tensor]] = {}

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) float to Logits. Labels are never seen here."""
        raise NotImplementedError

    def is_head(self, parameter_name: str) -> bool:
        """Tell whether a parameter belongs to the head, by its name in `named_parameters`."""
        return parameter_name.startswith(self.head_prefixes) if self.head_prefixes else False

    def parameter_depths(self) -> dict[str, int]:
        """Tell for `--layer-decay` how deep each parameter lies, by its name.

        Returns:
            0 for what sees pixels or positions first, 1..L for the encoder's L blocks in the order
            of use, L + 1 for norms behind them and for the head. Empty where the names show no
            blocks: set `block_pattern`, or override this.
        """
        names = [name for name, _ in self.named_parameters()]
        encoder = [name for name in names if not self.is_head(name)]
        found, last = block_depths(encoder, self.block_pattern)
        return {name: found.get(name, last + 1) for name in names} if last else {}

    def losses(self, facts: Facts) -> dict[str, LossTerm]:
        """Return the losses that this network brings by name, in place of `--loss`; usually none.

        Their `sum` is given `Logits.queries` where the network returns some, else `Logits.main`.
        """
        return {}

    def on_step(self, step: int, total: int) -> None:
        """Change with progress; called before each optimizer step, counted from 0."""

    def enable_gradient_checkpointing(self) -> bool:
        """Trade compute for memory; False when the network offers none."""
        return False

    def freeze_batchnorm(self) -> None:
        """Keep the statistics, scales and shifts of batch norm as they are, in training too.

        One image is then enough for a batch.
        """
        self.batchnorm_frozen, self.min_batch_size = True, 1
        for norm in self.batchnorms().values():
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> "SegmentationModel":
        """Switch to training or evaluation; frozen batch norm stays in evaluation."""
        super().train(mode)
        if self.batchnorm_frozen or self.still_batchnorms:
            for name, norm in self.batchnorms().items():
                if self.batchnorm_frozen or name in self.still_batchnorms:
                    norm.eval()
        return self

    def batchnorms(self) -> dict[str, nn.Module]:
        """Return the batch norms by name."""
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        return {name: one for name, one in self.named_modules() if isinstance(one, kinds)}

    def normalize(self, images: Tensor) -> Tensor:
        """Turn uint8 RGB images (N, C, H, W) into float32 of this network's mean, std and order."""
        if self.channel_order == "bgr":
            images = torch.cat([images[:, :3].flip(1), images[:, 3:]], dim=1)
        mean, std = self._mean_and_std(images.device, images.shape[1])
        # A copy in any case; uint8 less float32 would make one of each.
        return images.to(mean.dtype, copy=True).sub_(mean).div_(std)

    def _mean_and_std(self, device: torch.device, channels: int) -> tuple[Tensor, Tensor]:
        """Return mean and std of pixels in 0..255, (1, C, 1, 1) each; made once for a device."""
        key = (device, channels, self.mean, self.std)
        if key not in self._scales:
            mean, std = (
                torch.tensor(extend(values, channels), device=device).view(1, -1, 1, 1) * 255
                for values in (self.mean, self.std)
            )
            self._scales[key] = mean, std
        return self._scales[key]

    def load_weights(
        self, source: str, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load weights from a folder: a whole network's, or an encoder's.

        Args:
            source: the folder.
            class_names: this network's K classes, so that rows of the head find their names.
            fresh_head: leave the head as it is.

        Raises:
            WeightsError: nothing there, or almost nothing of it fits.
        """
        path = Path(source) / "model.safetensors"
        if not path.is_file():
            raise WeightsError(f"{source}: no model.safetensors in this folder.")
        try:
            found = load_file(path)
            names = stored_names(Path(source))
        except (OSError, ValueError, SafetensorError) as error:
            raise WeightsError(f"{source}: the weights cannot be read: {error}.") from None
        place = self.place(class_names, fresh_head=fresh_head)
        state, report = carry_over(
            self.state_dict(), found, place, source=source, found_names=names
        )
        self.load_state_dict(state, strict=False)
        return report

    def place(self, class_names: Sequence[str], *, fresh_head: bool) -> Place:
        """Say how weights of another head fit in."""
        return Place(
            is_head=self.is_head,
            classifiers=tuple(f"{name}." for name in self.classifiers),
            class_names=tuple(class_names),
            num_channels=self.num_channels,
            fresh_head=fresh_head,
        )

    def save_settings(self, folder: Path) -> None:
        """Write what loaded weights decided beside tensors, for a run that goes on."""

    def load_settings(self, folder: Path) -> None:
        """Read what `save_settings` wrote; a checkpoint holds tensors only."""

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


def block_depths(names: Sequence[str], pattern: str = BLOCKS) -> tuple[dict[str, int], int]:
    """Number an encoder's parameters by depth.

    Args:
        names: of the encoder's parameters, in the order of registration, which is that of use.
        pattern: a regular expression with the groups `stage` and `block`, searched in each name.

    Returns:
        By name, 0 for what comes before the first block, 1..L for the L blocks in order, L + 1 for
        what comes after the last one; and L, which is 0 where no block is found.
    """
    places = [_place(name, pattern) for name in names]
    divided = {stage for stage, block in places if block != stage}
    places = [(stage, "" if block in divided else block) for stage, block in places]
    order = {block: k for k, block in enumerate(dict.fromkeys(b for _, b in places if b), 1)}
    found, depth, within = {}, 0, ""
    for name, (stage, block) in zip(names, places, strict=True):
        if block:
            depth, within = order[block], stage
        elif stage:  # it belongs to the next block, or to the last one of its stage
            found[name] = depth + 1 if depth and stage != within else depth
            continue
        behind = not block and 0 < depth == len(order)
        found[name] = depth + 1 if behind else depth
    return found, len(order)


def _place(name: str, pattern: str) -> tuple[str, str]:
    """Return the beginnings of a name that say its stage and its block; the same for one level."""
    match = re.search(pattern, name)
    if match is None or name[: match.start("stage")].endswith(NORMS):
        return "", ""
    stage = name[: match.end("stage")]
    return stage, name[: match.end("block")] if match["block"] else stage
