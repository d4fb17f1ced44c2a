"""Whose fault an error is that nobody expected: a plugin's, the disk's or the memory's."""

import traceback
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from segacc import registry
from segacc.errors import (
    SHOW_TRACEBACK,
    PluginError,
    SegaccError,
    WriteError,
    is_memory_full,
    is_peer_lost,
    reason_of,
)


def fault_of_a_plugin(error: Exception) -> str:
    """Return the paragraph about an error in a plugin's code; empty if there was none of it.

    Errors in the code that is called most are named where they arise, with component and step; this
    is for all others, such as those of a hook's functions and of a backward pass.
    """
    owners = {
        point.module.partition(".")[0]: f"plugin {name} {version}"
        for name, version, point in registry.installed_plugins()
    }
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in owners:
            name = frame.f_code.co_qualname.rpartition("<locals>.")[2]
            reason = reason_of(error, package)
            return f"{owners[package]}: {name}() failed: {reason}. {SHOW_TRACEBACK}"
    return ""


def failure_to_write(
    error: Exception, folder: Path, room: Callable[[Path], str]
) -> SegaccError | None:
    """Return what to tell about an error while a folder was written; None to raise it as it is.

    A full disk is an OSError, or a RuntimeError out of torch.save.

    Args:
        error: the error.
        folder: the folder.
        room: returns the sentences about the space on its disk.
    """
    if isinstance(error, SegaccError) or is_peer_lost(error):  # sharded weights are gathered
        return None
    reason, rest = " ".join(str(error).split()).rstrip("."), "Files written earlier are complete."
    if is_memory_full(error):
        return WriteError(f"{folder}: cannot be written, as the memory is full: {reason}. {rest}")
    passed = [
        frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    disk = isinstance(error, OSError | SafetensorError) or "torch.serialization" in passed
    if not disk and (fault := fault_of_a_plugin(error)):
        return PluginError(fault)
    if disk or isinstance(error, RuntimeError):
        return WriteError(f"{folder}: cannot be written: {reason}. {room(folder)}{rest}")
    return None
