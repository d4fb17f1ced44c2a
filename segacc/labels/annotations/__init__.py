"""Annotation files of labelling tools: shapes with class names, read to labels and written."""

from typing import Literal

IGNORED = "__ignore__"
"""labelme's name of a class whose pixels are ignored."""

Overlap = Literal["order", "small_on_top"]
"""Which shape a pixel of several belongs to, see `draw.draw`."""
