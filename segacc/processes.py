"""Starts accelerate as the launcher and the settings say, on as many processes as were launched."""

import os
from typing import Any

import torch
from accelerate import Accelerator

from segacc.errors import OptionError


def start_accelerator(mixed_precision: str | None, **settings: Any) -> Accelerator:
    """Start accelerate.

    Processes launched on a machine without a GPU talk over gloo: the launcher does not hand
    `use_cpu` on, and accelerate by itself would let each of them train alone.

    Raises:
        OptionError: accelerate refuses the settings, or started fewer processes than were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = launched > 1 and (device is None or device.type in ("cpu", "mps"))
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=on_cpu, **settings)
    except (ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"accelerate refuses these settings: {reason}") from None
    if accelerator.num_processes != launched:
        raise OptionError(
            f"accelerate launch: {launched} processes were launched, but each would run alone. "
            "Use accelerate_configs/cpu_2_processes.yaml or accelerate_configs/multi_gpu.yaml."
        )
    trackers = set(settings.get("log_with") or ())
    if absent := sorted(trackers - {"all", *map(str, accelerator.log_with)}):
        raise OptionError(f"--trackers: {', '.join(absent)}: the package is not installed.")
    return accelerator
