"""Builds and calls augmentations for tests; pictures that say where their pixels came from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from data_tools import facts
from segacc.data.order import seeded
from segacc.data.placement import inside_of
from segacc.settings.options import decode
from segacc.testing import registry_of

RECORDS = {one.record.name: one.record for one in registry_of().of_kind("augmentation")}
Pair = tuple[Tensor, Tensor]


def build(
    name: str, crop: tuple[int, int] = (48, 64), told: dict[str, Any] | None = None, **values: Any
) -> Any:
    """Build an augmentation by name, with options as they are typed; `told` are facts."""
    record = RECORDS[name]
    options = decode(record.options, values, f"--aug {name}")
    return record.build(options, facts(**{"crop_size": crop, **(told or {})}))


def apply(
    change: Any,
    image: Tensor,
    label: Tensor,
    seed: int,
    another: Callable[[], Pair] | None = None,
) -> Pair:
    """Change one pair under a seed, in the worker or as a batch of one; both stay as given."""
    kept = image.clone(), label.clone()
    with seeded(seed):
        if hasattr(change, "draw"):
            drawn = change.draw(tv_tensors.Image(image), tv_tensors.Mask(label))
            inside = ([inside_of(image, label)],) if getattr(change, "knows_padding", False) else ()
            images, labels = change(image[None].float(), label[None], drawn[None], *inside)
            out, classes = tv_tensors.Image(images[0].round().byte()), tv_tensors.Mask(labels[0])
        else:
            given = [tv_tensors.Image(image), tv_tensors.Mask(label)]
            out, classes = change(*given, another) if another else change(*given)
    assert torch.equal(image, kept[0]) and torch.equal(label, kept[1])
    assert isinstance(out, tv_tensors.Image) and isinstance(classes, tv_tensors.Mask)
    assert (out.dtype, classes.dtype) == (torch.uint8, torch.uint8)
    assert out.shape == (image.shape[0], *classes.shape)
    return out.as_subclass(Tensor), classes.as_subclass(Tensor)


def blocks(height: int, width: int, *, side: int = 12) -> Pair:
    """Make a label of blocks 0..24 and an image whose channels say the label: 10 per class."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    label = ((7 * (y // side) + 3 * (x // side)) % 25).to(torch.uint8)
    return torch.stack([label * 10, label, 250 - label * 10]), label


def places(height: int, width: int, seed: int = 0) -> Pair:
    """Make an image that says 4 times its row and column, and a label of noise in 0..199.

    At most 63 pixels per side.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([4 * y, 4 * x, torch.zeros_like(x)]).to(torch.uint8)
    noise = torch.randint(200, (height, width), generator=torch.Generator().manual_seed(seed))
    return image, noise.to(torch.uint8)


def assert_one_grid(out: Tensor, classes: Tensor, label: Tensor, *, least: int = 100) -> Tensor:
    """Require each class to be that of the source pixel nearest to where the image is from.

    Args:
        out: what became of the image of `places`.
        classes: what became of its label.
        label: that label.
        least: pixels that must be told apart, or more.

    Returns:
        Rows (P, 4) float of row and column, then source row and column, all in pixels, of the
        pixels that lie wholly inside.
    """
    inner = (classes != 255).float()[None, None]
    inner = -torch.nn.functional.max_pool2d(-inner, 3, 1, 1)[0, 0] > 0  # nor a neighbour outside
    inner[0], inner[-1], inner[:, 0], inner[:, -1] = False, False, False, False
    source = out[:2].float() / 4
    surely = inner & ((source - source.floor() - 0.5).abs() > 0.2).all(0)
    assert surely.sum() > least
    y, x = source[:, surely].round().long()
    assert torch.equal(label[y, x], classes[surely])
    return torch.cat([inner.nonzero().float(), source[:, inner].T], 1)
