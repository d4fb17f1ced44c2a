"""Starts accelerate as the launcher and the settings say, on as many processes as were launched."""

import atexit
import functools
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import gather_object, get_int_from_env

from segacc.errors import OptionError, SegaccError
from segacc.evaluation.memory import keep_memory

T = TypeVar("T")

SIZES = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
"""Variables that tell how many processes were launched: torch's, then MPI's."""
SETTLE = 0.1
"""Seconds that gloo's threads are given when Python ends."""


def idle_cores(accelerator: Accelerator) -> list[str]:
    """Say so when a run on the CPU leaves cores idle, as `accelerate launch` does by default."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    threads = torch.get_num_threads() * accelerator.num_processes
    if accelerator.device.type != "cpu" or threads >= cores:
        return []
    each = cores // accelerator.num_processes
    return [
        f"{threads} of {cores} cores are used; OMP_NUM_THREADS={each} before the command uses all"
    ]


def bare(model: Any) -> Any:
    """Return the network inside DistributedDataParallel and torch.compile, in any order."""
    while True:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        else:
            return model


def bare_names(state: dict[str, Any]) -> dict[str, Any]:
    """Name tensors as the network itself does, also where torch.compile wraps a part of it.

    An OrderedDict, as torch's own: of another dict accelerate refuses views when it saves.
    """
    return OrderedDict((name.replace("_orig_mod.", ""), one) for name, one in state.items())


def save_bare(accelerator: Accelerator) -> None:
    """Let checkpoints name weights as the bare network does, whatever wraps it where they are read.

    So a run goes on with one process where several wrote, without torch.compile, and the other way
    round. Of a network that is sharded accelerate hands on no weights here.
    """

    def save(models: list[Any], weights: list[dict[str, Any]], folder: str) -> None:
        weights[:] = [bare_names(bare(one).state_dict()) for one in models[: len(weights)]]

    def load(models: list[Any], folder: str) -> None:
        models[:] = [bare(model) for model in models]

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def on_all(accelerator: Accelerator, call: Callable[[], T]) -> T:
    """Call on all processes what may fail on some of them, where data or a network are read.

    Raises:
        SegaccError: the first of their errors, on every process: none is left waiting.
    """
    result: list[T] = []
    error: SegaccError | None = None
    try:
        result.append(call())
    except SegaccError as problem:
        error = problem
    for one in gather_object([error]):
        if one is not None:
            raise one
    return result[0]


@functools.cache
def settle_at_exit() -> None:
    """Let gloo's threads finish before Python takes itself apart.

    They let go of what they sent a little after it arrived, and need Python's lock for it; one that
    comes too late aborts the process, whose work is done (torch 2.15).
    """
    atexit.register(time.sleep, SETTLE)


def forget_earlier() -> None:
    """Let no run have the precision or the half step of an earlier one in the same process.

    Raises:
        OptionError: several processes have ended their group, which cannot meet again.
    """
    backend = PartialState._shared_state.get("backend")
    if backend is not None and not torch.distributed.is_initialized():
        raise OptionError(
            "accelerate launch: these processes have ended a run, and cannot meet for another one. "
            "Launch each run by itself; one process can have several."
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def refuse_fewer() -> None:
    """Refuse to be the only process where the launcher was asked for more.

    `accelerate launch --cpu --num_processes 2` starts one and says nothing. It sets MASTER_ADDR
    then, but a shell may do so, too: what was asked for is read from its own command line.

    Raises:
        OptionError: so.
    """
    signs = {"MASTER_ADDR", "ACCELERATE_USE_CPU"}  # the launcher's that starts one process
    if get_int_from_env(SIZES, 0) or not signs <= os.environ.keys():
        return
    import psutil

    for process in psutil.Process().parents():
        with suppress(psutil.Error, OSError, ValueError):  # it may have gone
            arguments = launcher_arguments(process.cmdline())
            if arguments is not None and (asked := processes_asked(arguments)) > 1:
                forced = os.environ["ACCELERATE_USE_CPU"].lower() == "true"
                forced &= torch.accelerator.is_available()
                on_cpu = "ACCELERATE_USE_CPU=true " if forced else ""
                raise OptionError(
                    f"accelerate launch: {asked} processes were asked for, but with these settings "
                    "it starts one, which would train on a smaller batch. Start them with "
                    f"`{on_cpu}accelerate launch --multi_gpu --num_processes {asked} -m segacc "
                    "...`, which is right for a CPU, too; or ask for one."
                )


def launcher_arguments(command: list[str]) -> list[str] | None:
    """Return what follows `accelerate launch` in a command line, None where it is another one."""
    for number, word in enumerate(command[:4]):  # after Python, perhaps its options, and -m
        name, rest = Path(word).name, command[number + 1 :]
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return rest
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and rest[:1] == ["launch"]:
            return rest[1:]
    return None


def processes_asked(arguments: list[str]) -> int:
    """Tell how many processes accelerate's launcher was asked for, by flag or by file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    logging.getLogger("accelerate.commands.launch").disabled = True  # it has told this once
    found, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return max(found.num_processes or 1, found.num_machines or 1)


def start_accelerator(mixed_precision: str | None, **settings: Any) -> Accelerator:
    """Start accelerate, as if nothing had been run in this process before.

    Processes launched on a machine without a GPU talk over gloo: the launcher does not hand
    `use_cpu` on, and accelerate by itself would let each of them train alone.

    Raises:
        OptionError: accelerate refuses the settings, or started fewer processes than were launched
            or asked for; or these ended a run together before.
    """
    launched = get_int_from_env(SIZES, 1)
    refuse_fewer()
    keep_memory()
    device = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = launched > 1 and (device is None or device.type in ("cpu", "mps"))
    forget_earlier()
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=on_cpu, **settings)
    except (ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"accelerate refuses these settings: {reason}") from None
    if on_cpu:
        settle_at_exit()
    if accelerator.num_processes != launched:
        raise OptionError(
            f"accelerate launch: {launched} processes were launched, but each would run alone. "
            "Use accelerate_configs/cpu_2_processes.yaml or accelerate_configs/multi_gpu.yaml."
        )
    dynamo = accelerator.state.dynamo_plugin
    if dynamo.use_regional_compilation and not accelerator.is_fsdp2:
        raise OptionError(
            "accelerate launch: --dynamo_use_regional_compilation trains a copy of the network, "
            "which what changes in training (freezing, progress) does not reach. Leave it out: the "
            "network is then compiled as a whole."
        )
    trackers = set(settings.get("log_with") or ())
    if absent := sorted(trackers - {"all", *map(str, accelerator.log_with)}):
        raise OptionError(f"--trackers: {', '.join(absent)}: the package is not installed.")
    return accelerator
