"""The exponential moving average (EMA) of the weights, `--ema`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segacc.errors import OptionError
from segacc.evaluation.model_folder import AVERAGES
from segacc.training.checkpoint import damaged
from segacc.training.processes import bare, bare_names, whole

STATISTICS = ("running_mean", "running_var")
"""Buffers of batch norm that are averaged like weights."""


class Ema:
    """The exponential moving average of a network's weights, in float32 like the weights.

    Parameters and batch norm statistics are averaged; all other buffers are copied. For a sharded
    network, each process averages its own shard.

    Attributes:
        decay: weight of the old average in an update, after warm-up.
        updates: number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the current weights of `model`, wrapped by accelerate or not."""
        self.decay, self.updates = decay, 0
        self.averages = {name: one.detach().clone() for name, one in tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average after an optimizer step.

        The decay is min(decay, (1 + t) / (10 + t)) after t updates, as in TensorFlow's
        ExponentialMovingAverage, so that the initial weights are soon forgotten.
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
        """Swap the averages into the network inside the block, and its own weights back after."""
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
        """Write the averages into a checkpoint; all processes call it, the main process writes.

        Tensors that are not sharded are taken from the main process, whose batch norm statistics
        are the ones that segacc uses.
        """
        writes = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        full: dict[str, Tensor] = {}
        for name, average in self.averages.items():
            with torch.no_grad():
                tensor = whole(average)  # a collective call if the tensor is sharded
            if writes:
                full[name] = tensor.cpu().contiguous()
        if writes:
            (checkpoint / AVERAGES).parent.mkdir()
            save_file(full, checkpoint / AVERAGES, {"updates": str(self.updates)})

    def load(self, checkpoint: Path) -> None:
        """Read the averages of a checkpoint, from safetensors only; all processes call it.

        Raises:
            OptionError: the file is missing, damaged, or from another network.
        """
        path = checkpoint / AVERAGES
        if not path.is_file() and path.with_name(".metadata").is_file():
            raise OptionError(
                f"--resume: {checkpoint}: an older version of segacc saved its EMA as a pickle, "
                "which could run code and is not loaded. Start a new run from best/ or last/ of "
                "that run with --weights FOLDER."
            )
        try:
            with safe_open(path, framework="pt") as file:
                if (found := set(file.keys())) != set(self.averages):
                    other = sorted(found ^ set(self.averages))[0]
                    raise ValueError(f"its tensors are not those of this network, e.g. {other}")
                self.updates = int(file.metadata()["updates"])
                for name, average in self.averages.items():
                    _take(average, file.get_tensor(name))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise OptionError(damaged(checkpoint, f"{AVERAGES}: {error}")) from None


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and saved buffers by name, each once even if two names share it.

    Calling state_dict makes FSDP2 reshard parameters that a forward call left unsharded; changes to
    the shards would be lost otherwise.
    """
    state = bare_names(bare(model).state_dict(keep_vars=True))
    return {name: one for one, name in {one: name for name, one in state.items()}.items()}


def _local(tensor: Any) -> Any:
    """Return this process's shard of a tensor, or the tensor if it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@torch.no_grad()
def _take(average: Tensor, full: Tensor) -> None:
    """Copy a full tensor into an average, or into this process's shard of it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if average.shape != full.shape:
        raise ValueError(f"its shape is {tuple(full.shape)}, expected {tuple(average.shape)}")
    if isinstance(average, DTensor):
        mesh = average.device_mesh
        full = distribute_tensor(full.to(mesh.device_type), mesh, average.placements).to_local()
    _local(average).copy_(full)
