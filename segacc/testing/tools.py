"""Helpers of the checks: records, registries, images, reports, forked processes."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import patch_environment
from torch import Tensor

from segacc.contracts import IGNORE, Facts
from segacc.hookspecs import Record
from segacc.registry import BUILT_IN, KINDS, Offer, Registry, check_new, offers_of

NAMES = ("road", "tree", "sky", "car", "house")
"""Class names for the checks; the first K are used."""

PATIENCE = timedelta(seconds=120)
"""Timeout of processes that wait for each other."""


class Report:
    """Raises errors that name the component under test."""

    def __init__(self, record: Record, options: Any) -> None:
        """Name the component as it is typed: `name:key=value,...`."""
        kind = next(kind for kind, one in KINDS.items() if isinstance(record, one))
        typed = ",".join(f"{key}={value}" for key, value in changed(options).items())
        self.who = f"{kind} {record.name}{':' if typed else ''}{typed}"

    def require(self, condition: Any, expected: str, found: str) -> None:
        """Raise AssertionError unless the condition holds."""
        if not condition:
            raise AssertionError(f"{self.who}: expected {expected}; found {found}.")

    @contextmanager
    def attempt(self, expected: str) -> Iterator[None]:
        """Run a block, and convert any exception to our own AssertionError."""
        try:
            yield
        except AssertionError as error:
            if str(error).startswith(self.who):
                raise
            self._blame(error, expected)
        except Exception as error:  # plugin code may raise anything
            self._blame(error, expected)

    def _blame(self, error: Exception, expected: str) -> None:
        reason = " ".join(str(error).split())[:400].rstrip(".")
        self._raise(f"{type(error).__name__}{': ' if reason else ''}{reason}", expected, error)

    def _raise(self, found: str, expected: str, error: Exception) -> None:
        raise AssertionError(f"{self.who}: expected {expected}; found {found}.") from error


def changed(options: Any) -> dict[str, Any]:
    """Return the options that differ from their defaults, by name."""
    fields = {f.name: f for f in dataclasses.fields(options)}
    values = {name: getattr(options, name) for name in fields}
    return {name: value for name, value in values.items() if value != default(fields[name])}


def default(field: "dataclasses.Field[Any]") -> Any:
    """Return a field's default, or a value that equals no other."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def registry_of(*plugins: Any) -> Registry:
    """Create a registry of the built-ins and of plugins that need not be installed.

    Args:
        plugins: modules, or objects whose methods are hooks.

    Raises:
        PluginError: a plugin offers nothing, something invalid, or a name twice.
    """
    import importlib

    registry = Registry()
    for name in BUILT_IN:
        registry.offers += offers_of(importlib.import_module(name), name, "segacc", "")
    for index, plugin in enumerate(plugins):
        name = getattr(plugin, "__name__", type(plugin).__name__).replace("_", "-")
        offers = offers_of(plugin, f"{name}:{index}", name, "")
        check_new(offers, registry.offers)
        registry.offers += offers
    return registry


def registry_with(*records: Record) -> Registry:
    """Create a registry of the built-ins in which these records replace those of the same name."""
    registry = registry_of()
    for record in records:
        kind = next(kind for kind, one in KINDS.items() if isinstance(record, one))
        others = [o for o in registry.offers if (o.kind, o.record.name) != (kind, record.name)]
        registry.offers = [*others, Offer(kind, record, "segacc-testing", "")]
    return registry


def facts_of(num_classes: int = 3, **values: Any) -> Facts:
    """Return the facts of a run with K classes."""
    return Facts(num_classes=num_classes, class_names=NAMES[:num_classes], **values)


def some_images(size: tuple[int, int], *, count: int = 2, seed: int = 0) -> Tensor:
    """Generate images (N, 3, H, W) uint8: noise at several scales, different everywhere."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, *size)
    for side in (1, 4, 16):
        shape = (count, 3, -(-size[0] // side), -(-size[1] // side))
        noise = torch.rand(shape, generator=random)
        for axis in (2, 3):
            noise = noise.repeat_interleave(side, axis)
        total += noise[..., : size[0], : size[1]]
    return (total * 85).to(torch.uint8)


def some_labels(
    size: tuple[int, int], num_classes: int, *, count: int = 2, side: int = 8, seed: int = 0
) -> Tensor:
    """Generate labels (N, H, W) int64 of random blocks; about one block in K + 1 is ignored."""
    random = torch.Generator().manual_seed(seed + 1)
    shape = (count, -(-size[0] // side), -(-size[1] // side))
    blocks = torch.randint(num_classes + 1, shape, generator=random)
    for axis in (1, 2):
        blocks = blocks.repeat_interleave(side, axis)
    labels = blocks[:, : size[0], : size[1]]
    return labels.where(labels < num_classes, IGNORE)


def close(mine: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """True if tensors of equal shape differ by less than a fraction of the largest value."""
    if mine.shape != theirs.shape:
        return False
    scale = max(theirs.abs().max().item(), 1e-6) if theirs.numel() else 1.0
    return bool(
        torch.allclose(mine.float(), theirs.float(), rtol=tolerance, atol=tolerance * scale)
    )


def gap(mine: Tensor, theirs: Tensor) -> str:
    """Describe how much tensors differ."""
    if mine.shape != theirs.shape:
        return f"shapes {tuple(mine.shape)} and {tuple(theirs.shape)}"
    return f"a difference of up to {(mine.float() - theirs.float()).abs().max().item():.3g}"


def few(names: Sequence[Any]) -> str:
    """List a few names."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(map(str, names[:4])) + more


@contextmanager
def alone_on_cpu() -> Iterator[None]:
    """Run a block with accelerate not yet initialized, to be started on the CPU."""
    kinds = (AcceleratorState, PartialState, GradientState)
    before = [dict(kind._shared_state) for kind in kinds]
    for kind in kinds:
        kind._shared_state.clear()
    try:
        with patch_environment(accelerate_use_cpu="yes", accelerate_mixed_precision="no"):
            yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)


def forked(work: Callable[[], dict[str, Any]], folder: Path, count: int) -> list[dict[str, Any]]:
    """Run `work` on several connected processes, and return each result.

    Args:
        work: called on each process; torch.save must be able to write its result.
        folder: an empty folder for files of the processes.
        count: number of processes.

    Raises:
        RuntimeError: `work` failed; the message is that of one process.
    """
    multiprocessing: Any = torch.multiprocessing
    try:
        multiprocessing.start_processes(
            part, args=(work, folder, count), nprocs=count, start_method="fork"
        )
    except Exception:
        told = [path.read_text() for path in sorted(folder.glob("*.txt"))]
        raise RuntimeError(told[0] if told else "a process that exited") from None
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def part(rank: int, work: Callable[[], dict[str, Any]], folder: Path, count: int) -> None:
    """Run as one of the processes."""
    torch.set_num_threads(1)  # a fork of a process with OpenMP threads hangs otherwise
    where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {**where, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    distributed: Any = torch.distributed
    store = distributed.FileStore(str(folder / "meeting"), count)
    try:
        distributed.init_process_group(
            "gloo", rank=rank, world_size=count, store=store, timeout=PATIENCE
        )
        with alone_on_cpu():
            done = work()
        torch.save(done, folder / f"{rank}.pt")
        distributed.destroy_process_group()
    except Exception as error:
        text = " ".join(str(error).split())
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {text}")
        raise
