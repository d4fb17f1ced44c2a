"""The most expensive computations of a step: resizing with loss or argmax, counts, colour.

The losses take logits (N, K, h, w) of any float dtype and labels (N, H, W) int64, 255 ignored, and
return a float32 scalar, or float64 for float64 logits; 0 with zero gradients if all pixels are
ignored. `segacc.kernels.resize.summed` resizes the logits, a few images at a time, and
`segacc.kernels.rows.summed_by_rows` a few rows of an image, on a CPU: cross-entropy, focal and
binary losses in one pass; hard examples, Dice, Jaccard and Tversky in two, as they need sums over
the image first. The full-size logits of an image then never exist. They do for Lovasz-Softmax,
which sorts the errors of all pixels of a class, and for the boundary loss, whose distances are as
large.
"""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey value (ITU-R BT.601)."""
