"""torchvision's published segmentation weights as folders that transformers and segacc read."""

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
"""What the names of these weights start with, as `torchvision:fcn_resnet50`."""
TIMEOUT = 5.0
"""Seconds without an answer or any data, after which the server counts as out of reach."""


def fetch(name: str) -> str:
    """Return a local folder with torchvision's weights; they are downloaded and converted once.

    Both the file and the folder are kept in torch's hub cache (`TORCH_HOME`).

    Args:
        name: `torchvision:` and torchvision's name of the network, as `fcn_resnet50`.

    Raises:
        WeightsError: torchvision has no such network; or its server cannot be reached within
            seconds and the cache has nothing; or the file is damaged.
    """
    import torch

    weights = published(name)
    folder = Path(torch.hub.get_dir()) / "segacc" / Path(weights.url).stem
    if not folder.is_dir():
        convert(name, weights, download(name, weights), folder)
    return str(folder)


def published(name: str) -> Any:
    """Find torchvision's record of the weights: url, class names.

    Raises:
        WeightsError: there is none.
    """
    from torchvision.models import get_model_weights, list_models, segmentation

    known = list_models(segmentation)
    plain = name.removeprefix(SCHEME)
    if plain not in known:
        listed = ", ".join(SCHEME + one for one in known)
        raise WeightsError(f"{name}: torchvision publishes no such weights. Known: {listed}.")
    return get_model_weights(plain).DEFAULT


def download(name: str, weights: Any) -> dict[str, Any]:
    """Return the tensors by torchvision's names, from the cache where it has them.

    Raises:
        WeightsError: the server is out of reach, or the file is damaged.
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
    except Exception as error:  # of a damaged file torch and pickle raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch would advise to run the code
            place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
            first = (
                f"{place} holds something else than tensors, which could run code and is not read. "
                "Remove it, and it is downloaded again."
            )
        raise WeightsError(
            f"{name}: the weights of {weights.url} are damaged, here in torch's cache or where "
            f"they come from: {first}"
        ) from None
    return state


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Let connections of this process time out: torch's download sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def convert(name: str, weights: Any, state: dict[str, Any], folder: Path) -> None:
    """Write tensors as a folder of transformers, with torchvision's class names; all or nothing."""
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
