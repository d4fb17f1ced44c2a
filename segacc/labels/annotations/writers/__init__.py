"""Writes shapes as the files of annotation tools, image by image."""
