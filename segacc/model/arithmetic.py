"""Arithmetic of a network and peak arithmetic of a device, for the share that a run uses (MFU)."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PEAKS = {
    **{"V100": 125.0, "T4": 65.0},
    **{"A100": 312.0, "A800": 312.0, "A40": 149.7, "A30": 165.0, "A10G": 70.0, "A10": 125.0},
    **{"RTX A6000": 154.8, "RTX A5000": 111.1, "RTX 3090": 71.0, "RTX 3080": 59.5},
    **{"L40S": 362.0, "L40": 181.0, "L4": 121.0, "RTX 6000 Ada": 364.2},
    **{"RTX 4090": 165.2, "RTX 4080": 97.5, "RTX 5090": 209.5},
    **{"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H800": 989.0, "H20": 148.0},
    **{"H200 NVL": 835.0, "H200": 989.0, "GH200": 989.0, "B200": 2250.0, "GB200": 2500.0},
    **{"MI250X": 383.0, "MI300X": 1307.4, "MI325X": 1307.4},
}
"""TFLOP/s of dense bfloat16 or float16 products that are summed in float32, by a part of the
device's name, from the vendors' data sheets."""
OLDER = ("V100", "T4")
"""Devices without TF32."""
FACTORS = {"bf16": 1.0, "fp16": 1.0, "fp8": 2.0, "tf32": 0.5}
"""Peak of each precision relative to 16 bits; that of float32 without TF32 is not a fixed share."""


def peak_of(device: str, precision: str) -> float | None:
    """Return the peak arithmetic of a device in FLOP/s; None if it is not known.

    Args:
        device: its name, as `NVIDIA H200`.
        precision: `bf16`, `fp16`, `fp8`, `tf32` or `no` (float32).
    """
    found = [name for name in PEAKS if re.search(rf"\b{re.escape(name)}\b", device)]
    if not found or precision not in FACTORS or (precision == "tf32" and found[0] in OLDER):
        return None
    return PEAKS[max(found, key=len)] * FACTORS[precision] * 1e12


@dataclass
class Count:
    """A number of floating-point operations, once they are counted."""

    operations: int | None = None


@contextmanager
def counted(wanted: bool) -> Iterator[Count]:
    """Count the floating-point operations of products and convolutions inside the block.

    A multiplication and an addition are two operations. Other work, such as norms, is left out, as
    usual for the MFU.
    """
    count = Count()
    if not wanted:
        yield count
        return
    from torch.utils.flop_counter import FlopCounterMode

    counter: Callable[..., FlopCounterMode] = FlopCounterMode
    with counter(display=False) as mode:
        yield count
    count.operations = mode.get_total_flops()
