"""The built-in architectures, one file per family."""
