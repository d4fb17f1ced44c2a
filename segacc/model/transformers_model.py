"""A network of transformers behind the contract of `segacc.model`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segacc.contracts import Facts, TransformersOptions
from segacc.errors import OptionError, WeightsError
from segacc.model.contract import Logits, SegmentationModel, SizeRule, extend, stored_names
from segacc.model.transfer import LoadReport, Place, carry_over, resize_bias_table, resize_positions
from segacc.model.transformers_weights import (
    channels_of,
    inner_config,
    quiet_bars,
    read_config,
    read_json,
    read_state,
)

Adapt = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]
"""Tensors that were read, and a network's own, by its names, to those to load."""


def make_config(
    config_class: type[Any], options: TransformersOptions, facts: Facts, **sizes: Any
) -> Any:
    """Build a config from sizes, or from the folder that `options.config` names; labels are ours.

    Args:
        config_class: of transformers.
        options: `config` is the folder, or None.
        facts: class names, number of input channels, ignored index.
        sizes: what the config takes where no folder is given.

    Raises:
        WeightsError: the folder's config.json cannot be read, or is of another model_type.
    """
    labels = {
        "id2label": dict(enumerate(facts.class_names)),
        "label2id": {name: k for k, name in enumerate(facts.class_names)},
    }
    if options.config is None:
        config = config_class(**sizes, **labels)
    else:
        found = read_config(options.config)
        if found.get("model_type") != config_class.model_type:
            raise WeightsError(
                f"{options.config}: holds a {found.get('model_type')} network, not "
                f"{config_class.model_type}."
            )
        config = config_class.from_dict({**found, **labels})
    for name in ("semantic_loss_ignore_index", "loss_ignore_index"):  # UPerNet has the second
        if hasattr(config, name):
            setattr(config, name, facts.ignore_index)
    for part in filter(None, (config, inner_config(config))):
        if hasattr(part, "num_channels"):
            part.num_channels = facts.num_channels
    return config


def square_side(facts: Facts, multiple: int) -> int:
    """Return the side of the crops, for a network that is built for squares of one size.

    Raises:
        OptionError: they are not square, or not a multiple of `multiple`.
    """
    height, width = facts.crop_size
    if complaint := SizeRule(multiple=multiple, square=True).complaint((height, width)):
        raise OptionError(
            f"crop_size: {height}x{width}: the architecture {complaint}. Choose a square crop "
            f"whose side is a multiple of {multiple}, as {max(1, height // multiple) * multiple}."
        )
    return height


def reset_batchnorm(network: nn.Module) -> None:
    """Start batch norm at scale 1, as PyTorch does; some of transformers start it near 0."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


class TransformersModel(SegmentationModel):
    """A semantic-segmentation network of transformers behind the contract.

    Args:
        network: takes `pixel_values`, returns `.logits` (N, K, h, w).
        image_processor: its mean, std, channel order are used; it is saved beside the network so
            that `pipeline("image-segmentation")` does what `predict` does with images of a size
            that the network takes.
        encoder: name of the network's encoder, a submodule, as in `segformer`; all else is head.
            Weights of a bare encoder of another model_type are loaded into it.
        classifiers: names of the modules in the network with one row for each class.
        auxiliary: name of a submodule whose output are auxiliary logits, and their weight in the
            loss; used in training only.
        kept: names in the config that fine-tuned weights decide, not the options (as BEiT's
            `out_indices`).
        as_stored: names in the config that weights are read by as they were saved, and `adapt`
            then turns into what this network has (as BEiT's shared position biases).
        adapt: given tensors that were read, by the network's names, and the network's own, returns
            those to load.
    """

    def __init__(
        self,
        network: Any,
        image_processor: Any,
        *,
        encoder: str | tuple[str, ...] = (),
        classifiers: Sequence[str] = (),
        auxiliary: tuple[str, float] | None = None,
        size_rule: SizeRule | None = None,
        kept: Sequence[str] = (),
        as_stored: Sequence[str] = (),
        adapt: Adapt | None = None,
    ) -> None:
        """Wrap; see the class."""
        super().__init__()
        self.network = network
        self.image_processor = image_processor
        parts = (encoder,) if isinstance(encoder, str) else tuple(encoder)
        self.encoders = parts or (network.base_model_prefix,)
        self.classifiers = tuple(f"network.{name}" for name in classifiers)
        self.size_rule = size_rule or SizeRule()
        self.kept = tuple(kept)
        self.as_stored, self.adapt = tuple(as_stored), adapt
        self.num_channels = channels_of(network.config)
        self._take_colors({})
        self._no_split_modules = tuple(network._no_split_modules or ())
        self._auxiliary: list[tuple[Tensor, float]] = []
        if auxiliary is not None:
            self._watch(*auxiliary)

    def _take_colors(self, found: dict[str, Any]) -> None:
        """Take mean, std and channel order of a preprocessor_config.json into the own processor."""
        processor = self.image_processor
        for name in ("do_normalize", "image_mean", "image_std", "do_flip_channel_order"):
            if hasattr(processor, name) and name in found:
                setattr(processor, name, found[name])
        mean, std = (0.0,) * 3, (1.0,) * 3
        if processor.do_normalize:
            mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        self.mean, self.std = (tuple(extend(one, self.num_channels)) for one in (mean, std))
        flipped = getattr(processor, "do_flip_channel_order", False)
        self.channel_order = "bgr" if flipped else "rgb"

    def _watch(self, name: str, weight: float) -> None:
        """Take auxiliary logits where they arise: transformers does not return them."""

        def keep(module: nn.Module, given: Any, logits: Tensor) -> None:
            if self.training:
                self._auxiliary.append((logits, weight))

        self.network.get_submodule(name).register_forward_hook(keep)

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to Logits at the decoder's resolution."""
        self._auxiliary = []
        main = self.network(pixel_values=images).logits
        auxiliary, self._auxiliary = tuple(self._auxiliary), []
        return Logits(main, auxiliary)

    def is_head(self, parameter_name: str) -> bool:
        """Tell the head: all that is not under the encoder."""
        if self.head_prefixes:
            return parameter_name.startswith(self.head_prefixes)
        return not parameter_name.startswith(tuple(f"network.{name}." for name in self.encoders))

    def enable_gradient_checkpointing(self) -> bool:
        """Turn on what transformers offers, for the whole network or for its encoder."""
        encoders = [self.network.get_submodule(name) for name in self.encoders]
        for part in (self.network, *encoders):
            if getattr(part, "supports_gradient_checkpointing", False):
                old = part.gradient_checkpointing_enable  # its name in older versions of transformers
                getattr(part, "activation_checkpointing_enable", old)()
                return True
        return False

    def place(self, class_names: Sequence[str], *, fresh_head: bool) -> Place:
        """Say how weights of another head, input or image size fit in."""
        return replace(
            super().place(class_names, fresh_head=fresh_head),
            resize=self.resize_tensor,
        )

    def resize_tensor(self, name: str, found: Tensor, own: Tensor) -> Tensor | None:
        """Fit a tensor of another image size: what positions have; None where it cannot."""
        if name.endswith("relative_position_bias_table"):
            return resize_bias_table(found, own)
        return resize_positions(found, own) if "position_embeddings" in name else None

    def load_weights(
        self, source: str, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load a segmentation network, a classifier's encoder or a bare encoder, as float32.

        Raises:
            WeightsError: nothing there, another model_type, or almost nothing fits.
        """
        encoder = self.encoders[0] if len(self.encoders) == 1 else None
        state = read_state(source, self.network, encoder, kept=self.kept, as_stored=self.as_stored)
        if self.adapt is not None:
            state = self.adapt(state, self.network.state_dict())
        state = {f"network.{name}": tensor for name, tensor in state.items()}
        class_names = class_names or tuple(self.network.config.id2label.values())
        place, names = self.place(class_names, fresh_head=fresh_head), stored_names(Path(source))
        own = self.state_dict()
        loaded, report = carry_over(own, state, place, source=source, found_names=names)
        self.load_state_dict(loaded, strict=False)
        if (path := Path(source) / "preprocessor_config.json").is_file():
            self._take_colors(read_json(path))
        return report

    def save_settings(self, folder: Path) -> None:
        """Write config.json and preprocessor_config.json: `kept` values, mean, std, order."""
        self.network.config.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def load_settings(self, folder: Path) -> None:
        """Read what `save_settings` wrote."""
        theirs = type(self.network.config).from_dict(read_config(folder))
        for name in self.kept:
            setattr(self.network.config, name, getattr(theirs, name))
        self._take_colors(read_json(folder / "preprocessor_config.json"))

    def save_pretrained(
        self, folder: Path, *, names: Sequence[str], state_dict: dict[str, Tensor]
    ) -> None:
        """Write what transformers' Auto classes and its image-segmentation pipeline load."""
        inner = {name.removeprefix("network."): tensor for name, tensor in state_dict.items()}
        self.network.config.id2label = dict(enumerate(names))
        self.network.config.label2id = {name: k for k, name in enumerate(names)}
        with quiet_bars():
            self.network.save_pretrained(folder, state_dict=inner)
        self.image_processor.save_pretrained(folder)
