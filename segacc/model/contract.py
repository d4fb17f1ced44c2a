"""The interface of a network: SegmentationModel, its output Logits, and its SizeRule."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segacc.contracts import Facts, LossTerm
from segacc.errors import OptionError, Origin, WeightsError
from segacc.model.adapters import read_checkpoint
from segacc.model.depths import BLOCKS, block_depths
from segacc.model.transfer import (
    LoadReport,
    Structure,
    carry_over,
    extend,
    read_tensors,
    stored_names,
    with_shared,
)
from segacc.model.weight_files.reading import read_file


class Logits(NamedTuple):
    """The output of a network for a batch of N images."""

    main: Tensor
    """(N, K, h, w) float, at the decoder's resolution."""
    auxiliary: tuple[tuple[Tensor, float], ...] = ()
    """(logits, weight) of each auxiliary head, used by the loss only; empty in evaluation mode."""
    queries: Any = None
    """Input of the network's own losses (see `SegmentationModel.losses`), or None."""


@dataclass(frozen=True)
class SizeRule:
    """The image sizes that a network accepts such that its logits cover the image exactly."""

    multiple: int = 1
    """Height and width must be multiples of this."""
    square: bool = False
    fixed: tuple[int, int] | None = None
    """(height, width) if only one size is accepted."""
    minimum: int = 1
    """Minimum height and width in pixels."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SizeRule":
        """Create from the result of `dataclasses.asdict`, possibly decoded from JSON."""
        fixed = values["fixed"]
        return cls(**{**values, "fixed": tuple(fixed) if fixed else None})

    def text(self) -> str:
        """Describe the rule in a few words."""
        if self.fixed:
            return f"only {self.fixed[0]}x{self.fixed[1]}, the crop's"
        several = f"multiples of {self.multiple}" if self.multiple > 1 else ""
        least = f"at least {self.minimum}" if self.minimum > self.multiple else ""
        square = "square" if self.square else ""
        return ", ".join(filter(None, (square, several, least))) or "any"

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return an accepted (height, width): the largest not above `size`, if there is one."""
        if self.fixed:
            return self.fixed
        height, width = (min(size), min(size)) if self.square else size
        low = -(-self.minimum // self.multiple)
        return (
            max(low, height // self.multiple) * self.multiple,
            max(low, width // self.multiple) * self.multiple,
        )

    def complaint(self, size: tuple[int, int]) -> str:
        """Return why (height, width) is not accepted, or an empty string."""
        if self.fixed and size != self.fixed:
            return f"supports only {self.fixed[0]}x{self.fixed[1]} pixels"
        if self.square and size[0] != size[1]:
            return "supports only square images"
        if size[0] % self.multiple or size[1] % self.multiple:
            return f"supports only multiples of {self.multiple} pixels"
        if min(size) < self.minimum:
            return f"supports only images of at least {self.minimum} pixels per side"
        return ""


class CropError(OptionError):
    """The crop size does not fit the network; `rule` is the network's."""

    rule: SizeRule


def refuse_crop(rule: SizeRule, crop: tuple[int, int], where: str = "crop_size") -> None:
    """Refuse a crop size (height, width) that the network does not accept.

    Raises:
        CropError: the crop size does not fit; the message begins with `where` it was given.
    """
    if complaint := rule.complaint(crop):
        height, width = rule.fit(crop)
        error = CropError(
            f"{where}: {crop[0]}x{crop[1]}: the architecture {complaint}; {height}x{width} fits."
        )
        error.rule = rule
        raise error


def build_fitting(
    build: "Callable[[Facts], SegmentationModel]", facts: Facts, given: str = ""
) -> "tuple[SegmentationModel, Facts]":
    """Build a network for the nearest crop size that it accepts.

    Args:
        build: builds the network; it may be called twice.
        facts: the facts of the run, with the crop size that is wanted.
        given: where the user gave the crop size, which is refused if it does not fit.

    Returns:
        The network, and the facts with the crop size for which it was built.

    Raises:
        CropError: a crop size that the user gave does not fit.
    """
    try:
        network = build(facts)
        rule = network.size_rule
    except CropError as error:  # raised before anything is built
        rule = error.rule
    if given:
        refuse_crop(rule, facts.crop_size, given)
    if (crop := rule.fit(facts.crop_size)) != facts.crop_size:
        facts = replace(facts, crop_size=crop)
        network = build(facts)
    return network, facts


class SegmentationModel(nn.Module):
    """Base class of all networks. A plain torch plugin subclasses it and implements `forward`.

    Attributes:
        mean, std: per channel, for images in 0..1; the loop normalizes on the device.
        channel_order: "rgb" or "bgr", as `forward` expects.
        num_channels: number of image channels; set from the facts of the run.
        size_rule: the image sizes that `forward` accepts.
        min_batch_size: minimum images per process in training; 2 for batch norm of single values.
        head_prefixes: prefixes of the head's parameter names, which get `head_lr_scale`.
        probabilities: True if the logits are non-negative scores that are normalized by their sum
            to probabilities; False if a softmax is applied.
        classifiers: names of the modules whose tensors have one row per class; when weights with
            other classes are loaded, rows of classes with the same name are reused.
        block_pattern: regular expression for a parameter's block, like `BLOCKS` of
            `segacc.model.depths`.
        unlike: by a text in the configuration that mmsegmentation stores in its files: why their
            logits would differ; such a file is refused, unless the head is not loaded.
        batchnorm_frozen: set by `freeze_batchnorm`.
        still_batchnorms: names of batch norms that keep their statistics in training.
        class_weighted: True if its own losses (`losses`) use `facts.class_weights`.
        origin: its architecture and plugin, for errors; set by segacc.
        one_size, no_export: why `segacc export` writes files for one image size only, or none.
        one_hot, precision: of an exported file: if its logits are 0 and 1; its number format.
        _no_split_modules: class names of FSDP units (the attribute that accelerate reads).
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
    unlike: Mapping[str, str] = MappingProxyType({})
    batchnorm_frozen: bool = False
    still_batchnorms: frozenset[str] = frozenset()
    class_weighted: bool = False
    origin: Origin = Origin("network")
    one_size: str = ""
    no_export: str = ""
    one_hot: bool = False
    precision: str = ""

    def __init__(self) -> None:
        """Initialize without parameters, like any torch module."""
        super().__init__()
        self._scales: dict[Any, tuple[Tensor, Tensor]] = {}

    def forward(self, images: Tensor) -> Logits:
        """Map images (N, C, H, W) float, which `normalize` returned, to Logits.

        Auxiliary logits are returned in training mode only. Labels are never passed.
        """
        raise NotImplementedError

    def is_head(self, parameter_name: str) -> bool:
        """True if a parameter belongs to the head, by its name in `named_parameters`."""
        return parameter_name.startswith(self.head_prefixes) if self.head_prefixes else False

    def parameter_depths(self) -> dict[str, int]:
        """Return each parameter's depth for `--layer-decay`, by parameter name.

        Returns:
            0 for patch and position embeddings or a stem, 1..L for the encoder's L blocks in order
            of use, L + 1 for later norms and the head. Empty if the names show no blocks: set
            `block_pattern`, or override this.
        """
        names = [name for name, _ in self.named_parameters()]
        encoder = [name for name in names if not self.is_head(name)]
        found, last = block_depths(encoder, self.block_pattern)
        return {name: found.get(name, last + 1) for name in names} if last else {}

    def losses(self, facts: Facts) -> dict[str, LossTerm]:
        """Return losses by name that replace `--loss`; usually none.

        Their `sum` gets `Logits.queries` if the network returns them, else `Logits.main`.
        """
        return {}

    def on_step(self, step: int, total: int) -> None:
        """Adapt to training progress; called before each optimizer step, counted from 0."""

    def enable_gradient_checkpointing(self) -> bool:
        """Trade compute for memory; returns False if the network does not support it."""
        return False

    def freeze_batchnorm(self) -> None:
        """Freeze the statistics, scales and shifts of batch norm, also in training.

        A batch may then consist of a single image.
        """
        self.batchnorm_frozen, self.min_batch_size = True, 1
        for norm in self.batchnorms().values():
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> "SegmentationModel":
        """Switch to training or evaluation mode; frozen batch norms stay in evaluation mode."""
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
        """Normalize uint8 RGB (N, C, H, W) to float32 with this network's mean, std and order."""
        if self.channel_order == "bgr":
            images = torch.cat([images[:, :3].flip(1), images[:, 3:]], dim=1)
        mean, std = self._mean_and_std(images.device, images.shape[1])
        # One copy, then in place; uint8 minus float32 would allocate two tensors.
        return images.to(mean.dtype, copy=True).sub_(mean).div_(std)

    def _mean_and_std(self, device: torch.device, channels: int) -> tuple[Tensor, Tensor]:
        """Return mean and std for pixels in 0..255, (1, C, 1, 1) each; cached per device."""
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
        """Load weights of a whole network or of an encoder from a folder.

        Args:
            source: the folder.
            class_names: this network's K classes, to match rows of the head by name.
            fresh_head: do not load the head.

        Raises:
            WeightsError: the folder has no weights, or almost none of them fit.
        """
        return self.carry_over(
            read_tensors(source), source, class_names=class_names, fresh_head=fresh_head
        )

    def load_file(
        self, path: str | Path, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load a single file of weights, of torch.save or safetensors; else as `load_weights`.

        Raises:
            WeightsError: it cannot be read or contains code, or almost none of its tensors fit.
        """
        stored = read_file(Path(path))
        differences = [reason for text, reason in self.unlike.items() if text in stored.config]
        if differences and not fresh_head:
            raise WeightsError(f"{path}: {differences[0]}")
        try:
            found = self.own_names(stored.tensors, fresh_head=fresh_head)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
        return self.carry_over(
            found,
            str(path),
            class_names=class_names,
            fresh_head=fresh_head,
            found_names=stored.class_names,
        )

    def own_names(self, found: dict[str, Tensor], *, fresh_head: bool) -> dict[str, Tensor]:
        """Return the tensors of a single file by the names in `state_dict`; unchanged by default.

        Raises:
            WeightsError: they are those of another network; the error tells without their origin.
        """
        return found

    def carry_over(
        self,
        found: dict[str, Tensor],
        source: str,
        *,
        class_names: Sequence[str],
        fresh_head: bool,
        found_names: Sequence[str] | None = None,
    ) -> LoadReport:
        """Load the tensors `found` in the folder or file `source` as far as they fit.

        Args:
            found: tensors by the names in `state_dict`.
            source: where they were found.
            class_names: see `load_weights`.
            fresh_head: see `load_weights`.
            found_names: the classes of their head; None for those in config.json of the folder.

        Raises:
            WeightsError: almost none of them fit.
        """
        structure = Structure(
            is_head=self.is_head,
            classifiers=tuple(f"{name}." for name in self.classifiers),
            class_names=tuple(class_names),
            num_channels=self.num_channels,
            fresh_head=fresh_head,
            resize=self.resize_tensor,
        )
        names = stored_names(Path(source)) if found_names is None else found_names
        state, report = carry_over(
            self.state_dict(), found, structure, source=source, found_names=names
        )
        self.load_state_dict(state, strict=False)
        return report

    def load_checkpoint(
        self,
        weights: Path,
        settings: Path,
        *,
        class_names: Sequence[str] = (),
        fresh_head: bool = False,
    ) -> LoadReport:
        """Load a checkpoint's safetensors file, with the names of `state_dict`.

        `settings` has config.json and the files of `save_settings`; else as `load_weights`.
        """
        found = with_shared(read_checkpoint(weights, settings), self.state_dict())
        names = {"class_names": class_names}
        report = self.carry_over(found, str(settings), fresh_head=fresh_head, **names)
        self.load_settings(settings)
        return replace(report, source=str(weights.parent))

    def resize_tensor(self, name: str, found: Tensor, own: Tensor) -> Tensor | None:
        """Resize a loaded tensor of another shape than `own`; None if it cannot be resized."""
        return None

    def save_settings(self, folder: Path) -> None:
        """Write settings that the loaded weights determine, for a resumed run; none by default."""

    def load_settings(self, folder: Path) -> None:
        """Read the files of `save_settings`; a checkpoint itself contains only tensors."""

    def save_pretrained(
        self, folder: Path, *, names: Sequence[str], state_dict: dict[str, Tensor]
    ) -> None:
        """Write the weights and the files needed to load them to an existing folder."""
        save_file(
            {name: tensor.contiguous() for name, tensor in state_dict.items()},
            folder / "model.safetensors",
        )
        (folder / "config.json").write_text(
            json.dumps({"id2label": dict(enumerate(names))}, indent=1)
        )
