"""Runs segacc with real FSDP2 sharding on CPU processes, which accelerate itself would not start.

Accelerate shards on accelerators only and falls back to DDP on a CPU without a word; told that the
processes have a GPU each, it takes the same path as there, over gloo. Start it with torchrun.
"""

import os
import sys
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from segacc.__main__ import end_with, main
from segacc.training import processes
from segacc.training import setup as parts
from segacc.training.plan import Plan
from segacc.training.run import Run

SETTINGS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def take_path_of_gpus() -> None:
    """Let accelerate shard over the CPU processes of a launcher as over GPUs."""
    os.environ.update(SETTINGS)
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    processes.forget_earlier = lambda: None  # it would take accelerate's state back


def pretend() -> None:
    """Take FSDP2's path, and print how many parameters were sharded."""
    take_path_of_gpus()
    build = parts.build_run

    def told(plan: Plan, *given: Any) -> Run:
        built = build(plan, *given)
        kinds = [type(parameter).__name__ for parameter in built.model.parameters()]
        sys.stdout.write(f"sharded {kinds.count('DTensor')} of {len(kinds)}\n")
        return built

    parts.build_run = told


if __name__ == "__main__":
    pretend()
    end_with(main)
