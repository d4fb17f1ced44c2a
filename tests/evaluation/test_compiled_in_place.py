"""A network compiled in place: the same network, few graphs, and errors that say what to do."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segacc.errors import OptionError, Origin, PluginError
from segacc.evaluation.compiled import FewSizes, compile_network, eagerly, refuse_broken
from segacc.model import Logits, SegmentationModel

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(given, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.conv(maps)).relu()


class Plain(SegmentationModel):
    """Blocks of these widths; the first one gets the 3 channels of the images."""

    _no_split_modules = ("Block",)

    def __init__(self, *widths: int) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairs))

    def forward(self, images: Tensor) -> Logits:
        return Logits(self.blocks(images))


class Graphs:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, inputs: Sequence[Any]) -> Callable[..., Any]:
        self.count += 1
        run: Callable[..., Any] = graph.forward
        return run


def images(height: int, width: int = 8) -> Tensor:
    return torch.rand(1, 3, height, width)


@pytest.mark.parametrize(
    ("widths", "graphs", "told"),
    [
        # The input of the first block, the images, needs no gradient; that of the others does.
        ((3, 3, 3, 3, 3), 2, "5 blocks of the network (Block)"),
        ((3, 3, 3, 4, 4), 1, "the network as a whole"),  # of three kinds
        ((3,), 1, "the network as a whole"),
    ],
)
def test_repeated_blocks_are_compiled_or_the_whole(
    widths: tuple[int, ...], graphs: int, told: str
) -> None:
    network, backend = Plain(*widths), Graphs()
    names, given = list(network.state_dict()), images(8)
    before = network(given).main
    line = compile_network(network, "--compile", backend=backend)
    assert line == (
        f"--compile: {told} will be compiled in the first step, which takes minutes on a CPU"
    )
    found = network(given).main
    assert torch.equal(found, before)
    assert (backend.count, list(network.state_dict())) == (graphs, names)
    found.sum().backward()
    assert all(one.grad is not None for one in network.parameters())


def test_evaluation_compiles_few_sizes_and_only_frequent_ones() -> None:
    network, backend = Plain(3, 4), Graphs()
    compile_network(network, "--compile", backend=backend)
    few = FewSizes(network, often=3, most=2)
    few.eval()
    assert not network.training
    seen = []
    with torch.no_grad():
        for height in (8, 9, 8, 8, 8, 9, 10, 9, 9, 10, 10, 10, *range(11, 20), 8):
            given = images(height)
            found = few(given).main
            with eagerly():
                assert torch.equal(found, network(given).main)
            seen.append(backend.count)
    assert seen[:3] == [0, 0, 0], "sizes that came once or twice are not compiled"
    assert seen[3] == 1 and seen[6] == 1 and seen[7] == 2
    assert seen[-1] == 2, "the third frequent size, and sizes that came once, run eagerly"


def test_no_graph_is_made_anew_in_later_epochs() -> None:
    """Training at one size and evaluation at another take turns."""
    network, backend = Plain(3, 4), Graphs()
    compile_network(network, "--compile", backend=backend)
    few = FewSizes(network, often=1)
    for _ in range(3):
        few.train()
        network(images(8)).main.sum().backward()
        few.eval()
        with torch.no_grad():
            few(images(8))
            few(images(12))
    assert backend.count == 3


@pytest.mark.slow
def test_no_compiler_is_told_in_one_paragraph() -> None:
    """With the setting of inductor that CXX makes."""
    from torch._inductor import config
    from torch._inductor.cpp_builder import cpp_compiler_search
    from torch._inductor.utils import fresh_cache

    cpp_compiler_search.cache_clear()
    none = config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with fresh_cache(), none, pytest.raises(OptionError) as found:
        refuse_broken(CPU, "run.yaml: compile")
    told = str(found.value)
    assert told.startswith(
        "run.yaml: compile: torch.compile does not work on this machine: InvalidCxxCompiler: No "
        "working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'no-such-compiler')"
    )
    assert told.endswith(" on a GPU, Triton and a C compiler. Install them, or leave this out.")
    assert "\n" not in told
    refuse_broken(CPU, "--compile", backend="eager")


def test_what_cannot_be_compiled_is_no_fault_of_the_plugin() -> None:
    def fails(graph: Any, inputs: Sequence[Any]) -> Callable[..., Any]:
        raise ValueError("no kernel for this")

    network = Plain(3)
    network.origin = Origin("plugin segacc-plain 1.0, architecture plain", "segacc_plain")
    compile_network(network, "--compile", backend=fails)
    with pytest.raises(PluginError) as found, network.origin.doing("forward()"):
        network(images(8))
    assert str(found.value) == (
        "--compile: plugin segacc-plain 1.0, architecture plain: forward(): torch cannot compile "
        "it: backend='fails' raised: ValueError: no kernel for this. Leave this out."
    )
    with pytest.raises(PluginError, match="segacc-plain"), network.origin.doing("forward()"):
        raise ValueError("of the network itself")
