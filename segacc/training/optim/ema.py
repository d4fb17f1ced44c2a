"""EMA: the exponential moving average of the weights, kept beside those that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segacc.errors import OptionError
from segacc.training.checkpoint import damaged
from segacc.training.processes import bare, bare_names

FOLDER = "ema"
"""Folder in a checkpoint."""
FILE = "averages.safetensors"
"""File in it: the averages, and in its header how many updates made them."""
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
        """Write into a checkpoint; all processes call it, the main one writes.

        What is not sharded is the main process's: there alone batch norm's own statistics count.
        """
        writes = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        whole: dict[str, Tensor] = {}
        for name, average in self.averages.items():
            tensor = _whole(average)  # of a shard all processes must ask
            if writes:
                whole[name] = tensor.cpu().contiguous()
        if writes:
            (checkpoint / FOLDER).mkdir()
            save_file(whole, checkpoint / FOLDER / FILE, {"updates": str(self.updates)})

    def load(self, checkpoint: Path) -> None:
        """Read what `save` wrote; all processes call it. Nothing in it can run as code.

        Raises:
            OptionError: it is not there, damaged, or of another network.
        """
        path = checkpoint / FOLDER / FILE
        if not path.is_file() and (checkpoint / FOLDER / ".metadata").is_file():
            raise OptionError(
                f"--resume: {checkpoint}: an older version of segacc wrote its EMA with a pickle, "
                "which is not read as it could run code. Start a new run from best/ or last/ of "
                "that run with --weights FOLDER."
            )
        try:
            with safe_open(path, framework="pt") as file:
                if (found := set(file.keys())) != set(self.averages):
                    other = sorted(found ^ set(self.averages))[0]
                    raise ValueError(f"not the tensors of this network, as {other}")
                self.updates = int(file.metadata()["updates"])
                for name, average in self.averages.items():
                    _take(average, file.get_tensor(name))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise OptionError(damaged(checkpoint, f"{FOLDER}/{FILE}: {error}")) from None


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name the parameters and saved buffers, each once, also where two names share one.

    Asking for the state makes FSDP2 shard what a forward call left whole; changes of the shards
    would not be seen otherwise.
    """
    state = bare_names(bare(model).state_dict(keep_vars=True))
    return {name: one for one, name in {one: name for name, one in state.items()}.items()}


def _local(tensor: Tensor) -> Tensor:
    """Return this process's shard, or a tensor that is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def _whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, gathered from its shards where it is sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def _take(average: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into an average, or the shard of it that this process has."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if average.shape != whole.shape:
        raise ValueError(f"its sizes are {tuple(whole.shape)}, expected {tuple(average.shape)}")
    if isinstance(average, DTensor):
        mesh = average.device_mesh
        whole = distribute_tensor(whole.to(mesh.device_type), mesh, average.placements).to_local()
    _local(average).copy_(whole)
