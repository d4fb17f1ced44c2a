"""The protocol of a transformers folder: its image processor's resizing."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from PIL.Image import Resampling

from segacc.contracts import Facts
from segacc.errors import WeightsError
from segacc.evaluation.protocol import Protocol, Windows, default_protocol
from segacc.evaluation.protocol_options import Interpolation
from segacc.model.contract import SegmentationModel
from segacc.model.transformers_weights import first_line, quiet_bars

KERNELS: dict[str, Interpolation] = {
    **{name: name for name in get_args(Interpolation)},
    "lanczos": "bicubic",
}
"""The interpolation for each kernel of Pillow; torch lacks lanczos, which transformers replaces
likewise on a GPU, and hamming and box, for which it is bilinear here."""


def protocol_of(
    folder: Path, network: SegmentationModel, facts: Facts
) -> tuple[Protocol, list[str]]:
    """Return a protocol that resizes as the folder's image processor, else the default one.

    Returns:
        The protocol, and a note on each step of the processor that segacc does not do.

    Raises:
        WeightsError: the image processor cannot be read.
    """
    fitting = default_protocol(network, facts.crop_size)
    if not (folder / "preprocessor_config.json").is_file():
        return fitting, []
    processor = read_processor(folder)
    size = sides_of(processor, folder) if processor.do_resize else {}
    protocol = fitting
    if getattr(processor, "do_split_image", None) and fitting.windows:
        crop = fitting.windows.crop
        protocol = fitting = replace(fitting, windows=Windows.of(crop, crop))
    if short := size.get("shortest_edge"):  # then padding or windows, if the network needs them
        long = size.get("longest_edge")
        protocol = replace(fitting, short_side=min(short, long or short), long_side=long)
    elif size.get("height"):
        protocol = Protocol(size=(size["height"], size["width"]))
    found = others(processor, size)
    if protocol.resizes:
        name = kernel_of(processor, folder)
        kernel = KERNELS.get(name, "bilinear")
        protocol = replace(protocol, interpolation=kernel)
        if kernel != name:
            found.append(f"resizes with the kernel {name}; segacc takes {kernel}")
    return protocol, [f"the image processor {one}" for one in found]


def sides_of(processor: Any, folder: Path) -> dict[str, int]:
    """Return the sides to which an image processor resizes, by their names in transformers.

    Raises:
        WeightsError: one is no number of pixels.
    """
    size = {name: side for name, side in dict(processor.size or {}).items() if side is not None}
    for name, side in size.items():
        if not isinstance(side, int) or side < 1:
            raise WeightsError(
                f"{folder}: preprocessor_config.json: size: {name} is {side!r}; expected a number "
                "of pixels, at least 1."
            )
    return size


def kernel_of(processor: Any, folder: Path) -> str:
    """Return the name of the kernel with which an image processor resizes, as `bicubic`.

    Raises:
        WeightsError: it is none of Pillow's.
    """
    kernel = getattr(processor, "resample", None)
    try:
        return "bilinear" if kernel is None else Resampling(kernel).name.lower()
    except ValueError:
        raise WeightsError(
            f"{folder}: preprocessor_config.json: resample is {kernel!r}, which is no kernel of "
            "Pillow; expected 0 (nearest), 2 (bilinear) or 3 (bicubic)."
        ) from None


def others(processor: Any, size: dict[str, Any]) -> list[str]:
    """Return what an image processor does and segacc does not, in choosing the pixels to see."""
    found = []
    if getattr(processor, "do_center_crop", None):
        crop = dict(processor.crop_size or {})
        sides = "x".join(str(crop[key]) for key in ("height", "width") if key in crop)
        found.append(f"cuts out the centre, {sides} pixels; segacc segments the whole image")
    elif getattr(processor, "crop_pct", None):
        found.append("resizes and crops by crop_pct; segacc only resizes")
    if getattr(processor, "do_split_image", None):
        found.append("spaces windows evenly; segacc moves the last one inwards, as of 2.1:1 images")
    if getattr(processor, "do_pad", None) and getattr(processor, "size_divisor", None):
        found.append(f"pads to multiples of {processor.size_divisor} pixels; segacc does not")
    if size.get("longest_edge") and size.get("shortest_edge"):
        found.append("rounds the longer side down; segacc rounds both sides to the nearest pixel")
    if size.get("height") and getattr(processor, "keep_aspect_ratio", None):
        found.append("keeps the aspect ratio; segacc resizes to its height and width")
    if size and not (size.get("shortest_edge") or size.get("height")):
        found.append(f"resizes to {size}; segacc does not")
    return found


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
