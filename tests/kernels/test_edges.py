"""The losses of PIDNet, against the authors' formulas written out in numpy, one image at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segacc.kernels.edges import Maps, boundaries
from segacc.kernels.resize import resize
from segacc.model.boundary_head import Boundary, BoundarySemantic, Semantic

CLASS_WEIGHTS = (0.5, 2.0, 0.0, 3.0)


def blocks(seed: int) -> Tensor:
    """Draw a label (20, 25) of squares of 4 classes, some ignored."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.tensor([0, 1, 2, 3, 255])[torch.randint(5, (4, 5), generator=random)]
    return kinds.repeat_interleave(5, 0).repeat_interleave(5, 1)


LABELS = torch.stack([*map(blocks, range(3)), torch.full((20, 25), 255), torch.full((20, 25), 2)])
"""Three of squares, one ignored, one without boundaries."""


def drawn_maps() -> Maps:
    random = torch.Generator().manual_seed(5)
    main, auxiliary = (2 * torch.randn(5, 4, 5, 7, generator=random).double() for _ in range(2))
    boundary = 4 * torch.randn(5, 1, 5, 7, generator=random).double()
    boundary[2] = -9  # an image whose boundaries are not found
    return Maps(*(one.requires_grad_() for one in (main, auxiliary, boundary)))


def near_others(label: Any) -> Any:
    """Mark the pixels (H, W) with another class in the square of 5 pixels around them."""
    found = np.zeros(label.shape, bool)
    for row, column in np.ndindex(label.shape):
        window = label[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        found[row, column] = label[row, column] != 255 and len(set(window[window != 255])) > 1
    return found


def test_boundaries_have_another_class_near() -> None:
    wanted = np.stack([near_others(label) for label in LABELS.numpy()])
    assert np.array_equal(boundaries(LABELS).numpy(), wanted)
    assert 0.2 < wanted[:3].mean() < 0.8 and not wanted[3:].any()
    line = torch.zeros(1, 9, 12, dtype=torch.int64)
    line[:, :, 6:] = 1
    assert boundaries(line)[0].sum(1).tolist() == [4] * 9  # as wide as by the authors


def plain(maps: Maps, label: Any, weights: Any, k: int) -> tuple[Any, Any, Any]:
    """Return the sum of cross-entropies, and the means of both boundary losses, of image k."""
    full = [resize(one[k : k + 1].detach(), label.shape)[0].numpy() for one in maps]
    valid = label != 255
    rows = label[valid]
    costs = []
    for logits in full[:2]:
        chances = np.exp(logits) / np.exp(logits).sum(0)
        costs.append(-np.log(chances[:, valid][rows, np.arange(len(rows))]) * weights[rows])
    edge, chance = near_others(label)[valid], 1 / (1 + np.exp(-full[2][0][valid]))
    share = edge.mean() if len(edge) else 0
    binary = -np.where(edge, (1 - share) * np.log(chance), share * np.log(1 - chance))
    chosen = chance > 0.8
    total = weights[rows][chosen].sum()
    return (
        costs[0].sum() + 0.4 * costs[1].sum(),
        20 * binary.mean() if len(edge) else 0,
        costs[0][chosen].sum() / total if total else 0,
    )


@pytest.mark.parametrize("class_weights", [None, CLASS_WEIGHTS], ids=["plain", "weighted"])
def test_losses_are_the_authors_on_each_image(class_weights: Any) -> None:
    maps, weights = drawn_maps(), np.array(class_weights or [1.0] * 4)
    losses = Semantic(class_weights, auxiliary=0.4), Boundary(20.0), BoundarySemantic(class_weights)
    parts = [plain(maps, label, weights, k) for k, label in enumerate(LABELS.numpy())]
    flat = LABELS[LABELS != 255].numpy()
    images = 4 if class_weights is None else 3  # the last has only a class of weight 0
    counts = weights[flat].sum(), 4, images
    for loss, wanted, count in zip(losses, np.sum(parts, axis=0), counts, strict=True):
        assert wanted > 0
        assert loss.sum(maps, LABELS).item() == pytest.approx(wanted, rel=1e-6)
        assert loss.count(LABELS).item() == pytest.approx(count)
        halves = [
            loss.sum(Maps(*(one[half] for one in maps)), LABELS[half])
            for half in (slice(2), slice(2, 5))
        ]
        assert sum(halves).item() == pytest.approx(wanted, rel=1e-6)


def test_gradients_reach_the_heads_and_no_image_without_labels() -> None:
    maps = drawn_maps()
    wanted = {"semantic": (0, 1), "boundary": (2,), "boundary_semantic": (0,)}
    losses = Semantic(None, auxiliary=0.4), Boundary(20.0), BoundarySemantic(None)
    for loss, heads in zip(losses, wanted.values(), strict=True):
        found = torch.autograd.grad(loss.sum(maps, LABELS), list(maps), allow_unused=True)
        assert tuple(k for k, one in enumerate(found) if one is not None) == heads
        for one in filter(lambda one: one is not None, found):
            assert one.isfinite().all() and one[0].any() and not one[3].any()
    ignored = LABELS[3:4]
    empty = Maps(*(one[3:4] for one in maps))
    assert all(loss.sum(empty, ignored) == loss.count(ignored) == 0 for loss in losses)


def test_losses_take_bfloat16_and_a_missing_head() -> None:
    maps = Maps(*(one.detach().bfloat16() for one in drawn_maps()))
    without = maps._replace(auxiliary=None)
    for loss in (Semantic(None, auxiliary=0.4), Boundary(20.0), BoundarySemantic(None)):
        exact = loss.sum(Maps(*(one.double() for one in maps)), LABELS)
        assert loss.sum(maps, LABELS).dtype == torch.float32
        torch.testing.assert_close(
            loss.sum(maps, LABELS), exact, rtol=1e-4, atol=1e-4, check_dtype=False
        )
    alone = Semantic(None).sum(maps, LABELS)  # the auxiliary logits weigh nothing
    torch.testing.assert_close(Semantic(None, auxiliary=0.4).sum(without, LABELS), alone)
