"""Floating-point operations of a network, and the peak arithmetic of devices."""

import pytest
import torch
from torch import Tensor, nn

from segacc.evaluation.memory import peak_memory
from segacc.model import Logits, SegmentationModel
from segacc.model.arithmetic import peak_of
from segacc.model.probe import probe


class Plain(SegmentationModel):
    """A convolution of 8x8 pixels with that stride, and a classifier."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, width, 8, 8)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Logits:
        return Logits(self.head(self.encoder(images)))


@pytest.mark.parametrize("size", [(64, 96), (160, 192)], ids=["computed", "meta"])
def test_the_operations_of_both_passes_are_counted_by_hand(size: tuple[int, int]) -> None:
    """A multiplication and an addition are two; images need no gradient."""
    network, pixels = Plain(16, 5), (size[0] // 8) * (size[1] // 8)
    first, second = 2 * pixels * 16 * 3 * 8 * 8, 2 * pixels * 5 * 16
    found = probe(network, size, count=True)
    assert found.flops == 2 * first + 3 * second
    network.encoder.requires_grad_(False)
    assert probe(network, size, count=True).flops == first + 2 * second
    assert probe(network, size).flops is None


@pytest.mark.parametrize(
    ("device", "precision", "teraflops"),
    [
        ("NVIDIA H200", "bf16", 989),
        ("NVIDIA H100 PCIe", "fp16", 756),
        ("NVIDIA H100 80GB HBM3", "fp8", 1978),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("Tesla T4", "tf32", None),
        ("NVIDIA A100-SXM4-80GB", "no", None),
        ("NVIDIA GeForce GTX 1080", "fp16", None),
        ("cpu", "bf16", None),
    ],
)
def test_the_peak_is_that_of_the_data_sheet(
    device: str, precision: str, teraflops: float | None
) -> None:
    peak = peak_of(device, precision)
    assert peak == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_the_peak_memory_of_this_process_grows_with_what_it_holds() -> None:
    device = torch.device("cpu")
    before = peak_memory(device)
    held = torch.ones(before // 4)  # as many bytes as all of it took at most
    assert peak_memory(device) > before + 0.3 * held.nbytes
