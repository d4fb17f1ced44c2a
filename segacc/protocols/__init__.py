"""How a network sees an image, and what it then predicts at the image's original size."""
