"""`segacc info`: versions, devices, what accelerate would start, installed extras and plugins."""

import json
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from segacc.commands.terminal.console import console_of, quiet_libraries
from segacc.contracts import VERSION
from segacc.data.codecs import decoded_by
from segacc.errors import count_of, reason_of
from segacc.registry import load_registry
from segacc.settings.machine import processors, whole_memory

LIBRARIES = ("torch", "torchvision", "torchcodec", "transformers", "accelerate", "datasets")
"""Libraries whose versions are printed; what else segacc needs rarely matters."""
NOT_FOR_USERS = ("dev", "docs")
"""Extras that only contributors need."""


def info_command(*, as_json: bool) -> int:
    """Print what a report of a problem should contain; return 1 if a plugin is broken."""
    registry = load_registry()
    quiet_libraries()
    found = {
        "segacc": VERSION,
        "system": system(),
        "libraries": {name: installed(name) or "missing" for name in LIBRARIES},
        "images": f"JPEG and PNG are decoded by {decoded_by()}",
        "devices": devices(),
        "segacc train": alone(),
        "accelerate launch": launched(),
        "extras": extras(),
        "plugins": {
            **{one.distribution: one.version for one in registry.offers if not one.built_in},
            **{one.distribution: f"BROKEN: {one.text()}" for one in registry.failures},
        },
    }
    console = console_of()
    if as_json:
        console.out(json.dumps(found, indent=1, ensure_ascii=False), highlight=False)
    else:
        show(console, found)
    return 1 if registry.failures else 0


def show(console: Console, found: dict[str, Any]) -> None:
    """Print a row for each entry, and for each part of one that has several."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in found.items():
        for number, row in enumerate(_rows(value)):
            table.add_row("" if number else name, row)
    console.print(table, markup=False, highlight=False)


def _rows(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name} {one}" for name, one in value.items()] or ["none"]
    return value if isinstance(value, list) else [str(value)]


def system() -> str:
    """Return Python, the operating system, and the cores and memory that it lets segacc use."""
    return (
        f"Python {platform.python_version()}, {platform.platform()}, "
        f"{count_of(processors(), 'core')}, {whole_memory() / 2**30:.0f} GiB of memory"
    )


def installed(name: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def devices() -> list[str]:
    """Return a line for each accelerator that torch finds, or for the CPU if there is none."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return [f"cpu, {count_of(torch.get_num_threads(), 'thread')}"]
    lines = []
    for number in range(torch.accelerator.device_count()):
        line = f"{found.type}:{number}"
        if found.type == "cuda":
            card = torch.cuda.get_device_properties(number)
            line += f", {card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        lines.append(line)
    return lines


def alone() -> str:
    """Return what `segacc train` runs on in this environment, according to accelerate."""
    from accelerate import Accelerator

    state = Accelerator().state
    return (
        f"{count_of(state.num_processes, 'process', 'processes')} on {state.device}, "
        f"mixed precision {state.mixed_precision}"
    )


def launched() -> str:
    """Return what `accelerate launch` starts without further flags."""
    from accelerate.commands.config import config_args

    path = Path(config_args.default_config_file)
    if not path.is_file():
        return "no configuration (`accelerate config` writes one): one process for each GPU"
    try:
        config = config_args.load_config_from_file(str(path)).to_dict()
    except Exception as error:  # a damaged file makes accelerate raise anything
        return f"{path} cannot be read: {reason_of(error)}"
    count = count_of(config["num_processes"], "process", "processes")
    kind = getattr(config["distributed_type"], "value", config["distributed_type"])
    return f"{count}, {kind}, mixed precision {config['mixed_precision']} ({path})"


def extras() -> dict[str, str]:
    """Return for each extra whether its packages are installed, or how to install them."""
    found = {}
    names = metadata("segacc").get_all("Provides-Extra") or ()
    for extra in [name for name in names if name not in NOT_FOR_USERS]:
        packages = {name: installed(name) for name in _packages(extra)}
        missing = [name for name, one in packages.items() if one is None]
        listed = ", ".join(f"{name} {one}" for name, one in packages.items())
        found[extra] = (
            f"not installed: pip install 'segacc[{extra}]'" if missing else f"installed: {listed}"
        )
    return found


def _packages(extra: str) -> Iterator[str]:
    """Yield the distributions that an extra needs."""
    from packaging.requirements import Requirement

    for text in requires("segacc") or ():
        needed = Requirement(text)
        marker = needed.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield needed.name
