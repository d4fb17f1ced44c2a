"""Class frequencies: pixel counts per label, and the class and sampling weights from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from segacc.data.batches import Source, load
from segacc.data.decode import read_label
from segacc.data.sample_pair import name_of_label
from segacc.errors import DataError, SegaccError

Counts = np.ndarray[Any, np.dtype[np.int64]]
"""(n, K): number of pixels of each class in each of n labels, without ignored pixels."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]

ENET_C = 1.02
"""The constant c in Paszke et al. 2016."""

MIN_SHARE = 3000 / (1024 * 2048)
"""Minimum fraction of the labelled pixels for a label to contain a class in `rare_class_chances`.
DAFormer requires more than 3000 pixels in the 1024x2048 labels of Cityscapes; the fraction applies
this to labels of any size."""


class _Pixels(Dataset[Any]):
    """Data set of pixel counts per class, one label after the other, for the workers."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Counts | SegaccError:
        """Count one label; an error is returned, so that the main process can raise it."""
        try:
            label = read_classes(self.source, index)
        except SegaccError as error:
            return error
        counts = np.bincount(label.numpy().reshape(-1), minlength=256).astype(np.int64)
        return counts[: len(self.source.labels.names)]


def read_classes(source: Source, index: int) -> Tensor:
    """Read a label (H, W) uint8, without its image if the source stores them separately."""
    if type(source) is not Source:  # a cache stores both together
        return source.read(index)[1]
    sample = source.samples[index]
    labels, where = sample.labels or source.labels, name_of_label(sample)
    return read_label(sample.label, labels, where, sample.reading)


def _as_it_is(found: Any) -> Any:
    return found


def count_labels(
    source: Source,
    num_workers: int = 0,
    *,
    places: Sequence[int] | None = None,
    unreadable: set[str] | None = None,
) -> Counts:
    """Count the pixels of each class in the labels of a split. Images are not read.

    Args:
        source: the split.
        num_workers: workers of the data loader; 0 reads in this process.
        places: indices of the labels to count, e.g. one process's part; default all.
        unreadable: if given, collects the errors of faulty labels, which count as empty.

    Returns:
        (n, K) int64, one row for each of `places`, in the same order.

    Raises:
        SegaccError: the first label that is invalid.
    """
    sampler = range(len(source)) if places is None else places
    loader = load(
        _Pixels(source), num_workers, batch_size=None, sampler=sampler, collate_fn=_as_it_is
    )
    rows = []
    for found in loader:
        if isinstance(found, DataError) and unreadable is not None:
            unreadable.add(str(found))
            found = np.zeros(len(source.labels.names), np.int64)
        if isinstance(found, SegaccError):
            raise found
        rows.append(found)
    return np.array(rows, np.int64).reshape(len(rows), len(source.labels.names))


def shares(counts: Counts) -> Numbers:
    """Return each class's fraction of all counted pixels: (K,), with sum 1.

    Args:
        counts: (n, K), not all 0.
    """
    totals = counts.sum(0)
    found: Numbers = totals / totals.sum()
    return found


def class_weights(rule: str, counts: Counts) -> tuple[float, ...]:
    """Return K class weights with mean 1 over the classes that occur.

    With p the fraction of a class in the labelled pixels:

    * inverse: 1 / p, so that all classes have the same total weight. Strong for rare classes.
    * enet: 1 / ln(1.02 + p), from 1.4 to 50 before normalization (Paszke et al. 2016, ENet).
    * effective: (1 - b) / (1 - b^n) with b = (N - 1) / N (Cui et al. 2019, Class-Balanced Loss).
        Here n is the number of labels that contain the class, and N that of all labels with any
        labelled pixel. If each pixel were counted as a sample, b^n would be 0 for every class and
        all weights equal; the pixels of one label are hardly more than one sample.

    A class that never occurs has weight 1, which only label smoothing uses.

    The normalization is Cui's. It makes no difference for a loss that divides by the weights of its
    pixels, such as cross_entropy; otherwise it keeps the loss at about the same scale.

    Args:
        rule: `inverse`, `enet` or `effective`.
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
    """Return the class probabilities of rare-class sampling: (K,), with sum 1.

    P(c) = exp((1 - f_c) / T) / sum over classes, with f_c the fraction of c in the labelled pixels
    (Hoyer et al. 2022, DAFormer). Classes that never occur are excluded.

    Args:
        counts: (n, K), not all 0.
        temperature: T > 0; a small T selects only the rarest class, a large T all classes equally.
    """
    f = np.where(counts.sum(0) > 0, shares(counts), np.inf)
    raised = np.exp((f.min() - f) / temperature)  # the largest is 1, so no overflow
    found: Numbers = raised / raised.sum()
    return found


def rare_class_chances(counts: Counts, temperature: float) -> Numbers:
    """Return each image's probability in DAFormer's rare-class sampling: (n,), with sum 1.

    It draws a class by `class_chances`, then uniformly one of the images that contain it. So the
    probability of an image is the sum of P(c) / n_c over its classes, where n_c images contain c.
    An image contains a class if more than `MIN_SHARE` of its labelled pixels have it; if no image
    has that much of a class, any pixel is enough. An image without labelled pixels has probability
    0.

    Args:
        counts: (n, K), not all 0.
        temperature: see `class_chances`.
    """
    held = counts > MIN_SHARE * counts.sum(1, keepdims=True)
    held = np.where(held.any(0), held, counts > 0)
    found: Numbers = held @ (class_chances(counts, temperature) / np.maximum(held.sum(0), 1))
    return found
