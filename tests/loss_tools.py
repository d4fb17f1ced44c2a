"""Builds the built-in losses, and draws what they are tried on."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_tools import facts
from segacc.hookspecs import Chosen, Loss
from segacc.settings.options import decode
from segacc.testing import registry_of
from segacc.training.setup import build_term

RECORDS: dict[str, Loss] = {
    offer.record.name: offer.record
    for offer in registry_of().of_kind("loss")
    if isinstance(offer.record, Loss)
}


def loss_of(name: str, classes: int = 3, **values: Any) -> Any:
    """Build a loss as a run on K classes does, its options as they are typed."""
    record = RECORDS[name]
    options = decode(record.options, values, f"--loss {name}")
    return build_term(Chosen(record, options, name), facts(classes))


def mean_of(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
    """Divide the sum by its count, as the loop does."""
    return loss.sum(logits, labels) / loss.count(labels)


def draw(
    shape: tuple[int, int, int, int] = (6, 5, 6, 7),
    size: tuple[int, int] = (21, 26),
    *,
    seed: int = 3,
    ignored: tuple[float, ...] = (0.0, 0.1, 0.5, 0.99, 1.1, 0.3),
) -> tuple[Tensor, Tensor]:
    """Draw logits (N, K, h, w) and labels (N, H, W) of random pixels.

    Args:
        shape: of the logits.
        size: (H, W).
        seed: of all numbers.
        ignored: share of each image's pixels; above 1 surely all.
    """
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=random)
    labels = torch.randint(shape[1], (shape[0], *size), generator=random)
    shares = torch.tensor(ignored)[: shape[0], None, None]
    labels[torch.rand(labels.shape, generator=random) < shares] = 255
    return logits, labels


def sure(labels: Tensor, classes: int, *, by: float = 30.0) -> Tensor:
    """Return logits (N, K, H, W) that are right everywhere, by so much."""
    valid = labels.where(labels != 255, 0)
    return by * F.one_hot(valid, classes).movedim(-1, 1).float()
