"""Segmenter: load a model folder and segment images."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from segacc.contracts import MAX_BYTES, MAX_PIXELS, USUAL, Facts, Reading
from segacc.data.pictures import draw_prediction, visible
from segacc.errors import OptionError, SegaccError, WeightsError, is_main
from segacc.evaluation.images import OneImage, checked_classes, checked_dtype, to_tensor
from segacc.evaluation.model_folder import (
    SIDE_FILE,
    WHOLE,
    Model,
    architecture_of,
    find_model,
    side_file,
)
from segacc.evaluation.predict import predict, probability_bands
from segacc.evaluation.processor import protocol_of
from segacc.evaluation.protocol import (
    Protocol,
    refuse_one_hot,
    refuse_threshold,
    refuse_views,
)
from segacc.evaluation.protocol_options import EVEN
from segacc.evaluation.scores import classes_in
from segacc.labels import LabelMap
from segacc.model.contract import SegmentationModel, SizeRule
from segacc.model.exported import Runtime, runtime_of
from segacc.model.exported_model import ExportedModel
from segacc.model.transfer import stored_names
from segacc.model.transformers_weights import first_line, read_config
from segacc.registry import load_registry
from segacc.settings.config import DEFAULT_CROP
from segacc.settings.options import decode, parse_component
from segacc.settings.secrets import shown

Classes = np.ndarray[Any, np.dtype[np.uint8]]


class Segmenter:
    """A trained network that segments images.

    Attributes:
        network: the network, in evaluation mode, on `device`.
        labels: class names, palette and the mapping back to raw label ids.
        protocol: resizing, padding and windows; from the folder unless replaced.
        reading: how image files are read: how many of 16 bits are used, how many pixels allowed.
        arch: the name of the architecture.
    """

    def __init__(
        self,
        network: SegmentationModel,
        labels: LabelMap,
        protocol: Protocol,
        reading: Reading = USUAL,
        arch: str = "",
    ) -> None:
        """Create a segmenter from its parts; see `from_pretrained`.

        Raises:
            OptionError: the protocol has a threshold, and there are not two classes; or the network
                returns classes, see `refuse_views`.
        """
        refuse_threshold(protocol, labels.names, "Segmenter")
        refuse_views(protocol, network, "Segmenter")
        self.reading = reading
        self.network, self.labels, self.protocol = network.eval(), labels, protocol
        self.arch = arch or type(network).__name__

    def __repr__(self) -> str:
        """Return the architecture, the classes, the protocol and the device."""
        parts = self.arch, classes_in(self.labels.names), f"protocol {self.protocol.text()}"
        return f"Segmenter({', '.join(parts)}, on {self.device})"

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        runtime: Runtime = "auto",
    ) -> "Segmenter":
        """Load a model.

        Args:
            folder: a run folder (its best/), `best/` or `last/` of a run, a checkpoint, a
                semantic-segmentation folder of transformers, a Hub id, or a file of `segacc
                export`.
            device: the device; default the accelerator of this machine, else the CPU.
            max_pixels: maximum number of pixels of an image file; larger ones are refused before
                they are decoded.
            max_bytes: maximum size of an image file in bytes; larger ones are refused before they
                are read.
            runtime: what runs an exported file; default by its ending: ONNX Runtime for .onnx,
                OpenVINO for .xml, torch for .pt2.

        Raises:
            OptionError: the runtime cannot run the model, or its package is not installed.
            WeightsError: the folder is missing or has no segmentation network that segacc knows.
        """
        model = find_model(str(folder), "Segmenter", files=True)
        path, place = model.about, device or default_device()
        chosen = runtime_of(path, runtime, "Segmenter: runtime")
        side = side_file(path, WHOLE)
        parts = read_parts(path, side) if side else {}
        network: SegmentationModel
        if model.exported:
            network = ExportedModel.open(path, side, chosen, str(place))
            arch = side["architecture"]["name"]
        else:
            network, facts, arch = load_network(model, parts.get("facts"))
        if side:
            labels, protocol, network.size_rule = (
                parts[key] for key in ("labels", "protocol", "size_rule")
            )
        else:
            labels = LabelMap.plain(facts.class_names)
            protocol, notes = protocol_of(path, network, facts)
            for note in notes if is_main() else ():
                sys.stderr.write(shown(f"{model.name}: {note}\n"))
        bits = side.get("bits", USUAL.bits)
        reading = Reading(bits=bits, max_pixels=max_pixels, max_bytes=max_bytes)
        return cls(network, labels, protocol, reading, arch).to(place)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> "Segmenter":
        """Move the network to a device, as `torch.nn.Module.to`, and return the segmenter itself.

        Raises:
            OptionError: the device is unknown or not available.
        """
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter for a torch without CUDA
            raise OptionError(
                f"Segmenter: device {device}: {first_line(error)}. Devices are cpu, cuda, cuda:1, "
                "mps, and so on, if torch finds them."
            ) from None
        self.network.to(device)
        return self

    @overload
    def __call__(self, image: OneImage) -> Classes: ...
    @overload
    def __call__(self, image: list[Any] | tuple[Any, ...]) -> list[Classes]: ...
    def __call__(self, image: OneImage | list[Any] | tuple[Any, ...]) -> Classes | list[Classes]:
        """Segment an image, or several; the same pixels give the same prediction in every form.

        Args:
            image: one image, or several as a list, a tuple, or an array or tensor (N, H, W, C) or
                (N, C, H, W). Several give the same as each alone. An image is

                - the path of an image file, or its bytes;
                - a PIL image, which is rotated by its EXIF orientation;
                - an upright array or tensor of shape (H, W), (H, W, C) or (C, H, W) with 1 (grey),
                  3 (RGB) or 4 (RGBA) channels, or those of a network with another number of
                  channels. The dtype is uint8 in 0..255, or uint16 in 0..65535, of which the upper
                  byte is used.

        Returns:
            (H, W) uint8 class indices, a list of them for a list or a tuple, or (N, H, W) for N
            images in one array. `labels.names` are the names of the classes, and `labels.restore`
            converts them to raw label ids.

        Raises:
            DataError: the type, dtype or shape is not one of these or is ambiguous, as floats in
                0..1; or the image cannot be read.
        """
        if isinstance(image, list | tuple):
            return self._each(image)
        if isinstance(image, Tensor | np.ndarray) and image.ndim == 4 and len(image):
            return np.stack(self._each(image))
        return self.classes_of(self._pixels(image))

    def _each(self, images: Iterable[OneImage]) -> list[Classes]:
        """Segment several images one by one; an error says which."""
        found = []
        for number, image in enumerate(images, 1):
            try:
                found.append(self.classes_of(self._pixels(image)))
            except SegaccError as error:
                raise type(error)(f"image {number} of several: {error}") from None
        return found

    def _pixels(self, image: OneImage) -> Tensor:  # (C, H, W) uint8 on the device
        return to_tensor(image, self.network.num_channels, self.reading).to(self.device)

    def classes_of(self, pixels: Tensor) -> Classes:
        """Segment a read image (C, H, W) uint8; unlike `__call__`, the shape is not guessed."""
        pixels = pixels.to(self.device)
        return predict(self.network, self.network, pixels, self.protocol).cpu().numpy()

    def probabilities(
        self, image: OneImage, dtype: Literal["float32", "float16", "uint8"] = "float32"
    ) -> np.ndarray[Any, Any]:
        """Return the probability of each class for each pixel of one image.

        Test-time augmentation averages them over its views. The most probable class is the
        prediction, unless rounding makes two probabilities equal or the protocol has a threshold.

        Args:
            image: one image, see `__call__`.
            dtype: the numbers of the result; as uint8, the probabilities are multiplied by 255.

        Returns:
            (K, H, W) in 0..1, or 0..255 as uint8, at the size of the image.

        Raises:
            DataError: see `__call__`.
            OptionError: the dtype is another, or the network is in an exported file that returns
                classes.
        """
        to, eight = checked_dtype(dtype), dtype == "uint8"
        refuse_one_hot(self.network, "Segmenter: probabilities")
        given = self.network, self.network, self._pixels(image), self.protocol
        bands = ((band * 255).round() if eight else band for band in probability_bands(*given))
        return torch.cat([band.to(to).cpu() for band in bands], dim=1).numpy()

    def overlay(
        self, image: OneImage, prediction: Classes | Tensor | None = None
    ) -> PILImage.Image:
        """Draw the prediction over one image in the palette, with a legend below.

        It is the same picture as `segacc predict` writes to NAME_overlay.png.

        Args:
            image: one image, see `__call__`.
            prediction: classes (H, W) of any integer dtype, as `__call__` returns them; 255 is
                drawn as the image. Default: predicted now.

        Raises:
            DataError: see `__call__`; or the prediction has another size than the image, or a value
                that is not a class.
        """
        pixels = self._pixels(image)
        if prediction is None:
            return self.drawn(pixels.cpu(), self.classes_of(pixels))
        size = (pixels.shape[1], pixels.shape[2])
        return self.drawn(pixels.cpu(), checked_classes(prediction, size, len(self.labels.names)))

    def drawn(self, pixels: Tensor, prediction: Classes) -> PILImage.Image:
        """Draw a prediction (H, W) over an image (C, H, W) uint8 on the CPU; see `overlay`."""
        names, palette = self.labels.names, self.labels.palette
        return draw_prediction(visible(pixels), prediction, names=names, palette=palette)

    def with_protocol(self, protocol: Protocol | str) -> "Segmenter":
        """Return the same network under another protocol, or its text as of `--protocol`."""
        if not isinstance(protocol, Protocol):
            protocol = Protocol.parse(str(protocol), "Segmenter: protocol")
        return Segmenter(self.network, self.labels, protocol, self.reading, self.arch)

    def with_threshold(self, threshold: float) -> "Segmenter":
        """Return the same network of two classes with another threshold.

        Args:
            threshold: probability in 0..1 above which a pixel is of the second class.

        Raises:
            OptionError: it is out of range, or there are not two classes.
        """
        return self.with_protocol(self.protocol.with_threshold(threshold, "Segmenter"))


def with_settings(
    segmenter: Segmenter, protocol: str | None, threshold: float | None, where: Callable[[str], str]
) -> Segmenter:
    """Return the segmenter under the protocol and with the threshold that the user gave, if any.

    Args:
        segmenter: the segmenter.
        protocol: text of a protocol.
        threshold: see `Protocol.threshold`.
        where: returns where a setting was typed.

    Raises:
        OptionError: one is invalid, there are two thresholds, or not two classes for a threshold.
    """
    found = Protocol.parse(protocol, where("protocol")) if protocol else segmenter.protocol
    if threshold is not None:
        if protocol and found.threshold != EVEN:
            raise OptionError(
                f"{where('threshold')}: {where('protocol')} has threshold={found.threshold!r}, "
                "too; leave one of them out."
            )
        found = found.with_threshold(threshold, where("threshold"))
    typed = "protocol" if threshold is None else "threshold"
    refuse_threshold(found, segmenter.labels.names, where(typed))
    refuse_views(found, segmenter.network, where(typed))
    return segmenter.with_protocol(found) if found != segmenter.protocol else segmenter


def default_device() -> torch.device:
    """Return the accelerator of this machine, else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def load_network(model: Model, stored: Facts | None) -> tuple[SegmentationModel, Facts, str]:
    """Build the network of a model and load all its weights.

    Args:
        model: the model.
        stored: the facts in segacc.json; None without one.

    Returns:
        The network, its facts, and the name of its architecture.

    Raises:
        WeightsError: no architecture reads the folder, or tensors are missing.
    """
    registry, folder = load_registry(), model.about
    named = architecture_of(registry, folder, str(folder))
    where = str(folder / (SIDE_FILE if stored and "model_type" not in read_config(folder) else ""))
    component = parse_component(named, where)
    offer = registry.offer("architecture", component.name, where)
    options = decode(offer.record.options, component.values, component.where)
    facts = stored or facts_of(folder)
    network = offer.chosen(options).build_network(facts)
    report = model.load_into(network, class_names=facts.class_names)
    if report.new:  # these weights would be random
        raise WeightsError(
            f"{model.folder}: not a trained {component.name} network: {len(report.new)} tensors "
            f"are missing, such as {report.new[0].removeprefix('network.')}. Training can start "
            "from it with --weights."
        )
    network.num_channels = facts.num_channels
    return network, facts, component.name


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
    names = ["background", *names] if len(names) == 1 else names  # a network with one logit
    return Facts(
        num_classes=len(names), class_names=tuple(names), crop_size=crop, num_channels=channels
    )


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
    protocol, reading, arch = segmenter.protocol, segmenter.reading, segmenter.arch
    return Segmenter(segmenter.network, theirs_in_my_colors, protocol, reading, arch)
