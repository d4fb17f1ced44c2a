"""Adapts a transformers network to the interface of `segacc.model`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segacc.contracts import Facts, TransformersOptions
from segacc.errors import WeightsError
from segacc.model.contract import Logits, SegmentationModel, SizeRule, refuse_crop
from segacc.model.transfer import (
    LoadReport,
    extend,
    resize_bias_table,
    resize_positions,
)
from segacc.model.transformers_weights import (
    BareNames,
    channels_of,
    inner_config,
    quiet_bars,
    read_colors,
    read_config,
    read_state,
    renamed_as_loaded,
    set_channels,
)
from segacc.model.weight_files.renaming import Renamer

Adapt = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]
"""(loaded tensors, the network's own tensors), both by name, to the tensors to load."""


def make_config(
    config_class: type[Any], options: TransformersOptions, facts: Facts, **sizes: Any
) -> Any:
    """Build a config from sizes or from `options.config`, with the class names of the run.

    Args:
        config_class: a config class of transformers.
        options: `config` is a folder, or None.
        facts: class names, number of input channels, ignore_index.
        sizes: arguments of the config if no folder is given.

    Raises:
        WeightsError: the folder's config.json is unreadable, or has another model_type.
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
                f"{options.config}: contains a {found.get('model_type')} network, not "
                f"{config_class.model_type}."
            )
        config = config_class.from_dict({**found, **labels})
    for name in ("semantic_loss_ignore_index", "loss_ignore_index"):  # UPerNet has the second
        if hasattr(config, name):
            setattr(config, name, facts.ignore_index)
    for part in filter(None, (config, inner_config(config))):
        if hasattr(part, "num_channels"):
            set_channels(part, facts.num_channels)
    return config


def stored_type(options: TransformersOptions) -> str:
    """Return the model_type in the folder of `options.config`; empty without one."""
    return read_config(options.config).get("model_type", "") if options.config else ""


def square_side(facts: Facts, multiple: int) -> int:
    """Return the side of the crop, for a network that is built for squares of one size.

    Raises:
        CropError: the crop is not square, or not a multiple of `multiple`.
    """
    refuse_crop(SizeRule(multiple=multiple, square=True), facts.crop_size)
    return facts.crop_size[0]


def reset_batchnorm(network: nn.Module) -> None:
    """Initialize batch norm scales to 1, like PyTorch; some transformers networks start near 0."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


class TransformersModel(SegmentationModel):
    """A semantic segmentation network of transformers.

    Args:
        network: called with `pixel_values`, returns `.logits` (N, K, h, w).
        image_processor: source of mean, std and channel order; it is saved with the network, so
            that `pipeline("image-segmentation")` gives the same result as `predict` for image sizes
            that the network accepts.
        encoder: name of the encoder submodule, e.g. `segformer`; the rest is the head. Weights of a
            bare encoder with another model_type are loaded into it.
        classifiers: names of the modules in the network with one row per class; those of a head
            that the network was built without are left out.
        auxiliary: name of a submodule that outputs auxiliary logits, and their loss weight; used in
            training only, and only if the network has it.
        kept: config values that are taken from fine-tuned weights, not from the options (such as
            BEiT's `out_indices`).
        as_stored: config values with which the weights are read as they were saved, before `adapt`
            converts them for this network (such as BEiT's shared position biases).
        adapt: called with the loaded tensors and the network's own, both by the network's names;
            returns the tensors to load.
        bare: see `read_state`.
        renamer: gives the tensors of a single file, such as those of mmsegmentation, the network's
            names; None if only files with these names can be loaded.
        units: class names of FSDP units; None for those that transformers names.
        min_batch_size: minimum images per process in training.
        tokens: whether its decoder makes feature maps of (N, h * w, C), and resizes these.
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
        bare: BareNames | None = None,
        renamer: Renamer | None = None,
        units: Sequence[str] | None = None,
        min_batch_size: int = 1,
        tokens: bool = False,
    ) -> None:
        """Wrap a network; see the class."""
        super().__init__()
        self.network = network
        self.image_processor = image_processor
        parts = (encoder,) if isinstance(encoder, str) else tuple(encoder)
        self.encoders = parts or (network.base_model_prefix,)
        there = [name for name in classifiers if getattr(network, name.split(".")[0]) is not None]
        self.classifiers = tuple(f"network.{name}" for name in there)
        self.size_rule = size_rule or SizeRule()
        self.kept = tuple(kept)
        self.as_stored, self.adapt, self.bare = tuple(as_stored), adapt, bare
        self.renamer = renamer
        self.num_channels = channels_of(network.config)
        self._take_colors()
        units = network._no_split_modules if units is None else units
        self._no_split_modules = tuple(units or ())
        self.min_batch_size, self.tokens = min_batch_size, tokens
        self._auxiliary: list[tuple[Tensor, float]] = []
        if auxiliary is not None and getattr(network, auxiliary[0]) is not None:
            self._watch(*auxiliary)

    def _take_colors(self, folder: str | Path | None = None) -> None:
        """Set mean, std and channel order to the own processor's.

        Args:
            folder: its preprocessor_config.json changes the own processor before.

        Raises:
            WeightsError: see `read_colors`.
        """
        processor = self.image_processor
        found, white = ({}, 1.0) if folder is None else read_colors(folder)
        for name, value in found.items():
            if hasattr(processor, name):
                setattr(processor, name, value)
        mean: tuple[float, ...] = (0.0,) * 3
        std: tuple[float, ...] = (1.0,) * 3
        if processor.do_normalize:
            mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        if white != 1.0:  # it is for the own processor
            mean, std = (tuple(value / white for value in one) for one in (mean, std))
            processor.do_normalize = True
            processor.image_mean, processor.image_std = list(mean), list(std)
        self.mean, self.std = (tuple(extend(one, self.num_channels)) for one in (mean, std))
        flipped = getattr(processor, "do_flip_channel_order", False)
        self.channel_order = "bgr" if flipped else "rgb"

    def _save_processor(self, folder: Path) -> None:
        """Write preprocessor_config.json, with `mean` and `std` if they were changed."""
        processor, own = self.image_processor, (self.mean, self.std)
        self._take_colors()
        if own != (self.mean, self.std):
            self.mean, self.std = own
            processor.do_normalize = True
            processor.image_mean, processor.image_std = map(list, own)
        processor.save_pretrained(folder)

    def _watch(self, name: str, weight: float) -> None:
        """Collect auxiliary logits with a hook, because transformers does not return them."""

        def keep(module: nn.Module, given: Any, logits: Tensor) -> None:
            if self.training:
                self._auxiliary.append((logits, weight))

        self.network.get_submodule(name).register_forward_hook(keep)

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to Logits at the decoder's resolution."""
        self._auxiliary = []
        with ordered(images, training=self.training) if self.tokens else nullcontext():
            main = self.network(pixel_values=images).logits
        auxiliary, self._auxiliary = tuple(self._auxiliary), []
        return Logits(main, auxiliary)

    def is_head(self, parameter_name: str) -> bool:
        """True for all parameters outside the encoder."""
        if self.head_prefixes:
            return parameter_name.startswith(self.head_prefixes)
        return not parameter_name.startswith(tuple(f"network.{name}." for name in self.encoders))

    def enable_gradient_checkpointing(self) -> bool:
        """Enable transformers' gradient checkpointing for the whole network or its encoder."""
        encoders = [self.network.get_submodule(name) for name in self.encoders]
        for part in (self.network, *encoders):
            if getattr(part, "supports_gradient_checkpointing", False):
                old = part.gradient_checkpointing_enable  # the name in older transformers
                getattr(part, "activation_checkpointing_enable", old)()
                return True
        return False

    def resize_tensor(self, name: str, found: Tensor, own: Tensor) -> Tensor | None:
        """Resize position embeddings of another image size; None for any other tensor."""
        if name.endswith("relative_position_bias_table"):
            return resize_bias_table(found, own)
        return resize_positions(found, own) if "position_embeddings" in name else None

    def load_weights(
        self, source: str, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load a segmentation network, a classifier's encoder or a bare encoder, as float32.

        Raises:
            WeightsError: there are no weights, another model_type, or almost nothing fits.
        """
        encoder = self.encoders[0] if len(self.encoders) == 1 else None
        more = {"kept": self.kept, "as_stored": self.as_stored}
        state = read_state(source, self.network, encoder, bare=self.bare, **more)
        if self.adapt is not None:
            state = self.adapt(state, self.network.state_dict())
        report = self.carry_over(
            {f"network.{name}": tensor for name, tensor in state.items()},
            source,
            class_names=class_names or tuple(self.network.config.id2label.values()),
            fresh_head=fresh_head,
        )
        if (Path(source) / "preprocessor_config.json").is_file():
            self._take_colors(source)
        return report

    def own_names(self, found: dict[str, Tensor], *, fresh_head: bool) -> dict[str, Tensor]:
        """Return the tensors of a file by this network's names; see the base class."""
        own = self.network.state_dict()
        state = {name.removeprefix("network."): one for name, one in found.items()}
        state = renamed_as_loaded(state, self.network)
        if self.renamer is not None:
            state = self.renamer(state, own, fresh_head)
        if self.adapt is not None:
            state = self.adapt(state, own)
        return {f"network.{name}": one for name, one in state.items()}

    def save_settings(self, folder: Path) -> None:
        """Write config.json and preprocessor_config.json: `kept` values and normalization."""
        self.network.config.save_pretrained(folder)
        self._save_processor(folder)

    def load_settings(self, folder: Path) -> None:
        """Read the files of `save_settings`."""
        theirs = type(self.network.config).from_dict(read_config(folder))
        for name in self.kept:
            setattr(self.network.config, name, getattr(theirs, name))
        self._take_colors(folder)

    def save_pretrained(
        self, folder: Path, *, names: Sequence[str], state_dict: dict[str, Tensor]
    ) -> None:
        """Write files for transformers' Auto classes and its image-segmentation pipeline."""
        inner = {name.removeprefix("network."): tensor for name, tensor in state_dict.items()}
        self.network.config.id2label = dict(enumerate(names))
        self.network.config.label2id = {name: k for k, name in enumerate(names)}
        with quiet_bars():
            self.network.save_pretrained(folder, state_dict=inner)
        self._save_processor(folder)


class ChannelsLast(TorchFunctionMode):
    """Resizes and convolves feature maps of one image in the order in which they lie in memory.

    `permute` and `reshape` make maps (1, C, h, w) of tokens (1, h * w, C). They leave the batch
    dimension a stride that torch does not count as its channels-last order, although the maps are
    in it. On a CPU, `interpolate` then copies what it makes twice, and convolutions convert it
    (torch 2.14): SegFormer-b0 takes 1.6 times as long for an image.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function, `interpolate` and `conv2d` with usual channels-last strides."""
        wanted = func in (F.interpolate, F.conv2d)  # which get their input by position
        if wanted and args[0].is_contiguous(memory_format=torch.channels_last):
            given, (_, channels, height, width) = args[0], args[0].shape
            strides = (channels * height * width, 1, width * channels, channels)
            args = (given.as_strided(given.shape, strides), *args[1:])
        return func(*args, **(kwargs or {}))


def ordered(images: Tensor, *, training: bool) -> AbstractContextManager[Any]:
    """Return the context for a forward pass of images (N, C, H, W): ChannelsLast for one on a CPU.

    In training, and in a graph that torch traces, it does nothing.
    """
    if training or torch.compiler.is_compiling():  # the number of images may be dynamic
        return nullcontext()
    single = len(images) == 1 and images.device.type == "cpu"
    return ChannelsLast() if single else nullcontext()
