"""The loss of a validation split: the sums and counts of a run's losses, as of a metric."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from segacc.contracts import LossTerm
from segacc.evaluation.predict import Seen
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.scores import VAL_LOSS
from segacc.kernels.resize import Decided, resize_and_cut

LARGEST = 2**28
"""Maximum K x H x W of an image that is counted: 1 GiB of float32 logits at the label's size."""


def has_loss(protocol: Protocol) -> bool:
    """Return whether the network sees a whole image at once, so that its logits have a loss."""
    return protocol.windows is None and len(protocol.views) == 1


class SplitLoss:
    """Sums each of L losses over images, at the size of their labels.

    Attributes:
        state: `sum` and `count`, (L,) float64 on the device; float32 on MPS, which has no float64.
    """

    def __init__(self, losses: Mapping[str, LossTerm], device: torch.device) -> None:
        """Start with no image."""
        self.losses = losses
        dtype = torch.float32 if device.type == "mps" else torch.float64
        zeros = torch.zeros(len(losses), dtype=dtype, device=device)
        self.state = {"sum": zeros, "count": zeros.clone()}

    def add(self, found: Decided, labels: Tensor) -> None:
        """Add an image, unless it is larger than LARGEST.

        Args:
            found: its prediction with the logits, N = 1.
            labels: (1, H, W) int64, 255 ignored.
        """
        assert isinstance(found, Seen)
        height, width = labels.shape[-2:]
        if found.logits.shape[1] * height * width > LARGEST:
            return
        logits = found.logits
        if found.extent != (height, width):  # losses resize to the labels, and cannot cut padding
            logits = resize_and_cut(logits, (height, width), found.extent)
        for index, loss in enumerate(self.losses.values()):
            self.state["sum"][index] += loss.sum(logits, labels)
            self.state["count"][index] += loss.count(labels)

    def compute(self) -> dict[str, float]:
        """Return the sum over the losses of sum / count; nan if no pixel was counted."""
        sums, counts = (self.state[key].cpu() for key in ("sum", "count"))
        found = float((sums / counts.where(counts != 0, 1)).sum())
        return {VAL_LOSS: found if counts.any() else math.nan}
