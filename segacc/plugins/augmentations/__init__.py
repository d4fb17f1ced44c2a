"""The built-in augmentations, a file for each family."""
