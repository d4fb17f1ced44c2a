"""Segmenter: load a model folder and segment images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from segacc.contracts import Facts
from segacc.data.decode import MODES, opened_pixels, plainly, read_image, upper
from segacc.errors import DataError, OptionError, UnreadableError, WeightsError
from segacc.evaluation.model_folder import (
    SIDE_FILE,
    WHOLE,
    Model,
    architecture_of,
    find_model,
    side_file,
)
from segacc.evaluation.predict import predict
from segacc.evaluation.protocol import Protocol, default_protocol
from segacc.evaluation.scores import classes_in
from segacc.hookspecs import USUAL, Reading
from segacc.labels import LabelMap
from segacc.model.contract import SegmentationModel, SizeRule
from segacc.model.transfer import stored_names
from segacc.model.transformers_weights import first_line, quiet_bars, read_config
from segacc.registry import load_registry
from segacc.settings.config import DEFAULT_CROP
from segacc.settings.options import decode


class Segmenter:
    """A trained network that segments images.

    Attributes:
        network: the network, in evaluation mode, on `device`.
        labels: class names, palette and the mapping back to raw label ids.
        protocol: resizing, padding and windows; from the folder unless replaced.
        reading: how image files are read: how many of 16 bits are used.
    """

    def __init__(
        self,
        network: SegmentationModel,
        labels: LabelMap,
        protocol: Protocol,
        reading: Reading = USUAL,
    ) -> None:
        """Create a segmenter from its parts; see `from_pretrained`."""
        self.reading = reading
        self.network, self.labels, self.protocol = network.eval(), labels, protocol
        self.device = next(network.parameters()).device

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device | None = None
    ) -> "Segmenter":
        """Load a model.

        Args:
            folder: a run folder (its best/), `best/` or `last/` of a run, a checkpoint, a
                semantic-segmentation folder of transformers, or a Hub id.
            device: the device; default the accelerator of this machine, else the CPU.

        Raises:
            WeightsError: the folder is missing or has no segmentation network that segacc knows.
        """
        model = find_model(str(folder), "Segmenter")
        path = model.about
        side = side_file(path, WHOLE)
        parts = read_parts(path, side) if side else {}
        network, facts = load_network(model, parts.get("facts"))
        if side:
            labels, protocol, network.size_rule = (
                parts[key] for key in ("labels", "protocol", "size_rule")
            )
        else:
            labels, protocol = LabelMap.plain(facts.class_names), protocol_of(path, network, facts)
        reading = Reading(bits=side.get("bits", 16))
        return cls(network.to(device or default_device()), labels, protocol, reading)

    def __call__(
        self, image: PILImage.Image | str | Path | np.ndarray[Any, Any] | Tensor
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Segment one image; the same pixels give the same prediction in every form.

        Args:
            image: the path of an image file; a PIL image, which is rotated by its EXIF orientation;
                or an upright array or tensor of shape (H, W), (H, W, C) or (C, H, W) with 1 (grey),
                3 (RGB) or 4 (RGBA) channels, or those of a network with another number of channels.
                The dtype is uint8 in 0..255, or uint16 in 0..65535, of which the upper byte is
                used.

        Returns:
            (H, W) uint8 class indices; `labels.names` are their names, `labels.restore` converts
            them to raw label ids.

        Raises:
            DataError: the type, dtype or shape is not one of these or is ambiguous, as floats in
                0..1; or the image cannot be read.
        """
        pixels = to_tensor(image, self.network.num_channels, self.reading).to(self.device)
        return predict(self.network, self.network, pixels, self.protocol).cpu().numpy()

    def with_protocol(self, protocol: Protocol) -> "Segmenter":
        """Return the same network under another protocol."""
        return Segmenter(self.network, self.labels, protocol, self.reading)


def default_device() -> torch.device:
    """Return the accelerator of this machine, else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def to_tensor(image: Any, num_channels: int = 3, reading: Reading = USUAL) -> Tensor:
    """Convert an image to (C, H, W) uint8, the same pixels as reading its file gives.

    Args:
        image: see `Segmenter.__call__`.
        num_channels: C of the network.
        reading: how many of 16 bits are used.

    Raises:
        DataError: the type, dtype or shape is not supported or is ambiguous.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), str(image), num_channels, reading)
    if isinstance(image, Tensor | np.ndarray):
        pixels = channels_last(eight_bits(image, reading.bits), num_channels)
        if num_channels not in MODES:
            return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        image = PILImage.fromarray(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels)
    if not isinstance(image, PILImage.Image):
        raise DataError(
            f"Segmenter: {type(image).__name__} is not an image. Give one image at a time: a path, "
            "a PIL image, or a uint8 array or tensor."
        )
    if num_channels not in MODES:
        raise DataError(
            f"Segmenter: the network takes {num_channels} channels, which a PIL image cannot have. "
            "Give the path of a TIFF, or a uint8 array or tensor."
        )
    try:
        return torch.from_numpy(opened_pixels(image, "Segmenter", num_channels, reading))
    except DataError:
        raise
    except Exception as error:  # PIL decodes a file only now, and may raise anything
        raise UnreadableError(f"Segmenter: the image cannot be read: {plainly(error)}.") from None


def eight_bits(image: Tensor | np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Return an array's pixels as uint8; for uint16, the upper 8 of `bits` bits, as for files.

    Raises:
        DataError: the dtype is another, or uint16 without values above 255, which is ambiguous.
    """
    dtype = getattr(image.dtype, "name", str(image.dtype).removeprefix("torch."))
    if dtype not in ("uint8", "uint16"):
        raise DataError(
            f"Segmenter: the pixels are {dtype}, whose range is not known; they must be uint8 in "
            "0..255, or uint16 in 0..65535. Convert floats in 0..1 with "
            '(image * 255).round().astype("uint8"), or .to(torch.uint8) for a tensor.'
        )
    pixels = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    if pixels.dtype == np.uint8:
        return pixels
    if bits == 16 and 0 < pixels.max(initial=0) <= 255:
        raise DataError(
            "Segmenter: the pixels are uint16 and none is above 255, so white may be 255 or 65535. "
            'Give 8-bit pixels as image.astype("uint8"), or as image.to(torch.uint8) for a tensor.'
        )
    return upper(pixels, bits)


def channels_last(
    pixels: np.ndarray[Any, Any], num_channels: int
) -> np.ndarray[Any, Any]:  # (H, W, C)
    """Return (H, W), (H, W, C) or (C, H, W) as (H, W, C).

    Raises:
        DataError: the shape is another, or may be either of the last two.
    """
    channels = tuple(MODES) if num_channels in MODES else (num_channels,)
    if pixels.ndim == 2 and pixels.size and 1 in channels:
        return pixels[..., None]
    fits = pixels.ndim == 3 and pixels.size > 0
    last, first = fits and pixels.shape[2] in channels, fits and pixels.shape[0] in channels
    if last != first:
        return pixels if last else pixels.transpose(1, 2, 0)
    why = "may be (H, W, C) or (C, H, W)" if last else "is not that of one image"
    forms = "(H, W), (H, W, C)" if 1 in channels else "(H, W, C)"
    raise DataError(
        f"Segmenter: an array of shape {tuple(pixels.shape)} {why}. Give one image at a time, "
        f"as {forms} or (C, H, W) with {' or '.join(map(str, channels))} channels."
    )


def load_network(model: Model, stored: Facts | None) -> tuple[SegmentationModel, Facts]:
    """Build the network of a model and load all its weights.

    Args:
        model: the model.
        stored: the facts in segacc.json; None without one.

    Raises:
        WeightsError: no architecture reads the folder, or tensors are missing.
    """
    registry, folder = load_registry(), model.about
    named = architecture_of(registry, folder, str(folder))
    where = str(folder / (SIDE_FILE if stored and "model_type" not in read_config(folder) else ""))
    record, component = registry.component("architecture", named, where)
    facts = stored or facts_of(folder)
    network: SegmentationModel = record.build(
        decode(record.options, component.values, component.where), facts
    )
    report = model.load_into(network, class_names=facts.class_names)
    if report.new:  # these weights would be random
        raise WeightsError(
            f"{model.folder}: not a trained {component.name} network: {len(report.new)} tensors "
            f"are missing, such as {report.new[0].removeprefix('network.')}. Training can start "
            "from it with --weights."
        )
    network.num_channels = facts.num_channels
    return network, facts


def read_parts(folder: Path, side: dict[str, Any]) -> dict[str, Any]:
    """Return the facts, labels, protocol and size rule that a segacc.json holds.

    Raises:
        WeightsError: a part cannot be read.
    """
    readers: dict[str, Callable[[Any], Any]] = {
        "facts": lambda facts: Facts(**{**facts, "crop_size": tuple(facts["crop_size"])}),
        "labels": LabelMap.from_dict,
        "protocol": lambda text: Protocol.parse(text, str(folder / SIDE_FILE)),
        "size_rule": SizeRule.from_dict,
    }
    parts = {}
    for key, read in readers.items():
        try:
            parts[key] = read(side[key])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{folder / SIDE_FILE}: {key} cannot be read ({type(error).__name__}: {error}): "
                "it is damaged, or from another version of segacc. Without this file the folder "
                "is loaded as a transformers model."
            ) from None
    return parts


def facts_of(folder: Path) -> Facts:
    """Read classes, input channels and crop size from config.json."""
    config, names = read_config(folder), stored_names(folder)
    size = config.get("image_size") or DEFAULT_CROP
    crop = (size, size) if isinstance(size, int) else tuple(size)
    inner = config.get("backbone_config") or {}
    channels = config.get("num_channels") or inner.get("num_channels") or 3
    names = names or [f"LABEL_{k}" for k in range(config.get("num_labels", 2))]
    return Facts(
        num_classes=len(names), class_names=tuple(names), crop_size=crop, num_channels=channels
    )


def read_processor(folder: Path) -> Any:
    """Load the image processor of a transformers folder.

    Raises:
        WeightsError: it cannot be read.
    """
    from transformers import AutoImageProcessor

    try:
        with quiet_bars():
            return AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers may raise anything for an invalid file
        path = folder / "preprocessor_config.json"
        if path.is_file() and "auto_map" in path.read_text(errors="replace"):
            raise WeightsError(
                f"{folder}: the image processor is custom code (auto_map in {path.name}), which "
                "is not run. Replace it with one of transformers, such as SegformerImageProcessor, "
                "or remove the file."
            ) from None
        raise WeightsError(
            f"{folder}: the image processor cannot be read: {first_line(error)}."
        ) from None


def protocol_of(folder: Path, network: SegmentationModel, facts: Facts) -> Protocol:
    """Return a protocol that resizes as the folder's image processor, else the default one."""
    there = (folder / "preprocessor_config.json").is_file()
    processor = read_processor(folder) if there else None
    size = dict(processor.size or {}) if processor is not None and processor.do_resize else {}
    fitting = default_protocol(network, facts.crop_size)
    if size.get("shortest_edge"):  # followed by padding or windows, if the network needs them
        return replace(fitting, short_side=size["shortest_edge"])
    return Protocol(size=(size["height"], size["width"])) if size.get("height") else fitting


def relabel(segmenter: Segmenter, labels: LabelMap, where: str) -> Segmenter:
    """Return the segmenter with a data set's label map, which must have the network's classes.

    Raises:
        OptionError: the classes or their order differ.
    """
    mine, theirs = segmenter.labels.names, labels.names
    if mine != theirs:
        raise OptionError(
            f"{where}: the data set has {classes_in(theirs)}, but the network predicts "
            f"{classes_in(mine)}. Evaluation needs the same classes in the same order."
        )
    theirs_in_my_colors = replace(labels, palette=segmenter.labels.palette)
    return Segmenter(segmenter.network, theirs_in_my_colors, segmenter.protocol, segmenter.reading)
