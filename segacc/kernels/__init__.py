"""The arithmetic that takes most of a step: resizing with loss or argmax, counts, colour.

The losses take logits (N, K, h, w) of any float dtype and labels (N, H, W) int64, 255 ignored, and
return a float32 scalar, or float64 for float64 logits; 0 with zero gradients when every pixel is
ignored. `segacc.kernels.resize.summed` resizes, and keeps the full-size logits of few images.
"""
