"""A network of transformers behind the contract of `segacc.model`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from segacc.errors import WeightsError
from segacc.model import LoadReport, Logits, SegmentationModel, check_report


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Keep transformers' bars, which take a blink each, off the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class TransformersModel(SegmentationModel):
    """A semantic-segmentation network of transformers behind the contract.

    Args:
        network: takes `pixel_values`, returns `.logits` (N, K, h, w).
        image_processor: its mean, std, channel order are used; it is saved beside the network so
            that
            `pipeline("image-segmentation")` does what `predict` does.
    """

    def __init__(self, network: Any, image_processor: Any) -> None:
        """Wrap; see the class."""
        super().__init__()
        self.network = network
        self.image_processor = image_processor
        channels = network.config.num_channels if hasattr(network.config, "num_channels") else 3
        if image_processor.do_normalize:
            self.mean, self.std = (
                tuple(image_processor.image_mean),
                tuple(image_processor.image_std),
            )
        else:
            self.mean, self.std = (0.0,) * channels, (1.0,) * channels
        self.channel_order = (
            "bgr" if getattr(image_processor, "do_flip_channel_order", False) else "rgb"
        )
        self._no_split_modules = tuple(network._no_split_modules or ())

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to Logits at the decoder's resolution."""
        return Logits(self.network(pixel_values=images).logits)

    def is_head(self, parameter_name: str) -> bool:
        """Tell the head: all that is not under the network's `base_model_prefix`."""
        if self.head_prefixes:
            return parameter_name.startswith(self.head_prefixes)
        return not parameter_name.startswith(f"network.{self.network.base_model_prefix}.")

    def enable_gradient_checkpointing(self) -> bool:
        """Turn on what transformers offers."""
        if self.network.supports_gradient_checkpointing:
            self.network.activation_checkpointing_enable()
        return bool(self.network.supports_gradient_checkpointing)

    def load_weights(self, source: str, *, offline: bool = False) -> LoadReport:
        """Load a segmentation network or a bare encoder, from a folder or the Hub, as float32.

        Raises:
            WeightsError: nothing there, another model_type, or almost nothing fits.
        """
        from transformers import AutoConfig

        mine = self.network.config
        try:
            found = AutoConfig.from_pretrained(source, local_files_only=offline)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise WeightsError(
                f"{source}: no transformers folder or Hub id that can be read: {first}"
            ) from None
        if found.model_type != mine.model_type:
            raise WeightsError(
                f"{source}: holds a {found.model_type} network, the architecture asked for is "
                f"{mine.model_type}. "
                "Give weights of the same kind, or choose the architecture that they belong to."
            )
        try:
            network, info = type(self.network).from_pretrained(
                source,
                config=mine,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=offline,
            )
        except (OSError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0].rstrip(".")
            raise WeightsError(f"{source}: the weights cannot be read: {first}.") from None
        own = network.state_dict()
        new = sorted(info["missing_keys"] | {key[0] for key in info["mismatched_keys"]})
        dropped = sorted(info["unexpected_keys"])
        report = LoadReport(source, len(own) - len(new), tuple(new), tuple(dropped))
        check_report(report, own, lambda name: self.is_head(f"network.{name}"))
        self.network = network
        return report

    def save_pretrained(
        self, folder: Path, *, names: Sequence[str], state_dict: dict[str, Tensor]
    ) -> None:
        """Write what AutoModelForSemanticSegmentation and the image-segmentation pipeline load."""
        inner = {name.removeprefix("network."): tensor for name, tensor in state_dict.items()}
        self.network.config.id2label = dict(enumerate(names))
        self.network.config.label2id = {name: k for k, name in enumerate(names)}
        with quiet_bars():
            self.network.save_pretrained(folder, state_dict=inner)
        self.image_processor.save_pretrained(folder)
