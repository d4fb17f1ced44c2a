"""A network under torch.compile, in place, for one training size and few sizes of evaluation."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segacc.errors import OptionError, Origin, PluginError, count_of
from segacc.model import Logits, SegmentationModel

Backend = str | Callable[..., Any]
"""A backend of torch.compile."""

OFTEN, MOST = 50, 4
"""Forward calls on images of one size after which evaluation compiles the network for this size,
and the most such sizes: compiling takes as long as hundreds of images."""
REPEATS = 4
"""Blocks of one kind, on average, from which on only the blocks of a network are compiled."""
VARIANTS = 8
"""Graphs that may be compiled of a module: for training, its evaluation sizes, smaller
micro-batches, and parts that are unfrozen. It is also torch's default for a function."""


def refuse_broken(device: torch.device, where: str, *, backend: Backend = "inductor") -> None:
    """Compile a small function, to find out whether torch.compile works on this machine.

    Raises:
        OptionError: it does not, as without a C++ compiler on a CPU.
    """

    def small(numbers: Tensor) -> Tensor:
        return numbers.sin() + 1

    try:
        torch.compile(small, backend=backend, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # compilers fail in many ways
        raise OptionError(
            f"{where}: torch.compile does not work on this machine: {reason(error)}. On a CPU it "
            "needs a C++ compiler, as g++ or the one that the environment variable CXX names, "
            "and Python's header files (python3-dev); on a GPU, Triton and a C compiler. Install "
            "them, or leave this out."
        ) from None


def reason(error: BaseException) -> str:
    """Return the first paragraph of an error; further ones tell how to debug torch.compile."""
    return " ".join(str(error).strip().partition("\n\n")[0].split()).rstrip(".")


def compile_network(
    network: SegmentationModel,
    where: str,
    *,
    parts: Sequence[nn.Module] = (),
    backend: Backend = "inductor",
) -> str:
    """Compile a network in place, at its first calls; names, hooks and saved files stay the same.

    Each size of images is compiled anew.

    Args:
        network: the network, wrapped by nothing yet.
        where: where the user asked for it, for errors.
        parts: the modules to compile; default its repeated blocks, if it has them, else all of it.
        backend: that of torch.compile.

    Returns:
        A line that says what is compiled.
    """
    parts = parts or repeated_blocks(network) or [network]
    torch.compiler.reset()  # graphs of an earlier run in this process would count, too
    limits: Any = torch._dynamo.config
    limits.recompile_limit = VARIANTS * len(parts)  # all parts share one function of nn.Module
    limits.accumulated_recompile_limit = max(256, limits.recompile_limit)
    for part in parts:
        part.compile(backend=backend, dynamic=False)
    network.origin = CompiledOrigin(network.origin.name, network.origin.package, where)
    what = "the network as a whole"
    if parts[0] is not network:
        names = sorted({type(one).__name__ for one in parts})
        what = f"{count_of(len(parts), 'block')} of the network ({', '.join(names)})"
    return f"{where}: {what} will be compiled in the first step, which takes minutes on a CPU"


def repeated_blocks(network: SegmentationModel) -> list[nn.Module]:
    """Return the network's blocks, those of FSDP, if each repeats several others on average.

    What is compiled for one block serves all blocks of its kind, so compiling takes less time than
    for the whole network; but what lies between blocks is not made faster.
    """
    blocks = [one for one in network.modules() if type(one).__name__ in network._no_split_modules]
    return blocks if len(blocks) >= REPEATS * len(set(map(kind, blocks))) else []


def kind(block: nn.Module) -> tuple[Any, ...]:
    """Return what makes torch compile a block anew: class, shapes, and numbers as a drop rate."""
    values = [one for module in block.modules() for one in vars(module).values()]
    numbers = [one for one in values if isinstance(one, float)]
    return (type(block), *(one.shape for one in block.parameters()), *numbers)


@dataclass(frozen=True)
class CompiledOrigin(Origin):
    """The origin of a compiled network: what the compiler cannot do is no fault of the plugin."""

    where: str = ""
    """Where the user asked to compile."""

    @contextmanager
    def doing(self, step: str) -> Iterator[None]:
        """Run a step of the network's code; see `Origin`.

        Raises:
            PluginError: as there; or the network cannot be compiled.
        """
        try:
            with super().doing(step):
                yield
        except PluginError as error:
            cause = error.__cause__
            if not isinstance(cause, torch._dynamo.exc.TorchDynamoException):
                raise
            raise PluginError(
                f"{self.where}: {self.name}: {step}: torch cannot compile it: {reason(cause)}. "
                "Leave this out."
            ) from cause


def eagerly() -> AbstractContextManager[Any]:
    """Run compiled networks as if they were not, inside the block."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


class FewSizes(nn.Module):
    """Evaluates a compiled network: compiled for the most frequent sizes, others as without.

    Args:
        model: the network, possibly wrapped by accelerate.
        often: see `OFTEN`.
        most: see `MOST`.
    """

    def __init__(self, model: nn.Module, *, often: int = OFTEN, most: int = MOST) -> None:
        """Start with no size."""
        super().__init__()
        self.model, self.often, self.most = model, often, most
        self.calls = Counter[torch.Size]()
        self.sizes = set[torch.Size]()

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to Logits."""
        size = images.shape
        self.calls[size] += 1
        if self.calls[size] >= self.often and len(self.sizes) < self.most:
            self.sizes.add(size)
        with nullcontext() if size in self.sizes else eagerly():
            logits: Logits = self.model(images)
        return logits
