"""torchvision's published segmentation weights, converted to folders in transformers' format."""

import contextlib
import http.client
import pickle
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segacc.errors import WeightsError

SCHEME = "torchvision:"
"""Prefix of the names of these weights, as in `torchvision:fcn_resnet50`."""
TIMEOUT = 5.0
"""Seconds without a response or data until a download is given up."""


def fetch(name: str) -> str:
    """Return a local folder with torchvision's weights, which are downloaded and converted once.

    Both the file and the folder are stored in torch's hub cache (`TORCH_HOME`).

    Args:
        name: `torchvision:` and torchvision's name of the network, e.g. `torchvision:fcn_resnet50`.

    Raises:
        WeightsError: torchvision has no such network; its server is unreachable and the weights are
            not cached; or the file is damaged.
    """
    import torch

    weights = published(name)
    folder = Path(torch.hub.get_dir()) / "segacc" / Path(weights.url).stem
    if not folder.is_dir():
        convert(name, weights, download(name, weights), folder)
    return str(folder)


def published(name: str) -> Any:
    """Return torchvision's weights entry, with URL and class names.

    Raises:
        WeightsError: there is no such entry.
    """
    from torchvision.models import get_model_weights, list_models, segmentation

    known = list_models(segmentation)
    plain = name.removeprefix(SCHEME)
    if plain not in known:
        listed = ", ".join(SCHEME + one for one in known)
        raise WeightsError(f"{name}: torchvision has no such weights. Known: {listed}.")
    return get_model_weights(plain).DEFAULT


def download(name: str, weights: Any) -> dict[str, Any]:
    """Return the tensors by torchvision's names, from the cache or downloaded.

    Raises:
        WeightsError: the server is unreachable, or the file is damaged.
    """
    import torch

    try:
        with impatient(), contextlib.redirect_stdout(sys.stderr):
            state: dict[str, Any] = weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"{weights.url} cannot be reached ({error}) and {name} is not in torch's cache. Give "
            "--weights FOLDER with weights on disk, or --weights none to start at random without "
            "this message."
        ) from None
    except Exception as error:  # torch and pickle may raise anything for a damaged file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(
            error, pickle.UnpicklingError
        ):  # torch's own message suggests loading it anyway
            path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
            first = (
                f"{path} contains other objects than tensors, which could run code when loaded. "
                "Delete it to download it again."
            )
        raise WeightsError(
            f"{name}: the weights from {weights.url} are damaged, in torch's cache or at "
            f"their source: {first}"
        ) from None
    return state


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Set a timeout for this process's connections, because torch's download has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def convert(name: str, weights: Any, state: dict[str, Any], folder: Path) -> None:
    """Write tensors as a transformers folder with torchvision's class names, atomically."""
    from safetensors.torch import save_file

    from segacc.model.networks.configs import TORCHVISION_CONFIGS

    kind, _, backbone = name.removeprefix(SCHEME).partition("_")
    config_class, network = TORCHVISION_CONFIGS[kind]
    names = weights.meta["categories"]
    config = config_class(
        backbone=backbone,
        id2label=dict(enumerate(names)),
        label2id={label: k for k, label in enumerate(names)},
        architectures=[network],
    )
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    part.mkdir(parents=True)
    try:
        config.save_pretrained(part)
        whole = {key: tensor.contiguous() for key, tensor in state.items()}
        save_file(whole, part / "model.safetensors", metadata={"format": "pt"})
        with contextlib.suppress(OSError):  # another process was faster
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
