"""Segmenter: a saved folder that segments pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from segacc.errors import OptionError, WeightsError
from segacc.hookspecs import USUAL, Facts, Reading
from segacc.labels import LabelMap
from segacc.model import SegmentationModel, SizeRule, stored_names
from segacc.options import decode
from segacc.protocols.predict import predict
from segacc.protocols.protocol import Protocol, default_protocol
from segacc.registry import load_registry
from segacc.saved import SIDE_FILE, WHOLE, architecture_of, side_file
from segacc.transformers_weights import quiet_bars, read_config

if TYPE_CHECKING:
    from PIL.Image import Image


class Segmenter:
    """A trained network that segments pictures.

    Attributes:
        network: in evaluation mode, on `device`.
        labels: class names, palette and the way back to raw label ids.
        protocol: how an image is seen; from the folder unless replaced.
        reading: how the file of an image is read: of 16 bits, how many are used.
    """

    def __init__(
        self,
        network: SegmentationModel,
        labels: LabelMap,
        protocol: Protocol,
        reading: Reading = USUAL,
    ) -> None:
        """Hold; use `from_pretrained`."""
        self.reading = reading
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
        side = side_file(place, WHOLE)
        if side:
            check_side(place, side)
        network, facts = load_network(place, side)
        if side:
            labels = LabelMap.from_dict(side["labels"])
            protocol = Protocol.parse(side["protocol"], str(place / SIDE_FILE))
            network.size_rule = SizeRule.from_dict(side["size_rule"])
        else:
            labels, protocol = LabelMap.plain(facts.class_names), protocol_of(place, network, facts)
        reading = Reading(bits=side.get("bits", 16))
        return cls(network.to(device or default_device()), labels, protocol, reading)

    def __call__(
        self, image: "Image | str | Path | np.ndarray[Any, Any] | Tensor"
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Segment a PIL image, a path, or uint8 as (H, W, C) array or (C, H, W) tensor.

        Returns:
            (H, W) uint8 classes; `labels.names` names them, `labels.restore` gives raw ids.
        """
        pixels = to_tensor(image, self.network.num_channels, self.reading).to(self.device)
        return predict(self.network, self.network, pixels, self.protocol).cpu().numpy()

    def with_protocol(self, protocol: Protocol) -> "Segmenter":
        """Return the same network under another protocol."""
        return Segmenter(self.network, self.labels, protocol, self.reading)


def default_device() -> torch.device:
    """Return the accelerator of this machine, or the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def to_tensor(image: Any, num_channels: int = 3, reading: Reading = USUAL) -> Tensor:
    """Turn a picture in any usual form into (C, H, W) uint8."""
    from segacc.decode import MODES, read_image

    if isinstance(image, str | Path):
        return read_image(Path(image), str(image), num_channels, reading)
    if isinstance(image, Tensor):
        return image
    mode = MODES.get(num_channels)  # none: an image of other channels comes as an array
    array = np.array(image.convert(mode)) if mode and hasattr(image, "convert") else np.array(image)
    array = array[:, :, None] if array.ndim == 2 else array
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


def load_network(folder: Path, side: dict[str, Any]) -> tuple[SegmentationModel, Facts]:
    """Build the network that a folder holds, as its architecture says, and fill it whole.

    Raises:
        WeightsError: no architecture reads it, or tensors are missing.
    """
    registry = load_registry()
    named = architecture_of(registry, folder, str(folder))
    where = str(folder / (SIDE_FILE if side and "model_type" not in read_config(folder) else ""))
    record, component = registry.component("architecture", named, where)
    facts = facts_of(folder, side)
    network: SegmentationModel = record.build(
        decode(record.options, component.values, component.where), facts
    )
    report = network.load_weights(str(folder), class_names=facts.class_names)
    if report.new:  # they would be random
        raise WeightsError(
            f"{folder}: no trained {component.name} network: {len(report.new)} tensors are not "
            f"there, as {report.new[0].removeprefix('network.')}. As a start of training it can be "
            "given with --weights."
        )
    network.num_channels = facts.num_channels
    return network, facts


def check_side(folder: Path, side: dict[str, Any]) -> None:
    """Refuse a segacc.json whose parts cannot be read.

    Raises:
        WeightsError: so.
    """
    readers: dict[str, Callable[[Any], Any]] = {
        "facts": lambda _: facts_of(folder, side),
        "labels": LabelMap.from_dict,
        "protocol": lambda text: Protocol.parse(text, str(folder / SIDE_FILE)),
        "size_rule": SizeRule.from_dict,
    }
    for key, read in readers.items():
        try:
            read(side[key])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{folder / SIDE_FILE}: {key} cannot be read ({type(error).__name__}: {error}): "
                "damaged, or of another version of segacc. Without this file the folder is read "
                "as one of transformers."
            ) from None


def facts_of(folder: Path, side: dict[str, Any]) -> Facts:
    """Read classes, input channels and size from segacc.json, or from config.json without one."""
    if side:
        return Facts(**{**side["facts"], "crop_size": tuple(side["facts"]["crop_size"])})
    config, names = read_config(folder), stored_names(folder)
    size = config.get("image_size") or 512
    crop = (size, size) if isinstance(size, int) else tuple(size)
    inner = config.get("backbone_config") or {}
    channels = config.get("num_channels") or inner.get("num_channels") or 3
    names = names or [f"LABEL_{k}" for k in range(config.get("num_labels", 2))]
    return Facts(
        num_classes=len(names), class_names=tuple(names), crop_size=crop, num_channels=channels
    )


def read_processor(folder: Path) -> Any:
    """Read the image processor of a folder of transformers.

    Raises:
        WeightsError: it cannot be read.
    """
    from transformers import AutoImageProcessor

    try:
        with quiet_bars():
            return AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise WeightsError(f"{folder}: the image processor cannot be read: {first}") from None


def protocol_of(folder: Path, network: SegmentationModel, facts: Facts) -> Protocol:
    """Choose what a folder's image processor does to the size of an image, or what fits."""
    there = (folder / "preprocessor_config.json").is_file()
    processor = read_processor(folder) if there else None
    size = dict(processor.size or {}) if processor is not None and processor.do_resize else {}
    fitting = default_protocol(network, facts.crop_size)
    if size.get("shortest_edge"):  # and then padded, or through windows, where that is needed
        return replace(fitting, short_side=size["shortest_edge"])
    return Protocol(size=(size["height"], size["width"])) if size.get("height") else fitting


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
    theirs_in_my_colors = replace(labels, palette=segmenter.labels.palette)
    return Segmenter(segmenter.network, theirs_in_my_colors, segmenter.protocol, segmenter.reading)


def _short(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"
