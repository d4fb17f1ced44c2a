"""EMA: the exponential moving average of the weights, kept beside those that are trained."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FOLDER = "ema"
"""Folder in a checkpoint."""
STATISTICS = ("running_mean", "running_var")
"""Of batch norm: buffers that are averaged as the weights are that they belong to."""


class Ema:
    """The average of a network's weights over its optimizer steps, in the same float32.

    Parameters and the statistics of batch norm are averaged; all other buffers are copied. Each
    process of a sharded network averages its own shard.

    Attributes:
        decay: what is kept of the average in a step, once many were made.
        updates: how many were made.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights that `model` has, wrapped by accelerate or bare."""
        self.decay, self.updates = decay, 0
        self.averages = {name: one.detach().clone() for name, one in tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take over the weights after an optimizer step.

        The decay warms up as min(decay, (1 + t) / (10 + t)) after t updates, as in TensorFlow's
        ExponentialMovingAverage: the first averages are not those of random weights.
        """
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages, weights = [], []
        for name, tensor in tensors(model).items():
            average, now = _local(self.averages[name]), _local(tensor)
            if isinstance(tensor, nn.Parameter) or name.endswith(STATISTICS):
                averages.append(average)
                weights.append(now)
            else:
                average.copy_(now)
        rule: Any = get_ema_multi_avg_fn
        rule(decay)(tuple(averages), tuple(weights), 0)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Let the network have the averages inside the block, and its own weights after it."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, tensor in tensors(model).items():
            average, now = _local(self.averages[name]), _local(tensor)
            kept = now.clone()
            now.copy_(average)
            average.copy_(kept)

    def save(self, checkpoint: Path) -> None:
        """Write into a checkpoint; all processes call it, each writes its shards.

        What is not sharded is the main process's: there alone batch norm's own statistics count.
        """
        from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
        from torch.distributed.checkpoint.state_dict_saver import save

        planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
        with _alone_is_fine():
            save(self._state(), checkpoint_id=checkpoint / FOLDER, planner=planner)

    def load(self, checkpoint: Path) -> None:
        """Read what `save` wrote; all processes call it."""
        from torch.distributed.checkpoint.state_dict_loader import load

        state = self._state()
        with _alone_is_fine():
            load(state, checkpoint_id=checkpoint / FOLDER)
        self.updates = int(state["updates"])

    def _state(self) -> dict[str, Any]:
        return {"averages": self.averages, "updates": torch.tensor(self.updates)}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name the parameters and saved buffers, each once, also where two names share one.

    Asking for the state makes FSDP2 shard what a forward call left whole; changes of the shards
    would not be seen otherwise.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # so that one process can go on where several stopped
    state = model.state_dict(keep_vars=True)
    return {name: one for one, name in {one: name for name, one in state.items()}.items()}


def _local(tensor: Tensor) -> Tensor:
    """Return this process's shard, or a tensor that is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _alone_is_fine() -> warnings.catch_warnings:
    """Keep torch from warning that a single process saves or loads what could be shards."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
