"""A dry run of a network that determines its stride, unused parameters and minimum batch."""

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
from segacc.errors import OptionError, PluginError, first_of, reason_of
from segacc.model.arithmetic import counted
from segacc.model.contract import Logits, SegmentationModel

SMALL = 128
"""Side in pixels up to which images are passed on the CPU: sooner than shapes are on meta."""


@dataclass(frozen=True)
class Findings:
    """The results of a dry run."""

    size: tuple[int, int]
    """(height, width) in pixels of the images that were used."""
    stride: float
    """Image height divided by the height of the logits."""
    unused: tuple[str, ...]
    """Trainable parameters that get no gradient."""
    min_batch_size: int
    """Minimum images per process in training."""
    flops: float | None = None
    """Floating-point operations of a forward and a backward pass of an image, see `counted`; None
    if they were not counted, or not for this size."""

    def lines(self) -> list[str]:
        """Return messages for the user."""
        found = []
        if self.unused:
            plain = [name.removeprefix("network.") for name in self.unused]
            modules = sorted({name.rsplit(".", 1)[0] for name in plain})
            few = first_of(modules, 3)
            found.append(f"unused parameters (no gradient), not trained: {few}")
        return found


def probe(
    network: SegmentationModel,
    size: tuple[int, int],
    num_channels: int = 3,
    *,
    facts: Facts | None = None,
    where: str = "--arch",
    count: bool = False,
) -> Findings:
    """Run a network forward and backward on two random images.

    On torch's meta device, which only computes shapes, if the network supports it; on the CPU
    otherwise, with smaller images. Images of at most SMALL pixels a side are passed on the CPU.
    Weights, statistics and random states are not changed.

    Args:
        network: as it will be trained, with weights loaded and batch norm frozen or not.
        size: (height, width) in pixels.
        num_channels: number of image channels.
        facts: the facts of the run, to check the number of classes; None if unknown.
        where: origin of the network, for errors.
        count: count the floating-point operations.

    Raises:
        OptionError: the network does not accept such images.
        PluginError: it does not return Logits for these images and classes.
    """
    classes = facts.num_classes if facts else None
    check = partial(check_logits, num_classes=classes, where=where)
    with counted(count) as arithmetic:
        seen, logits, used = _pass(network, (2, num_channels, *size), check)
    if facts and logits.queries is not None and not network.losses(facts):
        raise PluginError(
            f"{where}: the network returns Logits with queries, but defines no losses that use "
            "them; expected its own losses (SegmentationModel.losses), or no queries."
        )
    wanted = [name for name, one in network.named_parameters() if one.requires_grad]
    whole = logits.main.is_meta or max(size) <= SMALL
    return Findings(
        seen,
        seen[0] / logits.main.shape[-2],
        tuple(name for name in wanted if name not in used),
        2 if _needs_two(network, (1, num_channels, *size), check) else 1,
        arithmetic.operations / 2 if arithmetic.operations and whole else None,
    )


def freeze(network: SegmentationModel, names: tuple[str, ...]) -> None:
    """Set requires_grad to False; DDP and FSDP's optimizer state require this."""
    for name in names:
        network.get_parameter(name).requires_grad_(False)


def _pass(
    network: SegmentationModel,
    shape: tuple[int, ...],
    check: Callable[[Any, int], None],
    *,
    backward: bool = True,
) -> tuple[tuple[int, int], Logits, set[str]]:
    """Return the image size used, the logits, and the names of parameters with a gradient."""
    size = (shape[2], shape[3])
    if max(size) > SMALL:
        try:
            return size, *_pass_on("meta", network, shape, check, backward=backward)
        except (RuntimeError, NotImplementedError):  # needs values, or an operation without support
            size = network.size_rule.fit((min(size[0], SMALL), min(size[1], SMALL)))
    try:
        return size, *_pass_on("cpu", network, (*shape[:2], *size), check, backward=backward)
    except RuntimeError as error:
        who, reason = "--arch", str(error).splitlines()[0]
        if network.origin.package not in ("", "segacc"):  # its author needs file and line
            who, reason = str(network.origin), f"{reason_of(error, network.origin.package)}."
        raise OptionError(
            f"{who}: the network does not accept {shape[0]} images of {shape[2]}x{shape[3]} "
            f"pixels and {shape[1]} channels: {reason}"
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
    """Yield the floating-point tensors in nested tuples, lists, mappings and dataclasses."""
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
    """Check that the output is Logits of N images, K classes and a floating dtype.

    Raises:
        PluginError: it is not, or its auxiliary logits are not.
    """
    if not isinstance(logits, Logits):
        raise PluginError(
            f"{where}: the network returns {type(logits).__name__}; expected "
            "segacc.model.Logits, as Logits(tensor)."
        )
    heads = {"logits": logits.main}
    for number, head in enumerate(logits.auxiliary, 1):
        name = f"auxiliary logits {number}"
        pair = isinstance(head, tuple | list) and len(head) == 2
        if not pair or not isinstance(head[1], int | float) or not math.isfinite(head[1]):
            raise PluginError(
                f"{where}: the network's {name} are not a pair of a tensor and its loss "
                "weight, a number; expected Logits(tensor, ((tensor, 0.4), ...))."
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
            f"{where}: the network's {name} of {num_images} images are {found}; expected a "
            f"tensor of a floating dtype, ({num_images}, {num_classes or 'K'}, h, w): one channel "
            "per class, and none for ignored pixels."
        )


def _needs_two(
    network: SegmentationModel, shape: tuple[int, ...], check: Callable[[Any, int], None]
) -> bool:
    """True if training on one image fails because batch norm gets one value per channel."""
    try:
        _pass(network, shape, check, backward=False)
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return True
        raise
    return False
