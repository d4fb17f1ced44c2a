"""The memory of a training step on any device: the tensors that are alive at once."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Base: Any = TorchDispatchMode  # untyped


class LiveTensors(Base):  # type: ignore[misc]
    """Counts the bytes of the tensors that operations make inside the block.

    It needs no device with a counter of its own: what is counted on a CPU is what another device
    would hold. Memory that an operation frees before it returns is not seen.

        with LiveTensors() as live:
            train_step(run, micro_batches)
        print(live.peak)

    Attributes:
        now: bytes that are alive.
        peak: most bytes that were alive at once.
    """

    def __init__(self) -> None:
        """Start at nothing; tensors that were made before do not count."""
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and count the storages that it made."""
        before = {id(one) for one in storages((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for one in storages(result):
            if id(one) not in before and id(one) not in self._known:
                self._add(one)
        return result

    def _add(self, storage: Any) -> None:
        """Count a storage until it is freed."""
        key, size = id(storage), int(storage.nbytes())
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def storages(values: Any) -> list[torch.UntypedStorage]:
    """Return the storages of the tensors in nested tuples, lists and dicts."""
    return [one.untyped_storage() for one in tree_leaves(values) if isinstance(one, Tensor)]


def bytes_in(values: Any) -> int:
    """Return the bytes of the tensors in nested tuples, lists and dicts."""
    tensors = (one for one in tree_leaves(values) if isinstance(one, Tensor))
    return sum(one.numel() * one.element_size() for one in tensors)
