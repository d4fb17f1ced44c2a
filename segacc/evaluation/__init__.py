"""How a network sees an image, decides, and is scored."""
