"""Conversion between the raw ids or colours in label files and class indices."""

from segacc.labels.edits import edit
from segacc.labels.label_map import Color, LabelMap, spread_colors
from segacc.labels.names import NamesFile, read_colors, read_names

__all__ = [
    "Color",
    "LabelMap",
    "NamesFile",
    "edit",
    "read_colors",
    "read_names",
    "spread_colors",
]
