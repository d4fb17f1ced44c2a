"""How often each class occurs: pixels counted label by label, and the weights that follow."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segacc.data.batches import Source, quiet
from segacc.data.decode import read_label
from segacc.errors import SegaccError, UnreadableError

Counts = np.ndarray[Any, np.dtype[np.int64]]
"""(n, K): pixels of each class in each of n labels; ignored pixels are not counted."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]

ENET_C = 1.02
"""c in Paszke et al. 2016."""

MIN_SHARE = 3000 / (1024 * 2048)
"""A label holds a class, for `rare_class_chances`, where it has more than this share of the
labelled pixels. DAFormer asks for more than 3000 pixels in the 1024x2048 labels of Cityscapes; the
share asks for as much of labels of any size."""


class _Pixels(Dataset[Any]):
    """The pixels of each class, label by label, as a worker counts them."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, place: int) -> Counts | SegaccError:
        """Count one label; an error is returned, so that it reaches the main process as it is."""
        try:
            label = read_classes(self.source, place)
        except SegaccError as error:
            return error
        counts = np.bincount(label.numpy().reshape(-1), minlength=256).astype(np.int64)
        return counts[: len(self.source.labels.names)]


def read_classes(source: Source, place: int) -> Tensor:
    """Read a label, without its image where the source has them apart.

    Returns:
        (H, W) uint8 classes, 255 ignored.

    Raises:
        SegaccError: see `read_label`.
    """
    if type(source) is not Source:  # a cache, which keeps both together
        return source.read(place)[1]
    sample = source.samples[place]
    where = f"sample {sample.id}" if isinstance(sample.label, bytes) else str(sample.label)
    return read_label(sample.label, sample.labels or source.labels, where)


def _as_it_is(found: Any) -> Any:
    return found


def count_labels(
    source: Source,
    num_workers: int = 0,
    tick: Callable[[], None] = lambda: None,
    *,
    places: Sequence[int] | None = None,
    unreadable: set[str] | None = None,
) -> Counts:
    """Count the pixels of each class in the labels of a split. Images are not read.

    Args:
        source: the split.
        num_workers: of the data loader; 0 reads in this process.
        tick: called after each label.
        places: the indices to count, as one process's share of them; default all.
        unreadable: where given, takes why labels could not be read, and these count as empty.

    Returns:
        (n, K) int64, a row for each of `places`, in their order.

    Raises:
        SegaccError: the first label that is not what it should be.
    """
    loader: DataLoader[Any] = DataLoader(
        _Pixels(source),
        batch_size=None,
        sampler=range(len(source)) if places is None else places,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=quiet,
        generator=torch.Generator(),
    )
    rows = []
    for found in loader:
        if isinstance(found, UnreadableError) and unreadable is not None:
            unreadable.add(str(found))
            found = np.zeros(len(source.labels.names), np.int64)
        if isinstance(found, SegaccError):
            raise found
        rows.append(found)
        tick()
    return np.array(rows, np.int64).reshape(len(rows), len(source.labels.names))


def shares(counts: Counts) -> Numbers:
    """Return the share of each class in all pixels counted: (K,), of sum 1.

    Args:
        counts: (n, K), not all 0.
    """
    totals = counts.sum(0)
    found: Numbers = totals / totals.sum()
    return found


def class_weights(rule: str, counts: Counts) -> tuple[float, ...]:
    """Return K weights by a rule, which are 1 in the mean over the classes that occur.

    With p the share of a class in the labelled pixels:

    * inverse: 1 / p, so that all classes weigh the same in all. Strong where a class is rare.
    * enet: 1 / ln(1.02 + p), from 1.4 to 50 before the mean is set (Paszke et al. 2016, ENet).
    * effective: (1 - b) / (1 - b^n) with b = (N - 1) / N (Cui et al. 2019, Class-Balanced Loss).
      Here n is the number of labels that hold the class, and N that of all labels that are not
      ignored as a whole. Counted in pixels, as if each were a sample of its own, b^n would be 0 for
      every class and all weights equal; the pixels of one label are hardly more than one sample.

    A class that never occurs has the weight 1. No pixel asks for it; only label smoothing sees it.

    The mean is Cui's choice. Where a loss divides by the weights of its pixels, as cross_entropy
    does, it makes no difference; elsewhere it keeps the loss about as large as it was.

    Args:
        rule: one of the three.
        counts: (n, K), not all 0.
    """
    occurs, p = counts.sum(0) > 0, shares(counts)
    labels = (counts.sum(1) > 0).sum()
    weights = np.ones(len(p))
    if rule == "inverse":
        weights[occurs] = 1 / p[occurs]
    elif rule == "enet":
        weights[occurs] = 1 / np.log(ENET_C + p[occurs])
    else:
        beta, n = (labels - 1) / labels, (counts > 0).sum(0)
        weights[occurs] = (1 - beta) / (1 - beta ** n[occurs])
    weights[occurs] /= weights[occurs].mean()
    return tuple(weights.tolist())


def class_chances(counts: Counts, temperature: float) -> Numbers:
    """Return how often rare-class sampling asks for each class: (K,), of sum 1.

    P(c) = exp((1 - f_c) / T) / sum over classes, with f_c the share of c in the labelled pixels
    (Hoyer et al. 2022, DAFormer). Classes that never occur are left out.

    Args:
        counts: (n, K), not all 0.
        temperature: T > 0; small ones ask for the rarest class only, large ones for all alike.
    """
    f = np.where(counts.sum(0) > 0, shares(counts), np.inf)
    raised = np.exp((f.min() - f) / temperature)  # the largest is 1: nothing overflows
    found: Numbers = raised / raised.sum()
    return found


def rare_class_chances(counts: Counts, temperature: float) -> Numbers:
    """Return the chance of each image in DAFormer's rare-class sampling: (n,), of sum 1.

    It draws a class by `class_chances`, then evenly one of the images that hold it, so an image's
    chance is the sum of P(c) / n_c over the classes it holds, n_c images holding c. A class is held
    where it has more than `MIN_SHARE` of a label's pixels; one that no label has so much of is
    held wherever it occurs. An image without any labelled pixel has the chance 0.

    Args:
        counts: (n, K), not all 0.
        temperature: see `class_chances`.
    """
    held = counts > MIN_SHARE * counts.sum(1, keepdims=True)
    held = np.where(held.any(0), held, counts > 0)
    found: Numbers = held @ (class_chances(counts, temperature) / np.maximum(held.sum(0), 1))
    return found
