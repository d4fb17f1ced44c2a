"""Annotation files of labelling tools: shapes with class names, read to labels and written."""

from typing import Literal

Overlap = Literal["order", "small_on_top"]
"""Which shape a pixel of several belongs to, see `draw.draw`."""
