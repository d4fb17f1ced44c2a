"""The built-in data sets, one file each; class names, palettes and images are in data/."""
