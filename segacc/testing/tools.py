"""Helpers of the checks: messages, registries, random images and labels, forked processes."""

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from segacc.registry import BUILT_IN, HEAVY, KINDS, Registry, check_new, offers_of

NAMES = ("road", "tree", "sky", "car", "house")
"""Class names for the checks; the first K are used."""

PATIENCE = timedelta(seconds=120)
"""Timeout of processes that wait for each other."""


class PromiseError(AssertionError):
    """The component under test does not do what its interface promises."""


def require(condition: Any, expected: str, found: str) -> None:
    """Raise PromiseError unless the condition holds."""
    if not condition:
        raise PromiseError(f"expected {expected}; found {found}.")


@contextmanager
def attempt(expected: str) -> Iterator[None]:
    """Run a block, and convert any exception of the component to a PromiseError."""
    try:
        yield
    except PromiseError:
        raise
    except Exception as error:  # plugin code may raise anything
        reason = " ".join(str(error).split())[:400].rstrip(".")
        require(False, expected, f"{type(error).__name__}{': ' if reason else ''}{reason}")


@contextmanager
def naming(record: Record, options: Any) -> Iterator[None]:
    """Start the message of a failed check with the component as typed, `name:key=value,...`."""
    kind = next(kind for kind, one in KINDS.items() if isinstance(record, one))
    typed = ",".join(f"{key}={value}" for key, value in changed(options).items())
    try:
        yield
    except PromiseError as error:
        error.args = (f"{kind} {record.name}{':' if typed else ''}{typed}: {error}",)
        raise


def changed(options: Any) -> dict[str, Any]:
    """Return the options that differ from their defaults, by name."""
    found = {}
    for field in dataclasses.fields(options):
        fresh = field.default_factory
        default = field.default if fresh is dataclasses.MISSING else fresh()
        if (value := getattr(options, field.name)) != default:
            found[field.name] = value
    return found


def registry_of(*plugins: Any) -> Registry:
    """Create a registry of the built-ins and of plugins that need not be installed.

    Args:
        plugins: modules, or objects whose methods are hooks.

    Raises:
        PluginError: a plugin offers nothing, something invalid, or a name twice.
    """
    registry = Registry()
    modules = [(importlib.import_module(name), name, "segacc") for name in BUILT_IN]
    for index, plugin in enumerate(plugins):
        name = getattr(plugin, "__name__", type(plugin).__name__).replace("_", "-")
        modules.append((plugin, f"{name}:{index}", name))
    for module, key, distribution in modules:
        offers = offers_of(module, key, distribution, "")
        check_new(offers, registry.offers)
        registry.offers += offers
    return registry


def check_import(module: str) -> None:
    """Check, in a process of its own, that a plugin's import loads neither torch nor transformers.

    Raises:
        AssertionError: it loads one of them, or fails.
    """
    code = f"import sys, segacc, {module}\nprint(*({set(HEAVY)!r} & set(sys.modules)))"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    told = done.stderr.strip().splitlines() or [""]
    require(not done.returncode, f"import {module} to succeed", told[-1].rstrip("."))
    heavy = " and ".join(sorted(done.stdout.split()))
    expected = f"import {module} to load neither torch nor transformers, for which every command "
    require(not heavy, f"{expected}would wait", f"{heavy}: import it in `build`")


def facts_of(num_classes: int = 3, **values: Any) -> Facts:
    """Return the facts of a run with K classes."""
    return Facts(num_classes=num_classes, class_names=NAMES[:num_classes], **values)


def some_images(size: tuple[int, int], *, count: int = 2, seed: int = 0) -> Tensor:
    """Generate images (N, 3, H, W) uint8: noise at several scales, different everywhere."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, *size)
    for side in (1, 4, 16):
        noise = torch.rand(count, 3, -(-size[0] // side), -(-size[1] // side), generator=random)
        total += enlarged(noise, side)[..., : size[0], : size[1]]
    return (total * 85).to(torch.uint8)


def some_labels(
    size: tuple[int, int], num_classes: int, *, count: int = 2, side: int = 8, seed: int = 0
) -> Tensor:
    """Generate labels (N, H, W) int64 of random blocks; about one block in K + 1 is ignored."""
    random = torch.Generator().manual_seed(seed + 1)
    shape = (count, -(-size[0] // side), -(-size[1] // side))
    blocks = torch.randint(num_classes + 1, shape, generator=random)
    labels = enlarged(blocks, side)[:, : size[0], : size[1]]
    return labels.where(labels < num_classes, IGNORE)


def enlarged(blocks: Tensor, side: int) -> Tensor:
    """Repeat each element (..., h, w) to a block of side x side elements."""
    return blocks.repeat_interleave(side, -2).repeat_interleave(side, -1)


def close(mine: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """True if tensors of equal shape differ by less than a fraction of the largest value.

    Never true if a value is nan.
    """
    if mine.shape != theirs.shape or theirs.isnan().any():
        return False
    scale = max(theirs.abs().max().item(), 1e-6) if theirs.numel() else 1.0
    return torch.allclose(mine.float(), theirs.float(), rtol=tolerance, atol=tolerance * scale)


def gap(mine: Tensor, theirs: Tensor) -> str:
    """Describe how much tensors differ."""
    if mine.shape != theirs.shape:
        return f"shapes {tuple(mine.shape)} and {tuple(theirs.shape)}"
    return f"a difference of up to {(mine.float() - theirs.float()).abs().max().item():.3g}"


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
            torch.save(work(), folder / f"{rank}.pt")
        distributed.destroy_process_group()
    except Exception as error:
        text = " ".join(str(error).split())
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {text}")
        raise
