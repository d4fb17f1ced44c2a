"""Start accelerate on the launched processes, and helpers for code that runs on all of them."""

import atexit
import functools
import logging
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    InitProcessGroupKwargs,
    gather_object,
    get_int_from_env,
    parse_flag_from_env,
)

from segacc.errors import OptionError, SegaccError, count_of
from segacc.settings.machine import cores, quota
from segacc.training.limits.launchers import (
    LAUNCHED,
    launcher_arguments,
    launchers,
    set_by_launcher,
)
from segacc.training.limits.signals import heeded

T = TypeVar("T")

SIZES = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
"""Environment variables with the number of launched processes: torch's, then MPI's."""
LOCAL_SIZES = [
    *("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "MV2_COMM_WORLD_LOCAL_SIZE",
]
"""Environment variables with the number of processes on this machine."""
SHUTDOWN = 600
"""Seconds in which processes that were told to stop can save, before the launcher kills them."""


def idle_cores(accelerator: Accelerator) -> list[str]:
    """Return a note if a CPU run leaves cores idle, as with the user's own OMP_NUM_THREADS=1."""
    local = processes_here(accelerator)
    threads = torch.get_num_threads() * local
    if accelerator.device.type != "cpu" or threads >= cores():
        return []
    each = cores() // local
    return [
        f"{threads} of {cores()} CPU cores are used; set OMP_NUM_THREADS={each} to use all of them"
    ]


def launched() -> int:
    """Return the number of processes of this run, as the launcher has set it."""
    return int(get_int_from_env(SIZES, 1))


def processes_here(accelerator: Accelerator) -> int:
    """Return the number of processes of this run on this machine."""
    return int(get_int_from_env(LOCAL_SIZES, accelerator.num_processes))


def share_cores(accelerator: Accelerator) -> None:
    """Divide the CPU cores among the processes of a CPU run, unless the user chose the threads.

    A process without a launcher keeps the number of threads that torch or a script chose, up to the
    CPU quota of a container, which torch does not heed: threads beyond it would mostly wait.
    """
    local, threads = processes_here(accelerator), torch.get_num_threads()
    given = os.environ.get("OMP_NUM_THREADS")
    theirs = local > 1 or threads > (quota() or threads)
    if given is not None:  # not if `launch` has divided the cores, or a script has set the threads
        divided = LAUNCHED in os.environ or given != str(threads)
        theirs = not divided and set_by_launcher()
    if accelerator.device.type == "cpu" and theirs:
        torch.set_num_threads(max(1, cores() // local))


def bare(model: Any) -> Any:
    """Return the network inside DistributedDataParallel and torch.compile, in any order."""
    while True:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        else:
            return model


def whole(tensor: Any) -> Any:
    """Return a plain tensor; the DTensor of a sharded network is gathered from all processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def bare_names(state: dict[str, Any]) -> dict[str, Any]:
    """Remove torch.compile's prefixes from the names of a state dict.

    Returns an OrderedDict like torch, since accelerate refuses to save views from another dict.
    """
    return OrderedDict((name.replace("_orig_mod.", ""), one) for name, one in state.items())


def save_bare(accelerator: Accelerator) -> None:
    """Save and load checkpoints with the names of the unwrapped network.

    A run can then be resumed with one process or several, with or without torch.compile. For a
    sharded network accelerate passes no weights to these hooks.
    """

    def save(models: list[Any], weights: list[dict[str, Any]], folder: str) -> None:
        weights[:] = [bare_names(bare(one).state_dict()) for one in models[: len(weights)]]

    def load(models: list[Any], folder: str) -> None:
        models[:] = [bare(model) for model in models]

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def on_all(accelerator: Accelerator, call: Callable[[], T]) -> T:
    """Call a function that may fail on some processes; all processes must come here.

    Raises:
        SegaccError: on every process, the error of the first process that failed.
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
    """Wait a moment at exit, so that gloo's threads finish before the interpreter is finalized.

    They release sent tensors shortly after these arrive, for which they need the GIL; a thread that
    asks for it during finalization aborts the process (torch 2.15).
    """
    from segacc.data.batches import SETTLE  # imports torchvision, which `launch` does without

    atexit.register(time.sleep, SETTLE)


def device_name(device: torch.device) -> str:
    """Return the name of a device, as `NVIDIA H200`; its type if it has no name, as `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def forget_earlier() -> None:
    """Reset accelerate's state, such as the precision, of an earlier run in the same process.

    Raises:
        OptionError: an earlier run of several processes has ended their process group.
    """
    backend = PartialState._shared_state.get("backend")
    if backend is not None and not torch.distributed.is_initialized():
        raise OptionError(
            "accelerate launch: the process group of these processes has ended with an earlier "
            "run. Launch each run on several processes separately; a single process can train "
            "several runs in a row."
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def launch(count: int, arguments: list[str]) -> int:
    """Run segacc in several processes of this machine; return the exit code.

    They are started by accelerate's launcher, whose own messages are not shown: the processes
    report their errors themselves.

    Raises:
        OptionError: there are fewer GPUs than processes, or accelerate refuses the environment.
        SegaccError: a process was killed.
    """
    from accelerate.commands.launch import multi_gpu_launcher
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    refuse_more_than_gpus(count)
    logging.disable(logging.ERROR)
    keep_working_folder_out()
    os.environ[LAUNCHED] = str(count)
    try:
        multi_gpu_launcher(launcher_settings(count, arguments))
    except ValueError as error:
        raise refused(error) from None
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        raise SegaccError(
            f"--processes: process {rank} was killed by {signal.Signals(-failure.exitcode).name}. "
            "If the memory was full, use a smaller --batch-size or fewer --num-workers. --resume "
            "continues from the newest checkpoint."
        ) from None
    return 0


def refuse_more_than_gpus(count: int) -> None:
    """Refuse several processes per GPU with an OptionError."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None or device.type in ("cpu", "mps") or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return
    found = torch.accelerator.device_count()
    if count > found:
        raise OptionError(
            f"--processes: {count}: this machine has {count_of(found, 'GPU')}, and each process "
            f"needs one. Use --processes {found}, or the CPU with ACCELERATE_USE_CPU=true before "
            "the command."
        )


def launcher_settings(count: int, arguments: list[str]) -> Any:
    """Return the settings of accelerate's launcher for so many processes of this machine.

    The file of `accelerate config` is not read. `--multi_gpu` is right on a CPU too, where `--cpu`
    would start a single process.
    """
    from accelerate.commands.launch import launch_command_parser

    threads = os.environ.get("OMP_NUM_THREADS") or max(1, cores() // count)
    flags = {
        "num_processes": count,
        "num_machines": 1,
        "main_process_port": 0,  # any free one
        "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
        "dynamo_backend": os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no"),
        "num_cpu_threads_per_process": threads,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = ["--multi_gpu", *words, "-m", "segacc", *arguments]
    settings = launch_command_parser().parse_args(command)
    settings.signals_to_handle = ",".join(signals_to_forward())
    settings.shutdown_timeout = SHUTDOWN
    return settings


def signals_to_forward() -> list[str]:
    """Return the signals on which all processes save and end; those ignored stay ignored."""
    return [number.name for number in heeded()]


def keep_working_folder_out() -> None:
    """Let the processes import segacc as this one did, and nothing from the working folder.

    A clone of segacc that is not installed is found there, and keeps it out itself.
    """
    if Path(__file__).parents[2] == Path.cwd():
        os.environ.pop("PYTHONSAFEPATH", None)
    else:
        os.environ["PYTHONSAFEPATH"] = "1"


def refuse_fewer() -> None:
    """Refuse to run as a single process if the launcher was asked for several.

    `accelerate launch --cpu --num_processes 2` silently starts one. It sets MASTER_ADDR, but so may
    a shell, so the requested number is read from the launcher's command line.

    Raises:
        OptionError: several processes were requested and one was started.
    """
    signs = {"MASTER_ADDR", "ACCELERATE_USE_CPU"}  # set by the launcher of a single process
    if get_int_from_env(SIZES, 0) or not signs <= os.environ.keys():
        return
    for _, command in launchers():
        arguments = launcher_arguments(command)
        with suppress(ValueError):
            if arguments is not None and (asked := processes_asked(arguments)) > 1:
                forced = os.environ["ACCELERATE_USE_CPU"].lower() == "true"
                forced &= torch.accelerator.is_available()
                on_cpu = "ACCELERATE_USE_CPU=true " if forced else ""
                raise OptionError(
                    f"accelerate launch: {asked} processes were requested, but with these settings "
                    "it starts only one, which would train with a smaller total batch size. Use "
                    f"`{on_cpu}accelerate launch --multi_gpu --num_processes {asked} -m segacc "
                    "...`, which works on a CPU as well, or request one process."
                )


def processes_asked(arguments: list[str]) -> int:
    """Return the number of processes requested from accelerate's launcher, by flag or by file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    logging.getLogger("accelerate.commands.launch").disabled = True  # already logged at launch
    found, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return max(found.num_processes or 1, found.num_machines or 1)


def bf16_gain() -> str:
    """Return what makes bf16 faster than float32 on the GPU of this process; empty without one.

    A CPU with AMX gains with some networks only: convolutions do, SegFormer does not.
    """
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None or device.type != "cuda" or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"CUDA capability {major}.{minor}" if major >= 8 else ""


def refused(error: Exception) -> OptionError:
    """Return accelerate's error for wrong settings as one paragraph."""
    return OptionError(f"accelerate does not accept these settings: {' '.join(str(error).split())}")


def start_accelerator(
    mixed_precision: str | None, *, timeout: float | None = None, **settings: Any
) -> Accelerator:
    """Start accelerate with fresh state, as if no run had been made in this process before.

    Processes launched on a machine without a GPU communicate over gloo. The launcher does not pass
    `use_cpu` on, and by default accelerate would let each process train alone.

    Args:
        mixed_precision: see `Accelerator`; None for the launcher's.
        timeout: longest time in seconds that a process waits for another; None for torch's.
        settings: further arguments of Accelerator.

    Raises:
        OptionError: accelerate refuses the settings; fewer processes were started than launched or
            requested; or several processes start a second run.
    """
    from segacc.evaluation.memory import keep_memory  # imports torchvision, too

    refuse_fewer()
    keep_memory()
    device = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = launched() > 1 and (device is None or device.type in ("cpu", "mps"))
    forget_earlier()
    if timeout is not None:
        wait = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))
        settings = {**settings, "kwargs_handlers": [wait]}
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=on_cpu, **settings)
    except (ValueError, ImportError) as error:
        raise refused(error) from None
    if on_cpu:
        settle_at_exit()
    if accelerator.num_processes != launched():
        raise OptionError(
            f"accelerate launch: {launched()} processes were launched, but each would train alone. "
            "Use accelerate_configs/cpu_2_processes.yaml or accelerate_configs/multi_gpu.yaml."
        )
    share_cores(accelerator)
    dynamo = accelerator.state.dynamo_plugin
    if dynamo.use_regional_compilation and not accelerator.is_fsdp2:
        raise OptionError(
            "accelerate launch: --dynamo_use_regional_compilation trains a copy of the network, "
            "to which freezing and other changes during training do not apply. Leave it out; the "
            "network is then compiled as a whole."
        )
    return accelerator
