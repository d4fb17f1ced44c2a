"""Where initial weights come from: a folder, the Hub, torchvision, or nowhere."""

import contextlib
import http.client
import pickle
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segacc.errors import WeightsError, expand

HUB_TIMEOUT = 5.0
"""Seconds without a response or data until the Hub or torchvision counts as out of reach."""
TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's weights, as in `torchvision:fcn_resnet50`."""
WEIGHT_FILES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
"""Endings of single files of weights."""
INSTEAD = (
    "Give --weights FOLDER with weights on disk, or --weights none to start from random weights "
    "without this message."
)


@dataclass(frozen=True)
class Source:
    """A decision, made once and shared by all processes."""

    folder: str | None
    """A folder to load from, or None for random weights."""
    name: str
    """What to call it."""
    warning: str = ""
    """A warning that is shown prominently."""
    error: Exception | None = None
    """What the main process met; all processes raise it together."""


def choose(given: str, default_id: str | None) -> Source:
    """Decide where the weights come from, and fetch them when they are on the Hub.

    Args:
        given: `auto`, `none`, a folder or a Hub id.
        default_id: the architecture's published weights, for `auto`.

    Raises:
        WeightsError: a folder or Hub id that the user typed is not there.
    """
    if given == "none" or (given == "auto" and default_id is None):
        return Source(None, "random")
    if given == "auto":
        assert default_id is not None
        try:
            return Source(fetch(default_id), default_id)
        except WeightsError as error:
            return Source(
                None,
                f"random ({default_id} could not be loaded)",
                f"STARTING FROM RANDOM WEIGHTS: {error}",
            )
    return Source(find(given), given)


def find(
    given: str,
    *,
    only_config: bool = False,
    where: str = "--weights",
    instead: str = INSTEAD,
) -> str:
    """Return the folder that the user typed, or one with what the Hub has under that id.

    Args:
        given: a folder or a Hub id.
        only_config: config.json is enough.
        where: where it was typed.
        instead: what to do if the Hub cannot be reached.

    Raises:
        WeightsError: neither is there.
    """
    if folder := local_folder(given, where):
        return str(folder)
    try:
        return fetch(given, only_config=only_config, instead=instead)
    except WeightsError as error:
        raise WeightsError(f"{where} {given}: there is no such folder; {error}") from None


def local_folder(given: str, where: str) -> Path | None:
    """Return an existing folder; None for a Hub id, which has the form USER/NAME.

    Raises:
        WeightsError: it is a file, or by its form no Hub id.
    """
    folder = expand(given, where)
    if folder.is_dir():
        return folder
    if folder.suffix in WEIGHT_FILES and folder.exists():
        raise WeightsError(
            f"{where}: {given} is a file of weights, which does not describe its network. Give a "
            "model folder, or start a run from it: segacc train --arch NAME --weights FILE."
        )
    if folder.exists():
        raise WeightsError(f"{where}: {given} is a file; give the folder that holds it.")
    if given.count("/") > 1 or given.startswith((".", "/", "~", "\\")):
        raise WeightsError(f"{where}: no such folder: {given}.")
    if "/" not in given and not given.startswith(TORCHVISION):
        raise WeightsError(
            f"{where}: no such folder: {given}. A model of the Hub is given as USER/NAME."
        )
    return None


def weight_file(given: str, where: str) -> Path | None:
    """Return an existing file of weights; None for anything else.

    Raises:
        WeightsError: it is part of a model folder.
    """
    path = expand(given, where)
    if path.suffix not in WEIGHT_FILES or path.is_dir() or not path.exists():
        return None
    if path.suffix in (".bin", ".safetensors") and (path.parent / "config.json").is_file():
        raise WeightsError(f"{where}: {given} is a file; give the folder that holds it.")
    return path


def fetch(hub_id: str, *, only_config: bool = False, instead: str = INSTEAD) -> str:
    """Return a local folder with the weights of a Hub id; from the cache when out of reach.

    `snapshot_download` alone would wait without a time limit for a Hub that does not answer.

    Args:
        hub_id: NAME or USER/NAME, or `torchvision:NAME`.
        only_config: fetch the JSON files only.
        instead: what to do if the Hub cannot be reached.

    Raises:
        WeightsError: the Hub cannot be reached within seconds and the cache has nothing, or the id
            is unknown.
    """
    if hub_id.startswith(TORCHVISION):
        return fetch_torchvision(hub_id)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(hub_id, timeout=HUB_TIMEOUT)
        found = [file.rfilename for file in info.siblings or []]
        safe = any(name.endswith(".safetensors") for name in found)
        wanted = ["*.json"] if only_config else ["*.json", "*.safetensors" if safe else "*.bin"]
        needed = [name for name in found if name.endswith(wanted[-1][1:])]
        if not needed:
            raise WeightsError(f"the Hub's {hub_id} holds no file {wanted[-1]}.")
        knock(hub_id, needed[0])
        return str(snapshot_download(hub_id, allow_patterns=wanted, etag_timeout=HUB_TIMEOUT))
    except WeightsError:
        raise
    except HFValidationError:
        raise WeightsError(f"{hub_id} is no Hub id, which has the form USER/NAME.") from None
    except RepositoryNotFoundError as error:
        first = str(error).strip().splitlines()[0]
        raise WeightsError(f"the Hub does not give {hub_id}: {first}") from None
    except Exception as error:  # offline, a Hub in trouble, or what its HTTP library raises
        if folder := cached(hub_id):
            return folder
        raise WeightsError(
            f"{trouble(error)} and {hub_id} is not in the local cache. {instead}"
        ) from None


def trouble(error: Exception) -> str:
    """Return in a few words why the Hub gave nothing: refused, faulty, an imposter, or away."""
    status, kind = getattr(getattr(error, "response", None), "status_code", 0), type(error).__name__
    if status in (401, 403):
        return f"the Hub refuses access (HTTP {status}; `hf auth login` logs in)"
    if status >= 400:
        return f"the Hub answers with an error (HTTP {status})"
    if isinstance(error, ValueError | TypeError | KeyError | AttributeError):
        return f"what answers is not the Hub ({kind}), but perhaps a login page or a proxy,"
    return f"the Hub cannot be reached ({kind})"


def knock(
    hub_id: str, file: str, *, repo_type: str | None = None, revision: str | None = None
) -> None:
    """Ask the Hub's file store for the first byte of a file, which a firewall may never answer."""
    from huggingface_hub import get_session, get_token, hf_hub_url, hf_raise_for_status

    url, token = hf_hub_url(hub_id, file, repo_type=repo_type, revision=revision), get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with get_session().stream(
        "GET", url, headers=headers, timeout=HUB_TIMEOUT, follow_redirects=True
    ) as answer:
        hf_raise_for_status(answer)


def cached(hub_id: str) -> str | None:
    """Return the folder of a Hub id in the Hub's cache, or None if it holds no weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for weights in ("*.safetensors", "*.bin"):  # as `fetch` asks: other files were never wanted
        with contextlib.suppress(LocalEntryNotFoundError):
            wanted = ["*.json", weights]
            folder = snapshot_download(hub_id, allow_patterns=wanted, local_files_only=True)
            if any(Path(folder).glob(weights)):
                return str(folder)
    return None


def fetch_torchvision(name: str) -> str:
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
        _convert(name, weights, _download(name, weights), folder)
    return str(folder)


def published(name: str) -> Any:
    """Return torchvision's weights entry, with URL and class names.

    Raises:
        WeightsError: there is no such entry.
    """
    from torchvision.models import get_model_weights, list_models, segmentation

    known = list_models(segmentation)
    plain = name.removeprefix(TORCHVISION)
    if plain not in known:
        listed = ", ".join(TORCHVISION + one for one in known)
        raise WeightsError(f"{name}: torchvision has no such weights. Known: {listed}.")
    return get_model_weights(plain).DEFAULT


def _download(name: str, weights: Any) -> dict[str, Any]:
    """Return the tensors by torchvision's names, from the cache or downloaded.

    Raises:
        WeightsError: the server is unreachable, or the file is damaged.
    """
    import torch

    try:
        with _impatient(), contextlib.redirect_stdout(sys.stderr):
            state: dict[str, Any] = weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"{weights.url} cannot be reached ({error}) and {name} is not in torch's cache. "
            f"{INSTEAD}"
        ) from None
    except Exception as error:  # torch and pickle may raise anything for a damaged file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch suggests loading it anyway
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
def _impatient() -> Iterator[None]:
    """Set a timeout for this process's connections, because torch's download has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(HUB_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _convert(name: str, weights: Any, state: dict[str, Any], folder: Path) -> None:
    """Write tensors as a transformers folder with torchvision's class names, atomically."""
    from safetensors.torch import save_file

    from segacc.model.networks.configs import TORCHVISION_CONFIGS

    kind, _, backbone = name.removeprefix(TORCHVISION).partition("_")
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
