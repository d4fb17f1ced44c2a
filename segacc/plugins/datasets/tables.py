"""What is built in of the data sets everybody knows: names, ids and colours, with their sources."""

import json
from pathlib import Path
from typing import Any


def table(name: str) -> dict[str, Any]:
    """Read data/NAME.json; its `source` says where the facts come from."""
    path = Path(__file__).parent / "data" / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def bit_color(index: int) -> tuple[int, int, int]:
    """Return Pascal VOC's RGB colour of an index in 0..255; each index has a colour of its own.

    Three at a time, from the lowest, its bits are bit 7, 6, ... of red, green and blue, as in the
    devkit's VOClabelcolormap (Everingham et al., host.robots.ox.ac.uk/pascal/VOC).
    """
    places = range(3)  # 8 bits, three at a time
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in places)
        for channel in range(3)
    )
    return red, green, blue
