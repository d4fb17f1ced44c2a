"""The built-in data sets, a file each; names, palettes and pictures lie in data/."""
