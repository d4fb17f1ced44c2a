"""The built-in augmentations, one file per family."""
