"""Run an exported file with ONNX Runtime, OpenVINO or torch, as a SegmentationModel.

Nothing here imports torch or a runtime before a file is opened.
"""

import functools
import importlib
import json
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from segacc.errors import OptionError, WeightsError

SIDE_FILE = "segacc.json"
"""Name of the description inside a file: the content of a model folder's file of this name, and
`file`, which describes input and output."""
RUNTIMES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",), ".pt2": ("torch",)}
"""The runtimes of each kind of file by its ending, the default one first."""
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
"""The ending of each format's file."""
EXTRAS = {"openvino": "openvino", "peft": "lora"}
"""The extra of segacc that installs a package; `export` for all others."""
PACKAGES = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "torch": ()}
"""The packages of each runtime."""

Runtime = Literal["auto", "torch", "onnxruntime", "openvino"]
"""What runs a model; `auto` decides by the ending of a file."""
Session = Callable[[Any], Any]
"""Maps images (N, C, H, W) uint8 or float32 to the file's output; both are tensors."""


def is_exported(path: Path) -> bool:
    """Return whether a path is that of an exported file, by its ending."""
    return path.suffix in RUNTIMES and path.is_file()


def need(packages: tuple[str, ...], why: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        OptionError: one is missing; the message begins with `why` it is needed.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        extra = EXTRAS.get(missing[0], "export")
        raise OptionError(
            f"{why} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed. Install with `pip install 'segacc[{extra}]'`."
        )


def runtime_of(path: Path, asked: str, where: str) -> str:
    """Return the runtime of a model: the one that was asked for, or by the ending of a file.

    Args:
        path: an exported file, or a model folder.
        asked: `auto`, `torch`, `onnxruntime` or `openvino`.
        where: where it was typed.

    Raises:
        OptionError: it cannot run this file, or its package is missing.
    """
    able = RUNTIMES[path.suffix] if is_exported(path) else ("torch",)
    chosen = able[0] if asked == "auto" else asked
    if chosen not in able:
        kind = f"{path.suffix} files" if is_exported(path) else "model folders"
        more = "" if is_exported(path) else "; `segacc export` writes a file for the others"
        raise OptionError(f"{where}: {kind} are run by {' or '.join(able)}, not {asked}{more}.")
    need(PACKAGES[chosen], f"{path}: {chosen}")
    return chosen


def description(path: Path) -> dict[str, Any]:
    """Return the description that `segacc export` stored in a file.

    Raises:
        WeightsError: it has none, or the file is damaged.
    """
    return json.loads(_text(path, path.stat().st_mtime_ns))  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=8)
def _text(path: Path, changed: int) -> str:
    readers = {".onnx": _in_onnx, ".xml": _in_openvino, ".pt2": _in_pt2}
    try:
        found = readers[path.suffix](path)
        complete = isinstance(json.loads(found or ""), dict)
    except ValueError:
        complete = False
    except Exception as error:  # a runtime may raise anything for a damaged file
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path}: cannot be read: {reason}. Export it again.") from None
    if not complete:
        raise WeightsError(
            f"{path}: has no description of its classes, sizes and normalization, which `segacc "
            "export` writes into its files; other files cannot be used."
        )
    return found


def _in_onnx(path: Path) -> str:
    need(PACKAGES["onnxruntime"], str(path))
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return str(session.get_modelmeta().custom_metadata_map.get(SIDE_FILE, ""))


def _in_openvino(path: Path) -> str:
    root = ElementTree.parse(path).getroot()
    found = root.find("rt_info/segacc")
    return "" if found is None else found.get("value", "")


def _in_pt2(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/extra/{SIDE_FILE}")]
        return archive.read(names[0]).decode() if names else ""


def open_session(path: Path, runtime: str, device: str, threads: int = 0) -> Session:
    """Open a file with a runtime, on all cores of the CPU or on a GPU.

    Args:
        path: the file.
        runtime: see `runtime_of`.
        device: the device of the images; for ONNX Runtime on `cuda`, its CUDA provider is used if
            it is installed.
        threads: number of threads of ONNX Runtime or OpenVINO on the CPU; 0 for all cores. torch
            has its own setting.

    Raises:
        WeightsError: the runtime cannot open the file.
    """
    openers = {"onnxruntime": _onnxruntime, "openvino": _openvino, "torch": _torch}
    try:
        return openers[runtime](path, device, threads)
    except Exception as error:  # see `_text`
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path}: {runtime} cannot open it: {reason}.") from None


def _onnxruntime(path: Path, device: str, threads: int) -> Session:
    import torch

    runtime: Any = importlib.import_module("onnxruntime")
    runtime.set_default_logger_severity(3)  # errors only
    able = runtime.get_available_providers()
    cuda = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    wanted = [one for one in (*cuda, "CPUExecutionProvider") if one in able]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(path, options, providers=wanted)
    name = session.get_inputs()[0].name

    def run(images: Any) -> Any:
        return torch.from_numpy(session.run(None, {name: images.cpu().numpy()})[0])

    return run


def _openvino(path: Path, device: str, threads: int) -> Session:
    import torch

    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    # In float32: the default on some processors is bfloat16, whatever the file's precision.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    compiled = core.compile_model(path, "CPU", settings)

    def run(images: Any) -> Any:
        return torch.from_numpy(compiled(images.cpu().contiguous().numpy())[0].copy())

    return run


def _torch(path: Path, device: str, threads: int) -> Session:
    import torch
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(path)
    if device != "cpu":
        program = move_to_device_pass(program, device)
    return traced_session(program, path)


def traced_session(program: Any, where: object) -> Session:
    """Return the session of a torch.export.ExportedProgram.

    Args:
        program: the program.
        where: its file or network, for errors.
    """
    import torch

    module = program.module()

    def run(images: Any) -> Any:
        try:
            with torch.no_grad():
                return module(images)
        except AssertionError as error:  # a guard of torch.export
            size = "x".join(map(str, images.shape[-2:]))
            raise OptionError(
                f"{where}: was not traced for images of {size}: {' '.join(str(error).split())}. "
                "Export the model with --size HxW, or as ONNX."
            ) from None

    return run
