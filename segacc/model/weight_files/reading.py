"""Reads a single file of weights, as torch.save or safetensors write it, without running its code.

A checkpoint of mmengine or Lightning holds more than tensors. torch's unpickler for weights builds
none of it: objects of these packages are replaced by empty ones, and any other object is refused.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from segacc.errors import WeightsError, first_of, refuse_special

MAX_FILE_BYTES = 16 << 30
"""Limit on the size of a file; a network of 400 million parameters with Adam's state has 5 GB."""
LEFT_OUT = re.compile(
    r"(mmengine|mmcv|mmseg|mmpretrain|numpy|lightning|lightning_fabric|pytorch_lightning)\."
    r"|builtins\.getattr$"  # a method, as in mmengine's HistoryBuffer
)
"""Objects that a training loop stores beside the weights: logs, counters, settings."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys of a checkpoint under which the weights are."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before each name."""
ATTRIBUTES = ("model", "net", "network")
"""Usual names of the network in a module of Lightning, which come before each name too."""
ALONE = "torch.save(model.state_dict(), 'weights.pth')"


@dataclass(frozen=True)
class Stored:
    """The content of a file of weights."""

    tensors: dict[str, Tensor]
    """On the CPU, by the names in the file, without the prefixes of wrappers."""
    class_names: tuple[str, ...] = ()
    """Class names that mmsegmentation stored beside the weights; empty if there are none."""
    config: str = ""
    """The configuration that it stored there, as text; empty if there is none."""


class Empty:
    """What an object that is not a tensor is replaced by: it takes anything and does nothing."""

    def __new__(cls, *given: Any) -> "Empty":
        """Ignore what the object would be built from."""
        return super().__new__(cls)

    def __init__(self, *given: Any) -> None:
        """Ignore it."""

    def __setstate__(self, state: Any) -> None:
        """Ignore what the object would contain."""


def read_file(path: Path) -> Stored:
    """Read a file of weights.

    Args:
        path: a file of torch.save (the weights alone, or a checkpoint of mmengine or Lightning that
            contains them), or of safetensors.

    Raises:
        WeightsError: it cannot be read, is too large, or has no tensors or other objects than them.
    """
    try:
        size = refuse_special(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}.") from None
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"{path}: it has {size} bytes, and up to {MAX_FILE_BYTES} are read. Save the weights "
            f"alone, without the state of an optimizer: {ALONE}."
        )
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    tensors = _tensors_in(content)
    if not tensors:
        raise WeightsError(
            f"{path}: contains no tensors by name, neither at its top nor under "
            f"{' or '.join(WRAPPERS)}. Save the weights of the network: {ALONE}."
        )
    for name, one in tensors.items():
        _refuse_unusual(path, name, one)
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    config = str(meta.get("cfg") or meta.get("config") or "")  # of mmsegmentation 1.x or 0.x
    return Stored(_without_prefixes(tensors, content), _class_names(meta), config)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except Exception as error:
        raise _damaged(path, error) from None
    return found


def _torch(path: Path) -> Any:
    """Load a file of torch.save; large ones are mapped to memory, not read.

    Raises:
        WeightsError: it is damaged, or contains objects that are neither tensors nor LEFT_OUT.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _refuse_compressed(path)
        others = get_unsafe_globals_in_checkpoint(path) if zipped else []
        if unknown := sorted(name for name in others if not LEFT_OUT.match(name)):
            raise _unsafe(path, first_of(unknown, 3))
        names: Any = [(Empty, name) for name in others]
        with safe_globals(names):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise _unsafe(path, found[1]) from None
        raise _damaged(path, error) from None
    except Exception as error:  # torch and pickle may raise anything for a damaged file
        raise _damaged(path, error) from None


def _refuse_compressed(path: Path) -> None:
    """Refuse a zip file that would expand; torch stores its tensors without compression."""
    with zipfile.ZipFile(path) as archive:
        if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
            raise WeightsError(
                f"{path}: is a compressed zip file, which torch.save does not write. Unpack it, "
                "and give the file of weights in it."
            )


def _unsafe(path: Path, names: str) -> WeightsError:
    return WeightsError(
        f"{path}: contains other objects than tensors ({names}), which could run code when loaded, "
        "so it is refused. Save the weights alone, in the program that wrote the file or with "
        f"the packages that it needs: {ALONE}."
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return WeightsError(
        f"{path}: cannot be read as weights of torch.save or safetensors: {first[:200]}."
    )


def _tensors_in(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name, of the weights in a checkpoint or of the content itself."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping) and (inner := _tensors_in(content[key])):
            return inner
    found = content.items()
    return {name: one for name, one in found if isinstance(name, str) and isinstance(one, Tensor)}


def _refuse_unusual(path: Path, name: str, one: Tensor) -> None:
    """Refuse sparse and quantized tensors, and those that claim to be larger than what is stored.

    Raises:
        WeightsError: it is one of these.
    """
    plain = one.layout == torch.strided and not one.is_quantized and one.device.type == "cpu"
    if plain and one.numel() * one.element_size() <= one.untyped_storage().nbytes():
        return
    raise WeightsError(
        f"{path}: {name} is a sparse, quantized or expanded tensor, which is not supported. Save "
        "the weights of the network in float32."
    )


def _without_prefixes(tensors: dict[str, Tensor], content: Any) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers; in a checkpoint of Lightning, the network's attribute."""
    lightning = ATTRIBUTES if "pytorch-lightning_version" in content else ()
    for prefix in (*(f"{name}." for name in lightning), *PREFIXES):
        tensors = {name.removeprefix(prefix): one for name, one in tensors.items()}
    return tensors


def _class_names(meta: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the class names in the `meta` of mmsegmentation, 0.x or 1.x."""
    more = meta.get("dataset_meta")
    names = more.get("classes") if isinstance(more, Mapping) else meta.get("CLASSES")
    usable = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
    return tuple(names) if usable else ()  # type: ignore[arg-type]
