"""The usual kind of JPEG, decoded at less than half of what Pillow takes, to the same pixels."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image as PILImage

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned; 1 is upright."""
END = b"\xff\xd9"
"""What a JPEG that is whole ends with."""


def decode_jpeg(source: bytes | Path) -> "Tensor | None":
    """Decode a whole, upright JPEG of three colours by torchvision's operator.

    Pillow copies the pixels twice on their way out; the operator, on the same libjpeg-turbo, not
    once. Whatever is not that plain is left to Pillow, which also tells what is wrong with it.

    Args:
        source: an encoded picture, or its path.

    Returns:
        (3, H, W) uint8 RGB, the channels next to each other in memory; None for any other picture,
        or where torchvision has no such operator.
    """
    import torch
    import torchvision  # noqa: F401  brings the operator

    data = source if isinstance(source, bytes) else _content(source)
    if data[:2] != b"\xff\xd8" or data[-2:] != END or not hasattr(torch.ops.image, "decode_jpeg"):
        return None
    try:
        with PILImage.open(io.BytesIO(data)) as file:
            plain = file.format == "JPEG" and file.mode == "RGB"
            turned = "exif" in file.info and file.getexif().get(ORIENTATION, 1) != 1
        if not plain or turned:
            return None
        bare = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: Tensor = torch.ops.image.decode_jpeg(bare, 3, False)
        return image
    except Exception:  # a damaged file makes either library raise anything; Pillow tells what
        return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
