"""Does a change of whole batches draw well, and give a sample what it gives it alone?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from segacc.data.order import seeded
from segacc.testing.tools import Report

Pair = tuple[Tensor, Tensor]


def check_batch_change(report: Report, change: Any, samples: Sequence[Pair]) -> None:
    """Require the same result for a sample in any company, bit for bit.

    Args:
        report: who is checked.
        change: the BatchChange.
        samples: images (C, H, W) uint8 and labels (H, W) uint8, of one size.
    """
    if getattr(change, "draws_unseen", False):
        image, label = (torch.zeros_like(one)[..., 5:, :] for one in samples[0])
        pairs = samples[0], (image, label)
        same = torch.equal(*(draw(report, change, one, 0) for one in pairs))
        expected = "`draw` to draw the same for any picture, as `draws_unseen` says"
        report.require(same, expected, "other parameters for a black picture of another size")
    with report.attempt("a batch to be taken"):
        whole = on_batch(report, change, samples, range(len(samples)))
        for place, sample in enumerate(samples):
            alone = on_batch(report, change, [sample], [place])
            same = all(torch.equal(a[place], b[0]) for a, b in zip(whole, alone, strict=True))
            report.require(
                same,
                "a sample of a batch to become what it becomes alone, bit for bit",
                f"another result for sample {place} of {len(samples)}: use element-wise "
                "arithmetic only",
            )


def on_batch(
    report: Report, change: Any, samples: Sequence[Pair], seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Draw for each sample under its own seed, change them all, and require a batch.

    Returns:
        Images (N, C, H, W) float32 and labels (N, H, W) uint8.
    """
    drawn = [
        draw(report, change, sample, seed) for sample, seed in zip(samples, seeds, strict=True)
    ]
    shapes = [tuple(one.shape) for one in drawn]
    found = " and ".join(map(str, sorted(set(shapes))))
    report.require(len(set(shapes)) == 1, "`draw` to give one shape for all samples", found)
    images = torch.stack([image for image, _ in samples]).float()
    labels = torch.stack([label for _, label in samples])
    result = change(images.clone(), labels.clone(), torch.stack(drawn))
    fine = isinstance(result, tuple | list) and len(result) == 2
    report.require(fine, "the pair (images, labels) to be returned", type(result).__name__)
    for name, new, old in zip(("images", "labels"), result, (images, labels), strict=True):
        report.require(isinstance(new, Tensor), f"{name} as a tensor", type(new).__name__)
        expected = f"{name} {tuple(old.shape)} {old.dtype} to stay so"
        same = (new.shape, new.dtype) == (old.shape, old.dtype)
        report.require(same, expected, f"{tuple(new.shape)} {new.dtype}")
    low, high = result[0].min().item(), result[0].max().item()
    within = 0 <= low <= high <= 255  # false of nan too
    report.require(within, "images to stay within 0..255", f"{low:.6g} to {high:.6g}")
    return result[0], result[1]


def draw(report: Report, change: Any, sample: Pair, seed: int) -> Tensor:
    """Draw the parameters of a sample, which must stay as it is."""
    image, label = (one.clone() for one in sample)
    with seeded(seed):
        drawn = change.draw(tv_tensors.Image(image), tv_tensors.Mask(label))
    expected = "`draw` to give a float32 tensor"
    report.require(isinstance(drawn, Tensor), expected, type(drawn).__name__)
    report.require(drawn.dtype == torch.float32, expected, f"{drawn.dtype}")
    same = torch.equal(image, sample[0]) and torch.equal(label, sample[1])
    report.require(same, "`draw` to leave its image and label as they are", "them changed")
    plain: Tensor = drawn.as_subclass(Tensor)
    return plain
