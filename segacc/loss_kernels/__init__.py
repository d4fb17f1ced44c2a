"""What the losses compute: sums over images at the labels' full size, a few images at a time.

Each takes logits (N, K, h, w) of any float dtype and labels (N, H, W) int64, 255 ignored, and
returns a float32 scalar, or float64 for float64 logits; 0 with zero gradients when every pixel is
ignored. `segacc.functional.summed` resizes, and keeps the full-size logits of few images.
"""
