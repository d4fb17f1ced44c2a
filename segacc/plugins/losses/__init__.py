"""The built-in losses, a file for each kind: single pixels, regions of a class, boundaries."""
