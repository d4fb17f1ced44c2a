"""The built-in architectures, one file a family."""
