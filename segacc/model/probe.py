"""A dry pass that finds what a network needs from a loop: facts instead of surprises."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from segacc.contracts import Facts
from segacc.errors import OptionError, PluginError
from segacc.model.contract import Logits, SegmentationModel

SMALL = 128
"""Pixels a side that are enough where a pass must be computed."""


@dataclass(frozen=True)
class Findings:
    """What a dry pass found."""

    size: tuple[int, int]
    """(height, width) in pixels of the images."""
    stride: float
    """Pixels of the image, in height, for one of the logits."""
    unused: tuple[str, ...]
    """Parameters that never get a gradient, though they ask for one."""
    min_batch_size: int
    """Images per process that training needs at least."""

    def lines(self) -> list[str]:
        """Tell what a user should know, in few lines."""
        found = []
        if self.unused:
            plain = [name.removeprefix("network.") for name in self.unused]
            modules = sorted({name.rsplit(".", 1)[0] for name in plain})
            few = ", ".join(modules[:3]) + (f" and {len(modules) - 3} more" if modules[3:] else "")
            found.append(f"frozen, since no gradient reaches them: {few}")
        return found


def probe(
    network: SegmentationModel,
    size: tuple[int, int],
    num_channels: int = 3,
    *,
    facts: Facts | None = None,
    where: str = "--arch",
) -> Findings:
    """Run a network forward and backward on two images of nothing.

    On torch's meta device, which computes shapes only, wherever the network allows it; on the CPU
    otherwise. Weights, statistics and random numbers stay as they are.

    Args:
        network: as it will be trained: weights loaded, batch norm frozen or not.
        size: (height, width) in pixels.
        num_channels: of the images.
        facts: of the run, for whose classes there must be logits; None where they are not known.
        where: the network was named, for errors.

    Raises:
        OptionError: the network cannot take such images.
        PluginError: it returns something else than Logits of these images and classes.
    """
    classes = facts.num_classes if facts else None
    check = partial(check_logits, num_classes=classes, where=where)
    seen, logits, used = _pass(network, (2, num_channels, *size), check)
    if facts and logits.queries is not None and not network.losses(facts):
        raise PluginError(
            f"{where}: the network returns Logits with queries, and brings no losses that read "
            "them; expected are losses of its own (SegmentationModel.losses), or no queries."
        )
    wanted = [name for name, one in network.named_parameters() if one.requires_grad]
    return Findings(
        seen,
        seen[0] / logits.main.shape[-2],
        tuple(name for name in wanted if name not in used),
        2 if _needs_two(network, (1, num_channels, *size), check) else 1,
    )


def unused_parameters(
    network: SegmentationModel, size: tuple[int, int], num_channels: int = 3
) -> tuple[str, ...]:
    """Name the trainable parameters that no gradient reaches, on images of (height, width)."""
    return probe(network, size, num_channels).unused


def freeze(network: SegmentationModel, names: tuple[str, ...]) -> None:
    """Stop asking for gradients of parameters; DDP and FSDP's optimizer state need that."""
    for name in names:
        network.get_parameter(name).requires_grad_(False)


def _pass(
    network: SegmentationModel,
    shape: tuple[int, ...],
    check: Callable[[Any, int], None],
    *,
    backward: bool = True,
) -> tuple[tuple[int, int], Logits, set[str]]:
    """Return the size that was seen, the logits, and the names that got a gradient."""
    size = (shape[2], shape[3])
    try:
        return size, *_pass_on("meta", network, shape, check, backward=backward)
    except (RuntimeError, NotImplementedError):  # values are asked for, or an operation has no meta
        pass
    size = network.size_rule.fit((min(size[0], SMALL), min(size[1], SMALL)))
    try:
        return size, *_pass_on("cpu", network, (*shape[:2], *size), check, backward=backward)
    except RuntimeError as error:
        raise OptionError(
            f"--arch: the network cannot take {shape[0]} images of {shape[2]}x{shape[3]} pixels "
            f"and {shape[1]} channels: {str(error).splitlines()[0]}"
        ) from error


def _pass_on(
    device: str,
    network: SegmentationModel,
    shape: tuple[int, ...],
    check: Callable[[Any, int], None],
    *,
    backward: bool,
) -> tuple[Logits, set[str]]:
    own = dict(network.named_parameters())
    parameters = {
        name: one.detach().to(device).requires_grad_(one.requires_grad) for name, one in own.items()
    }
    buffers = {name: one.to(device, copy=True) for name, one in network.named_buffers()}
    mode = network.training
    network.train()
    try:
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(backward):
            images = torch.rand(shape, device=device)
            logits = functional_call(network, {**parameters, **buffers}, (images,))
    finally:
        network.train(mode)
    check(logits, shape[0])
    leaves = {name: one for name, one in parameters.items() if one.requires_grad}
    if not backward or not leaves:
        return logits, set()
    total = torch.stack([one.sum() for one in tensors(logits) if one.requires_grad]).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return logits, {name for name, one in zip(leaves, gradients, strict=True) if one is not None}


def tensors(value: Any) -> Iterator[Tensor]:
    """Walk over the floating-point tensors in tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors(one)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))


def check_logits(logits: Any, num_images: int, *, num_classes: int | None, where: str) -> None:
    """Refuse what is not Logits of N images, K classes and a floating dtype, auxiliary ones too.

    Raises:
        PluginError: so.
    """
    if not isinstance(logits, Logits):
        raise PluginError(
            f"{where}: the network returns {type(logits).__name__}; expected is "
            "segacc.model.Logits, as Logits(tensor)."
        )
    heads = {"logits": logits.main}
    for number, head in enumerate(logits.auxiliary, 1):
        name = f"auxiliary logits {number}"
        pair = isinstance(head, tuple | list) and len(head) == 2
        if not pair or not isinstance(head[1], int | float) or not math.isfinite(head[1]):
            raise PluginError(
                f"{where}: the network's {name} are no pair of a tensor and its weight in the "
                "loss, a number; expected is Logits(tensor, ((tensor, 0.4), ...))."
            )
        heads[name] = head[0]
    for name, one in heads.items():
        found = type(one).__name__
        if isinstance(one, Tensor):
            found = f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}"
            shape = (num_images, num_classes or one.shape[1]) if one.ndim == 4 else ()
            if one.is_floating_point() and one.shape[:2] == shape and one.numel():
                continue
        raise PluginError(
            f"{where}: the network's {name} of {num_images} images are {found}; expected is a "
            f"tensor of a floating dtype, ({num_images}, {num_classes or 'K'}, h, w): a channel "
            "for each class, and none for the ignored pixels."
        )


def _needs_two(
    network: SegmentationModel, shape: tuple[int, ...], check: Callable[[Any, int], None]
) -> bool:
    """Tell whether training on one image fails: a batch norm would see one value per channel."""
    try:
        _pass(network, shape, check, backward=False)
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return True
        raise
    return False
