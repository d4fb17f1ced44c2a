"""How a prediction is taken, and Segmenter: a saved folder that segments pictures."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors import SafetensorError
from torch import Tensor

from segacc.errors import OptionError, WeightsError
from segacc.functional import resized_argmax
from segacc.hookspecs import Facts
from segacc.labels import LabelMap
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.options import Size, decode, parse_component
from segacc.transformers_model import TransformersModel, quiet_bars

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE_FILE = "segacc.json"
"""What segacc keeps beside a transformers folder: label map, protocol, architecture."""


@dataclass(frozen=True)
class Protocol:
    """How the network sees an image; the prediction is always taken at the image's original size.

    At most one of the two is given; none means the image as it is.
    """

    short_side: int | None = None
    """Resize so that the shorter side has this many pixels."""
    size: tuple[int, int] | None = None
    """Resize to (height, width), not keeping the shape."""

    def text(self) -> str:
        """Tell it as it is typed: `whole`, `whole:short_side=512`, `whole:size=512x512`."""
        if self.short_side:
            return f"whole:short_side={self.short_side}"
        return f"whole:size={self.size[0]}x{self.size[1]}" if self.size else "whole"

    @classmethod
    def parse(cls, text: str, where: str) -> "Protocol":
        """Read what `text` wrote.

        Raises:
            OptionError: another name than `whole`, or an unknown or wrong option.
        """
        named = parse_component(text, where)
        if named.name != "whole":
            raise OptionError(f'{where}: unknown protocol "{named.name}". Known: whole.')
        options = decode(WholeOptions, named.values, where)
        if options.short_side and options.size:
            raise OptionError(f"{where}: short_side and size exclude each other in {text!r}.")
        return cls(options.short_side, options.size)

    def resize(self, image: Tensor) -> Tensor:
        """Resize an image (3, H, W) uint8, with antialiasing, as image processors do."""
        from torchvision.transforms.v2 import functional as F

        if self.short_side is None and self.size is None:
            return image
        size = list(self.size) if self.size else [self.short_side]
        resized: Tensor = F.resize(image, size, antialias=True)
        return resized


@dataclass(frozen=True, kw_only=True)
class WholeOptions:
    """Options of the protocol `whole`."""

    short_side: PositiveInt | None = None
    """Pixels of the shorter side."""
    size: Size | None = None
    """(height, width) in pixels."""


@torch.no_grad()
def predict(
    forward: Callable[[Tensor], Logits],
    network: SegmentationModel,
    image: Tensor,
    protocol: Protocol,
) -> Tensor:
    """Predict one image at its original size.

    One image at a time, so that a prediction never depends on what else is in a batch.

    Args:
        forward: the network, perhaps wrapped by accelerate.
        network: the same network, bare; it says how images are normalized and which sizes fit.
        image: (3, H, W) uint8 on the device.
        protocol: how the network sees it.

    Returns:
        (H, W) uint8 classes.
    """
    seen = protocol.resize(image)
    if complaint := network.size_rule.complaint((seen.shape[-2], seen.shape[-1])):
        raise OptionError(
            f"--protocol {protocol.text()}: the network {complaint}, an image comes as "
            f"{seen.shape[-2]}x{seen.shape[-1]}. Choose a protocol that resizes, as in "
            "whole:size=512x512."
        )
    logits = forward(network.normalize(seen[None])).main
    return resized_argmax(logits, (image.shape[-2], image.shape[-1]))[0]


class Segmenter:
    """A trained network that segments pictures.

    Attributes:
        network: in evaluation mode, on `device`.
        labels: class names, palette and the way back to raw label ids.
        protocol: how an image is seen; from the folder unless replaced.
    """

    def __init__(self, network: SegmentationModel, labels: LabelMap, protocol: Protocol) -> None:
        """Hold; use `from_pretrained`."""
        self.network, self.labels, self.protocol = network.eval(), labels, protocol
        self.device = next(network.parameters()).device

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device | None = None
    ) -> "Segmenter":
        """Load `best/` or `last/` of a run, or any semantic-segmentation folder of transformers.

        Raises:
            WeightsError: the folder is missing or holds no such network.
        """
        place = Path(folder).expanduser()
        if not (place / "config.json").is_file():
            hint = f" Did you mean {place / 'best'}?" if (place / "best").is_dir() else ""
            raise WeightsError(
                f"{folder}: no model folder (no config.json in {place.resolve()}).{hint}"
            )
        side = json.loads(path.read_text()) if (path := place / SIDE_FILE).is_file() else {}
        config = json.loads((place / "config.json").read_text())
        if "model_type" in config:
            network, labels, protocol = _load_transformers(place)
        elif side:
            network, labels, protocol = _load_own(place, side), None, Protocol()
        else:
            raise WeightsError(
                f"{folder}: config.json names no model_type, and there is no {SIDE_FILE} beside it."
            )
        labels = LabelMap.from_dict(side["labels"]) if side else labels
        protocol = Protocol.parse(side["protocol"], str(path)) if side else protocol
        network.size_rule = SizeRule.from_dict(side["size_rule"]) if side else network.size_rule
        assert labels is not None
        return cls(network.to(device or default_device()), labels, protocol)

    def __call__(
        self, image: "Image | str | Path | np.ndarray[Any, Any] | Tensor"
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Segment a PIL image, a path, or RGB uint8 as (H, W, 3) array or (3, H, W) tensor.

        Returns:
            (H, W) uint8 classes; `labels.names` names them, `labels.restore` gives raw ids.
        """
        pixels = to_tensor(image).to(self.device)
        return predict(self.network, self.network, pixels, self.protocol).cpu().numpy()

    def with_protocol(self, protocol: Protocol) -> "Segmenter":
        """Return the same network under another protocol."""
        return Segmenter(self.network, self.labels, protocol)


def default_device() -> torch.device:
    """Return the accelerator of this machine, or the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def to_tensor(image: Any) -> Tensor:
    """Turn a picture in any usual form into (3, H, W) uint8 RGB."""
    from segacc.decode import read_image

    if isinstance(image, str | Path):
        return read_image(Path(image), str(image))
    if isinstance(image, Tensor):
        return image
    array = image if isinstance(image, np.ndarray) else np.array(image.convert("RGB"))
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


def _load_transformers(folder: Path) -> tuple[SegmentationModel, LabelMap, Protocol]:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    try:
        with quiet_bars():
            network, info = AutoModelForSemanticSegmentation.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{folder}: transformers cannot load a semantic-segmentation network here: {first}"
        ) from None
    if missing := sorted(info["missing_keys"]):  # transformers fills them with random numbers
        raise WeightsError(
            f"{folder}: no trained segmentation network: {len(missing)} tensors are not there, as "
            f"{missing[0]}. As a start of training it can be given with --weights."
        )
    names = [network.config.id2label[k] for k in range(network.config.num_labels)]
    return TransformersModel(network, processor), LabelMap.plain(names), _protocol_of(processor)


def _protocol_of(processor: Any) -> Protocol:
    """Express what the image processor does to the size of an image."""
    size = dict(processor.size or {}) if processor.do_resize else {}
    if size.get("shortest_edge"):
        return Protocol(short_side=size["shortest_edge"])
    return Protocol(size=(size["height"], size["width"])) if size.get("height") else Protocol()


def _load_own(folder: Path, side: dict[str, Any]) -> SegmentationModel:
    """Build a plugin's network from what was stored, and fill it."""
    from segacc.registry import load_registry

    record, component = load_registry().component(
        "architecture", side["architecture"], str(folder / SIDE_FILE)
    )
    facts = Facts(**{**side["facts"], "crop_size": tuple(side["facts"]["crop_size"])})
    network: SegmentationModel = record.build(
        decode(record.options, component.values, component.where), facts
    )
    report = network.load_weights(str(folder))
    if report.new or report.dropped:
        raise WeightsError(
            f"{folder}: the weights do not fit {component.name} as it is installed: "
            f"{report.text()}."
        )
    return network


def relabel(segmenter: Segmenter, labels: LabelMap, where: str) -> Segmenter:
    """Take a data set's label map for scoring; its classes must be the network's, in order.

    Raises:
        OptionError: they are not.
    """
    mine, theirs = segmenter.labels.names, labels.names
    if mine != theirs:
        raise OptionError(
            f"{where}: the data set has the classes {_short(theirs)}, the network predicts "
            f"{_short(mine)}. "
            "Scores need the same classes in the same order."
        )
    return Segmenter(
        segmenter.network, replace(labels, palette=segmenter.labels.palette), segmenter.protocol
    )


def _short(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"
